"""Which settings to change so that a run fits: the cheapest first, what changes the experiment last."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from spiral.plan.memory import publishes_from_gpu
from spiral.plan.tokens import TokenBudget
from spiral.runs.recipe import Recipe

Settings = dict[str, bool | int | float | str]
"""`section.key` to a value."""
MOST_DEVICES = 64
FEWEST_NEW_TOKENS = 64
SHARES = tuple(percent / 100 for percent in range(5, 100, 5))


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with some settings changed."""
    for name, value in settings.items():
        section, _, key = name.partition(".")
        changed = getattr(recipe, section).model_copy(update={key: value})
        recipe = recipe.model_copy(update={section: changed})
    return recipe


def find_remedy(recipe: Recipe, budget: TokenBudget, fits: Callable[[Recipe], bool], gpu: bool) -> Settings | None:
    """Settings with which `fits` holds: a single one if there is one, else several together, or None.

    Of each setting the smallest change that helps is taken; several together go as far as each can.
    """
    families = [list(family) for family in _families(recipe, budget, gpu)]
    for family in families:
        for settings in family:
            if fits(with_settings(recipe, settings)):
                return settings
    together: Settings = {}
    for family in families:
        for settings in family:
            if fits(with_settings(recipe, together | settings)):
                return together | settings
        together |= family[-1] if family else {}
    return None


def _families(recipe: Recipe, budget: TokenBudget, gpu: bool) -> Iterator[Iterator[Settings]]:
    """For each setting the values to try, from the smallest change to the largest."""
    yield _checkpointing(recipe)
    yield _halved("learner.tokens_per_microbatch", recipe.learner.tokens_per_microbatch, budget.longest_sample)
    if gpu:
        yield _publish(recipe)
    if recipe.engine.kind == "vllm":
        yield _shares(recipe.engine.memory_share)
        yield _halved("engine.context", budget.context, budget.longest_sample)
    else:
        yield _halved("engine.max_rows", recipe.engine.max_rows, 1)
    yield _compute(recipe)
    if gpu:  # on a CPU more processes share one memory
        yield _devices(recipe)
    yield _halved("sampling.max_new_tokens", recipe.sampling.max_new_tokens, FEWEST_NEW_TOKENS)


def _checkpointing(recipe: Recipe) -> Iterator[Settings]:
    if not recipe.learner.gradient_checkpointing:
        yield {"learner.gradient_checkpointing": True}


def _halved(name: str, value: int, least: int) -> Iterator[Settings]:
    """Half, a quarter, and so on, down to `least`."""
    while value > least:
        value = max(least, value // 2)
        yield {name: value}


def _shares(share: float) -> Iterator[Settings]:
    """Other shares, the nearest first."""
    others = [other for other in SHARES if abs(other - share) > 1e-9]
    for other in sorted(others, key=lambda other: (round(abs(other - share), 9), other)):
        yield {"engine.memory_share": other}


def _compute(recipe: Recipe) -> Iterator[Settings]:
    if recipe.model.compute == "float32":
        yield {"model.compute": "bfloat16"}


def _publish(recipe: Recipe) -> Iterator[Settings]:
    """Through main memory, so that no copy of the weights stays on the learner's devices."""
    if publishes_from_gpu(recipe):
        yield {"cluster.publish": "object_store"}


def _devices(recipe: Recipe) -> Iterator[Settings]:
    """Twice as many, and so on, and as many learner workers where there is a cluster of them.

    The learner is sharded when it computes in bfloat16.
    """
    devices = recipe.hardware.devices
    precision: Settings = {} if recipe.model.compute == "bfloat16" else {"model.compute": "bfloat16"}
    spread = recipe.cluster.rollout_workers > 0
    while 2 * devices <= MOST_DEVICES:
        devices *= 2
        yield precision | {"hardware.devices": devices} | ({"cluster.learner_workers": devices} if spread else {})
