"""The curriculum that keeps the recipe's weights."""

from __future__ import annotations

from collections.abc import Mapping

from spiral.rollout.curriculum.base import Curriculum


class FixedWeights(Curriculum):
    """Shares out the games of each step by constant weights."""

    def __init__(self, games: Mapping[str, float]) -> None:
        """Take `selfplay.games`."""

    def weights(self, step: int, games: Mapping[str, float]) -> Mapping[str, float]:
        """Return the recipe's weights."""
        return games
