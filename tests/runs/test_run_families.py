"""What a user types with models of other families: plans, checks, and a vision model whose text part is taken."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from commands import spiral as command
from families import FAMILIES, SMALL, family_model
from spiral.models.loading import load_language_model
from spiral.models.settings import ModelConfig

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


def saved(name, tokenizer, path):
    family_model(name, len(tokenizer) + 8).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_a_plan_says_how_a_hybrid_model_is_trained(tokenizer, tmp_path):
    directory = saved("qwen3-5", tokenizer, tmp_path / "model")
    options = ("--model", directory, "--set", "learner.layout=auto", "--dry-run")
    found = command("train", "nano", *options)
    assert found.status == 0
    assert "padded: its layers of the kind linear_attention do not see where a sample begins" in found.out
    assert "keys and values and states" in found.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral-window-1", "gemma3n", "llama4", "mamba2"])
def test_other_families_pass_the_check(name, tokenizer, tmp_path):
    found = command("check", saved(name, tokenizer, tmp_path / "model"))
    assert (found.status, found.out.endswith("all checks passed\n")) == (0, True), found.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3-5", "gemma4-shared", "gpt-oss", "lfm2", "granite-scaled"])
def test_families_agree_in_bfloat16(name, tokenizer, tmp_path):
    found = command("check", saved(name, tokenizer, tmp_path / "model"), "--compute", "bfloat16", "--json")
    assert found.status == 0, found.err
    assert found.json["agrees"]
    assert 1e-5 < max(row["mean"] for row in found.json["differences"]) < 0.15


def test_the_text_part_of_a_vision_model_is_taken(tokenizer, tmp_path):
    text = {**SMALL, **FAMILIES["qwen3-5"][1], "vocab_size": len(tokenizer) + 8, "eos_token_id": None}
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision)).eval()
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_language_model(ModelConfig(path=str(tmp_path), device="cpu")).model
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits, whole(input_ids=ids).logits
    assert type(model).__name__ == "Qwen3_5ForCausalLM"
    assert torch.allclose(ours, theirs, atol=1e-5)
