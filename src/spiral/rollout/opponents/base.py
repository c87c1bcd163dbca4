"""The interface of opponent samplers, and how a recipe names one.

A sampler chooses, for every game of a step, who plays against the policy. A recipe names a built-in one, one of an
installed package (entry points of the group `spiral.opponents`), or a class of your own by "module:Class":

    class Alternating(OpponentSampler):
        def __init__(self, opponents, *, period=10):
            self.names, self.period = list(opponents), period

        def sample(self, step, game, count, rng):
            return [self.names[step // self.period % len(self.names)]] * count

    [selfplay]
    opponents = { random = 1.0, "runs/first" = 1.0 }
    opponent_sampler = "my_module:Alternating"
    opponent_options = { period = 20 }
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

from spiral.core.records import PAST, Episode
from spiral.games import Game

MIRROR = "mirror"
"""The opponent that is the policy itself."""
OWN = (MIRROR, PAST)
"""Opponents that are the policy, the current one or that of an earlier step."""


class OpponentSampler(ABC):
    """Chooses opponents by name: `MIRROR` for the policy itself, or a MODEL as for `spiral evaluate`.

    A sampler with `plays_past_selves` may also choose those that the run keeps for it: of every step for which `keeps`
    is true the run saves the weights before the next step begins, calls `add_past_self` with their name, and removes
    them when `past_selves` no longer lists them.

    The constructor is called as `Sampler(opponents, **options)`, with the names and weights of `selfplay.opponents` and
    the recipe's `selfplay.opponent_options`. Samplers run in the process that trains. What they choose may depend only
    on their arguments and their state, so that a resumed run continues as it would have without the interruption.
    """

    plays_past_selves = False
    """Whether it may choose past selves, for which a run shares out its engine among several sets of weights."""

    @abstractmethod
    def sample(self, step: int, game: Game, count: int, rng: random.Random) -> Sequence[str]:
        """Choose the opponents of one kind of game in one step.

        Args:
            step: The training step, from 1.
            game: The game, which has two or more players.
            count: How many games are played; with `selfplay.samples_per_step`, how many at most, of which the step has
                the beginning of an order in which all names take turns.
            rng: Random numbers that follow from the run's seed, the step and the game.

        Returns:
            [count] names. Games against the policy itself train all players; in others the policy is one of the
            players, each in turn, and the opponent all others.
        """

    def known(self, game: Game) -> Collection[str]:
        """Return the opponents that are certain to play `game`; a run loads them at its start.

        Raises:
            ValueError: No opponent can play the game.
        """
        return ()

    def observe(self, step: int, episodes: Sequence[Episode]) -> None:  # noqa: B027
        """Take the episodes of a step, after they were played."""

    def add_checkpoint(self, step: int, name: str) -> None:  # noqa: B027
        """Take the name of a checkpoint that the run has saved, which is a possible opponent from now on."""

    def keeps(self, step: int) -> bool:
        """Return whether the run keeps the policy of this step as a past self. Step 0 is before any training."""
        return False

    def add_past_self(self, step: int, name: str) -> None:  # noqa: B027
        """Take the name of a past self that the run has kept, which is a possible opponent from now on."""

    def past_selves(self) -> Collection[str]:
        """Return the names of all past selves that this sampler may still choose; the run removes the others."""
        return ()

    def metrics(self) -> Mapping[str, float]:
        """Return metrics of the last step that was observed, under `opponents/`."""
        return {}

    def state_dict(self) -> dict[str, object]:
        """Return state that JSON gives back as it is, with texts as keys; it is saved in every checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:  # noqa: B027
        """Take the state of `state_dict`."""
