"""Play more of the games whose results are changing: absolute learning progress.

For every player of every game two averages of its mean reward are kept, a fast one and a slow one,

    fast <- fast + rate (mean - fast),    slow <- slow + rate / 5 (mean - slow),

and the progress of a game is the mean of |fast - slow| over its players. A step's games are shared out by the recipe's
weights times progress, but for the share `floor`, which goes by the weights alone, so that no game is forgotten. After
Oudeyer, Kaplan and Hafner (2007), "Intrinsic motivation systems for autonomous mental development", and Matiisen et al.
(2017), "Teacher-student curriculum learning" (arXiv 1707.00183), who use the absolute value as well: a game that gets
worse is being forgotten.

What it cannot see: among players who are all the same policy the returns of a zero-sum game sum to zero however good
they become. There it sees illegal moves, which cost 1.5 and pay 0.5, and shifts from one player to another. Against
opponents, in games of partners and in problems it sees the results themselves.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from spiral.core.records import Episode
from spiral.rollout.curriculum.base import Curriculum, checked_share, mean_rewards, shared_out

SLOWER = 5
"""How many times slower the slow average moves."""


class LearningProgress(Curriculum):
    """Weighs games by how much the mean rewards of their players are changing."""

    def __init__(self, games: Mapping[str, float], *, rate: float = 0.2, floor: float = 0.2) -> None:
        """Take `selfplay.games`.

        Args:
            games: The games and their weights.
            rate: How far the fast average moves towards a step's mean.
            floor: Share of the games that goes by the recipe's weights alone.
        """
        self._rate = checked_share("learning_progress", "rate", rate)
        self._floor = checked_share("learning_progress", "floor", floor)
        self._averages: dict[str, dict[str, list[float]]] = {}
        """By game and player: the fast and the slow average."""

    def weights(self, step: int, games: Mapping[str, float]) -> Mapping[str, float]:
        """Return the recipe's weights times progress."""
        return shared_out(games, self.progress(), self._floor)

    def progress(self) -> dict[str, float]:
        """Return the progress of every game that was played."""
        return {
            game: statistics.fmean(abs(fast - slow) for fast, slow in players.values())
            for game, players in self._averages.items()
        }

    def observe(self, step: int, episodes: Sequence[Episode]) -> None:
        """Move the averages; the first mean of a player is where both begin."""
        for game, players in mean_rewards(episodes).items():
            known = self._averages.setdefault(game, {})
            for player, mean in players.items():
                fast, slow = known.setdefault(player, [mean, mean])
                known[player] = [fast + self._rate * (mean - fast), slow + self._rate / SLOWER * (mean - slow)]

    def state_dict(self) -> dict[str, object]:
        """Return the averages."""
        return {"averages": self._averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the averages back."""
        self._averages = {
            game: {player: list(pair) for player, pair in players.items()}
            for game, players in state["averages"].items()
        }
