"""The opponent sampler that a recipe names in `selfplay.opponent_sampler`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from spiral.core.plugins import construct, resolve
from spiral.core.records import past_self
from spiral.rollout.opponents.base import OpponentSampler
from spiral.rollout.opponents.fixed import FixedOpponents
from spiral.rollout.opponents.past_selves import PastSelves
from spiral.rollout.opponents.pfsp import Pfsp

SAMPLERS: Mapping[str, type[OpponentSampler]] = {"fixed": FixedOpponents, "past_selves": PastSelves, "pfsp": Pfsp}
"""The built-in samplers by their name in a recipe."""


class SamplerSettings(Protocol):
    """The settings of `[selfplay]` that a sampler is made from."""

    @property
    def opponents(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def opponent_sampler(self) -> str: ...  # noqa: D102
    @property
    def opponent_options(self) -> Mapping[str, object]: ...  # noqa: D102


def find_sampler(name: str) -> Callable[..., object]:
    """Return the class or function called `name`. Raise `ValueError` where there is none."""
    return resolve("opponents", name, SAMPLERS)


def make_sampler(config: SamplerSettings) -> OpponentSampler:
    """Return the opponent sampler of a recipe, in its first state.

    Raises:
        ValueError: There is no such sampler, or it does not take its options.
    """
    name, argument = config.opponent_sampler, ("opponents", config.opponents)
    return construct(
        "opponent sampler",
        name,
        find_sampler(name),
        OpponentSampler,  # type: ignore[type-abstract]
        argument,
        config.opponent_options,
        "selfplay.opponent_sampler",
    )


def plays_past_selves(config: SamplerSettings) -> bool:
    """Return whether the opponent sampler of a recipe plays past selves. Raise `ValueError` where there is none."""
    return bool(getattr(find_sampler(config.opponent_sampler), "plays_past_selves", False))


def most_past_selves(config: SamplerSettings, steps: int, checkpoint_every: int) -> int:
    """Return how many past selves a run holds at most: those that left the sampler go with the next checkpoint."""
    if not plays_past_selves(config):
        return 0
    sampler, held, most = make_sampler(config), set[str](), 0
    for step in range(steps + 1):
        if sampler.keeps(step):
            sampler.add_past_self(step, past_self(step))
            held.add(past_self(step))
            most = max(most, len(held))
        if step % checkpoint_every == 0:
            held &= set(sampler.past_selves())
    return most
