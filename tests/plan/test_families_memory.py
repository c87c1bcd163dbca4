"""What is planned for models with windows, states and experts is what their engine really keeps."""

from __future__ import annotations

import pytest
import torch

from families import family_model
from spiral.inference.slot_cache import SlotLayer, StateLayer
from spiral.inference.texts import CachedTexts
from spiral.plan import describe, make_plan
from spiral.plan.memory import model_shape
from spiral.runs.recipe import validate_recipe

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

NAMES = ["llama", "mistral-window", "gemma4-shared", "qwen3-5", "lfm2", "falcon-h1", "mamba", "gpt-oss", "qwen3-moe"]


def kept(model):
    """Numbers kept of a token and of a reply by a cache that holds one text of eight tokens."""
    texts = CachedTexts(model)
    with torch.no_grad():
        texts.add(torch.arange(8)[None], [8])
    layers = [layer for layer in texts.cache.layers if isinstance(layer, SlotLayer) and layer.is_initialized]
    keys = sum(side[0, :, 0].numel() for layer in layers for side in (layer.keys, layer.values))
    states = [layer for layer in texts.cache.layers if isinstance(layer, StateLayer)]
    parts = [part for layer in states for kept in (layer.conv_states, layer.recurrent_states) for part in kept.values()]
    return keys, sum(part.numel() for part in parts if part is not None)


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_is_counted_as_it_is(name):
    model = family_model(name, 300)
    shape = model_shape(model.config)
    assert shape.parameters == model.num_parameters()
    assert (shape.kept_per_token, shape.kept_per_reply) == kept(model)
    assert bool(shape.pads) == (name in {"qwen3-5", "lfm2", "falcon-h1", "mamba", "gpt-oss"})
    assert bool(shape.unknown) == (name in {"qwen3-5", "lfm2", "falcon-h1", "mamba"})


def test_a_plan_says_what_it_does_not_know():
    values = {
        "model": {"path": "nano"},
        "engine": {"kind": "transformers", "context": 256},
        "selfplay": {"games": {"tictactoe": 1.0}, "episodes_per_step": 8},
        "learner": {"layout": "auto"},
        "hardware": {"memory_gib": 4.0},
    }
    plan = make_plan(validate_recipe(values, "test", []), family_model("qwen3-5", 300).config)
    text = "\n".join(describe(plan))
    assert (
        "padded: its layers of the kind linear_attention do not see where a sample begins; layers of the kind" in text
    )
    assert "layers of the kind linear_attention are counted like attention" in text
    assert "keys and values and states" in text
