"""The interface of an advantage estimator, and code that its implementations share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spiral.core.metrics import Metrics
from spiral.core.records import Episode

if TYPE_CHECKING:
    from torch import Tensor

TurnAdvantages = NDArray[np.float64]
"""[turns] of an episode: the advantage of the player who took each turn."""
TokenAdvantages = list[NDArray[np.float64]]
"""For each turn of an episode an array [T] of its action tokens."""
TurnValues = NDArray[np.float64]
"""[turns] of an episode: the value of what the player of each turn saw, in the units of `Episode.rewards`."""
Advantages = Sequence[TurnAdvantages | TokenAdvantages]
"""One entry per episode, in input order."""


class AdvantageEstimator(Protocol):
    """Computes advantages from the episodes of a step.

    A class whose state must survive from step to step also has `state_dict()`, which returns a dictionary that JSON
    gives back as it is (numbers, texts, lists, and dictionaries with texts as keys), and `load_state_dict(state)`; the
    state is saved in every checkpoint. A class with `baseline(game, player)` has its baselines logged.

    A class with `value_targets(episodes, values)` needs a value head (`ValueEstimator`).
    """

    def __call__(self, episodes: Sequence[Episode]) -> Sequence[ArrayLike | Sequence[ArrayLike]]:
        """Return the advantages of each episode, in order: one number for each of its turns.

        In place of a number a turn may have an array [T] with one number for each of its action tokens. Turns of
        players that do not learn, and all turns of an episode without a result, get 0.
        """
        ...


class ValueEstimator(Protocol):
    """Computes advantages from the episodes of a step and the values of their turns.

    `values` has one array [turns] for each episode, with 0 for turns that are not learned from. Such an estimator runs
    in one process and in float32; `credit.value_learning_rate` and `value_epochs` say how the values are learned.
    """

    def __call__(
        self, episodes: Sequence[Episode], values: Sequence[TurnValues]
    ) -> Sequence[ArrayLike | Sequence[ArrayLike]]:
        """Return the advantages of each episode, as an `AdvantageEstimator` does."""
        ...

    def value_targets(self, episodes: Sequence[Episode], values: Sequence[TurnValues]) -> Sequence[ArrayLike]:
        """Return what the values should have been, one array [turns] for each episode."""
        ...


class ValueLearner(Protocol):
    """Knows what a player may expect to get; `spiral.training.value_head` learns it."""

    def values(self, episodes: Sequence[Episode]) -> Sequence[TurnValues]:
        """Return the values of the turns of a step, [turns] for each episode."""
        ...

    def learn(self, episodes: Sequence[Episode], targets: Sequence[TurnValues]) -> Metrics:
        """Move the values of the episodes, which `values` was last called with, towards the targets."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name, for a checkpoint."""
        ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        ...


def advantages_by_turn(episode: Episode, advantages: Mapping[int, float]) -> TurnAdvantages:
    """Give every turn the advantage of its player, as an array [turns]; players that are not listed get 0."""
    return np.array([advantages.get(turn.player, 0.0) for turn in episode.turns], dtype=np.float64)


def has_result(episode: Episode) -> bool:
    """Whether the game was played to its end. One that was not has no return to learn from."""
    return episode.outcome != "not_played"


def credited_players(episode: Episode) -> tuple[int, ...]:
    """Return the players whose turns get advantages: those that learn, and none in a game without a result."""
    return episode.learning_players if has_result(episode) else ()
