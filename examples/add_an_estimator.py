"""An advantage estimator in one file: RAE whose advantages have unit variance for every game and player.

    python examples/add_an_estimator.py

An estimator is called with the episodes of a step and returns, for each episode, one advantage for each of its turns
(or for each token of a turn). What it remembers from step to step is its own: `state_dict` and `load_state_dict` put
it into every checkpoint. From the directory of this file:

    PYTHONPATH=. spiral train nano --set credit.estimator=add_an_estimator:ScaledRAE --set credit.options=decay=0.9
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import spiral
from spiral.core.records import Episode
from spiral.policies import scripted_policy


class ScaledRAE:
    """The return minus its running mean, divided by its running standard deviation, for every game and player.

    Args:
        decay: How slowly mean and variance move. A recipe sets it under `credit.options`.
    """

    def __init__(self, decay: float = 0.95) -> None:
        self.decay = decay
        self.moments: dict[str, list[float]] = {}  # "game/player" -> [mean, variance]

    def __call__(self, episodes: Sequence[Episode]) -> list[np.ndarray]:
        """One array [turns] for each episode; zero for the turns of players that do not learn."""
        return [self._advantages(episode) for episode in episodes]

    def _advantages(self, episode: Episode) -> np.ndarray:
        scaled = {player: self._scaled(episode, player) for player in episode.learning_players}
        return np.array([scaled.get(turn.player, 0.0) for turn in episode.turns])

    def _scaled(self, episode: Episode, player: int) -> float:
        """The advantage with the moments as they were, which then take the return in."""
        mean, variance = self.moments.setdefault(f"{episode.matchup}/{player}", [0.0, 1.0])
        difference, keep = episode.rewards[player] - mean, self.decay
        self.moments[f"{episode.matchup}/{player}"] = [
            keep * mean + (1 - keep) * episode.rewards[player],
            keep * variance + (1 - keep) * difference**2,
        ]
        return difference / math.sqrt(variance + 1e-6)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: numbers, texts, lists and dictionaries."""
        return {"moments": self.moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.moments = {name: list(pair) for name, pair in state["moments"].items()}


def main() -> None:
    """Estimates the advantages of random hands of Kuhn poker."""
    kuhn = spiral.load_game("kuhn_poker")
    player = scripted_policy("random", kuhn)
    hands = spiral.play([spiral.Match(game=kuhn, seed=seed, policies=(player, player)) for seed in range(500)])
    estimator = ScaledRAE()
    advantages = np.concatenate(estimator(hands))
    print(f"{len(advantages)} turns, mean {advantages.mean():+.2f}, standard deviation {advantages.std():.2f}")


if __name__ == "__main__":
    main()
