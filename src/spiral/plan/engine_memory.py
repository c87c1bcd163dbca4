"""How much memory of a device the engine takes, beside the learner or on a device of its own.

Its own weights, unless it computes with the learner's; keys and values of the replies in flight; what a token is drawn
from. vLLM takes a share of the device's memory (`engine.memory_share`) and fills it: with everything on a GPU, with
weights and keys and values on a CPU. An engine that sleeps while the learner updates (`engine.sleep`) holds these only
while it is playing.

Left out: the copy that a growing cache makes of itself, and what vLLM keeps of a share that is not free when it starts.
"""

from __future__ import annotations

import math

from spiral.inference.slot_cache import round_up
from spiral.plan.memory import Item, ModelShape, Phase, cache_bytes, copies_head, make_item, number_size
from spiral.plan.tokens import TokenBudget
from spiral.runs.hardware import GIB
from spiral.runs.recipe import Recipe

SAMPLING_BYTES = 32
"""A logit's worth of memory when a token is drawn from it: float32 and float64 probabilities and their sums."""
CACHE_SLACK = 1.5
"""Storage for keys and values grows in steps, so some of it is not in use."""
VLLM_WORKING_GIB = 1.0
"""What vLLM needs for activations and CUDA graphs: an allowance, not a measurement."""
VLLM_LOGIT_ARRAYS = 3
"""Float32 arrays of logits, one row for every reply it may hold, that vLLM draws from."""


def engine_items(
    recipe: Recipe, shape: ModelShape, budget: TokenBudget, memory_gib: float, gpu: bool, *, measures: bool = True
) -> list[Item]:
    """What one engine holds on a device of `memory_gib`; in a cluster one of them `measures` too."""
    rows = rows_in_flight(recipe, measures)
    if recipe.engine.kind == "vllm":
        return _vllm(recipe, shape, rows, memory_gib, gpu)
    return _transformers(recipe, shape, budget, rows, gpu)


def rows_in_flight(recipe: Recipe, measures: bool = True) -> int:
    """Replies that an engine generates at once, in self-play or in evaluation.

    Of a step's games a rollout worker is counted with up to twice its part, for those that are faster play more.
    """
    playing = min(recipe.selfplay.in_flight, recipe.selfplay.episodes_per_step)
    if recipe.cluster.rollout_workers:
        playing = min(playing, math.ceil(2 * recipe.selfplay.episodes_per_step / recipe.cluster.rollout_workers))
    if not measures:
        return min(recipe.engine.max_rows, playing)
    measuring = min(recipe.evaluation.in_flight, recipe.evaluation.episodes) if recipe.evaluation.games else 0
    return min(recipe.engine.max_rows, max(playing, measuring))


def vllm_cache_tokens(recipe: Recipe, shape: ModelShape, memory_gib: float, gpu: bool) -> int:
    """Tokens whose keys and values fit into vLLM's share of a device; it needs room for one whole context to start."""
    room = recipe.engine.memory_share * memory_gib * GIB - number_size(recipe) * shape.parameters
    if gpu:
        room -= _vllm_working_bytes(shape, recipe.engine.max_rows)
    return max(0, int(room // cache_bytes(shape, number_size(recipe))))


def _vllm(recipe: Recipe, shape: ModelShape, rows: int, memory_gib: float, gpu: bool) -> list[Item]:
    own = number_size(recipe) * shape.parameters
    held = _weights_phase(recipe, gpu)
    room = f"room for {vllm_cache_tokens(recipe, shape, memory_gib, gpu):,} tokens"
    cache = max(0.0, recipe.engine.memory_share * memory_gib * GIB - own)
    items = [
        make_item("vLLM's weights", own, held, recipe.model.compute),
        make_item("vLLM's keys and values", cache, held, room),
    ]
    if not gpu:  # where its share is for weights, keys and values alone
        working = _vllm_working_bytes(shape, rows)
        items.append(make_item("vLLM's working memory and logits", working, "playing"))
    if copies_head(recipe, gpu):
        items.append(make_item("vLLM's output head in float32", 4 * shape.hidden * shape.vocabulary, "playing"))
    return items


def _transformers(recipe: Recipe, shape: ModelShape, budget: TokenBudget, rows: int, gpu: bool) -> list[Item]:
    size = number_size(recipe)
    alone = size == 4 and not recipe.cluster.rollout_workers  # it cannot tell whether its weights are the learner's
    own = 0 if alone and not recipe.lora.rank else size * shape.parameters
    caches: Phase = "playing" if recipe.engine.sleep else "always"
    longest = round_up(budget.longest_sample)
    cache = CACHE_SLACK * rows * longest * cache_bytes(shape, size)
    prefill = rows * round_up(budget.longest_prompt) * size * (3 * shape.intermediate + 3 * shape.hidden)
    drawing = SAMPLING_BYTES * rows * shape.vocabulary
    items = [
        make_item(
            "the engine's weights",
            own,
            "always" if alone else _weights_phase(recipe, gpu),
            recipe.model.compute if own else "shared with the learner",
        ),
        make_item("keys and values", cache, caches, f"{rows:,} replies of up to {longest:,} tokens"),
        make_item("prefill and sampling", prefill + drawing, "playing"),
    ]
    if copies_head(recipe, gpu):
        items.append(make_item("the engine's output head in float32", 4 * shape.hidden * shape.vocabulary, caches))
    return items


def _weights_phase(recipe: Recipe, gpu: bool) -> Phase:
    """When its weights are there. Those that wait in the memory of the CPU free nothing where that is the device."""
    return "playing" if recipe.engine.sleep and gpu else "always"


def _vllm_working_bytes(shape: ModelShape, rows: int) -> float:
    return VLLM_WORKING_GIB * GIB + VLLM_LOGIT_ARRAYS * 4 * rows * shape.vocabulary
