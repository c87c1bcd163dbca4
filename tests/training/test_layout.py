"""learner.layout = "auto" packs what is exact when packed, pads the rest, and says why."""

from __future__ import annotations

import copy
import dataclasses
import logging
import re

import numpy as np
import pytest
import torch

from families import family_model
from made_up import random_samples
from spiral.policies import SamplingConfig
from spiral.training.batch import make_batch
from spiral.training.layout import chosen_layout, unpackable
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.loss import LossConfig

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

PACKED = ["llama", "mistral-window", "gemma3", "qwen3-moe"]
PADDED = {
    "doge": r"packed and padded rows differ by up to 0\.\d+ nats a token",
    "qwen3-5": r"its layers of the kind linear_attention do not see where a sample begins",
    "gpt-oss": r"its attention is one that only the model itself computes",
    "stablelm": r"does not pass on to attention where samples begin",
    "falcon-alibi": r"its positions are a bias on attention scores",
}


def families_batch():
    """Samples of three games, in turn: each game's prompts begin with tokens of its own."""
    rng = np.random.default_rng(0)
    beginnings = [rng.integers(1, 400, length) for length in (40, 23, 0)]
    made = random_samples(9, 400, 0)
    return make_batch(
        [
            dataclasses.replace(sample, prompt_ids=np.concatenate([beginnings[index % 3], sample.prompt_ids]))
            for index, sample in enumerate(made)
        ]
    )


def learner_of(model, layout, **config):
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(tokens_per_microbatch=400, layout=layout, **config),
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=3,
        seed=0,
    )


def one_by_one(model, batch):
    """[A] log-probabilities by one plain forward pass a sample."""
    scores = []
    for start, length, prompt in zip(batch.starts_S, batch.lengths_S, batch.prompt_lengths_S, strict=True):
        ids = batch.token_ids_L[start : start + length]
        with torch.no_grad():
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0, prompt - 1 :]
        scores.append(logits.log_softmax(-1).gather(-1, ids[prompt:, None]).squeeze(-1))
    return torch.cat(scores).numpy()


@pytest.mark.parametrize("name", PACKED[:3])
def test_what_is_exact_is_packed(name, tokenizer, caplog):
    caplog.set_level(logging.DEBUG)
    model = family_model(name, len(tokenizer))
    attention = model.config._attn_implementation
    assert chosen_layout(model, "auto") == "packed"
    assert "'auto' packs the samples" in caplog.text
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize(("name", "why"), sorted(PADDED.items()))
def test_what_is_not_exact_is_padded(name, why, tokenizer, caplog):
    learner = learner_of(family_model(name, len(tokenizer)), "auto")
    assert learner.layout == "padded"
    (said,) = [record.message for record in caplog.records if "'auto' pads the samples of this model" in record.message]
    assert re.search(why, said)


@pytest.mark.parametrize("window", [1, 5, 30, 1000])
def test_windows_within_packed_samples_and_shared_prefixes(window, tokenizer):
    model = family_model("mistral-window", len(tokenizer))
    model.config.sliding_window = window
    batch = families_batch()
    expected = one_by_one(model, batch)
    for layout in ("packed", "padded"):
        assert np.abs(learner_of(model, layout).score(batch) - expected).max() < 1e-5


def test_a_window_changes_scores(tokenizer):
    """Otherwise the test above would compare nothing."""
    model, batch = family_model("mistral-window", len(tokenizer)), families_batch()
    model.config.sliding_window = 5
    narrow = one_by_one(model, batch)
    model.config.sliding_window = 1000
    assert np.abs(one_by_one(model, batch) - narrow).max() > 0.1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_packed_windows_are_those_of_padded_rows(checkpointing, tokenizer):
    model = family_model("gemma3", len(tokenizer))
    model.config.sliding_window = 9
    for layer in model.model.layers:
        if layer.self_attn.is_sliding:
            layer.self_attn.sliding_window = 9
    moved = []
    for layout in ("packed", "padded"):
        learner = learner_of(model, layout, gradient_checkpointing=checkpointing, learning_rate=1e-3)
        moved.append(learner.update(make_batch(random_samples(8, len(tokenizer), 0)))["learner/grad_norm"])
    assert moved[0] == pytest.approx(moved[1], rel=1e-4)


def test_a_window_that_attention_is_not_told_of_is_padded(tokenizer, caplog):
    model = family_model("gemma3", len(tokenizer))
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    assert chosen_layout(model, "auto") == "padded"
    assert "layers with a window, and tells attention of 0" in caplog.text


def test_an_explicit_layout_is_not_measured(tokenizer):
    model = family_model("qwen3-5", len(tokenizer))
    assert chosen_layout(model, "packed") == "packed"
    assert unpackable(model.config, "sdpa")
    assert not unpackable(family_model("llama", 300).config, "sdpa")
