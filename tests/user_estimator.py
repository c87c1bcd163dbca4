"""An advantage estimator as a user would write one: a class with an option and with state."""

from __future__ import annotations

from typing import Any


class RunningMean:
    """The return less the mean of all earlier returns of the game and player."""

    def __init__(self, prior: float = 0.0) -> None:
        self.prior = prior
        self.sums: dict[str, list[float]] = {}

    def __call__(self, episodes: Any) -> list[list[float]]:
        """Return one advantage for each turn of each episode."""
        return [self._advantages(episode) for episode in episodes]

    def _advantages(self, episode: Any) -> list[float]:
        means = [self.baseline(episode.game, player) for player in range(len(episode.returns))]
        for player, value in enumerate(episode.returns):
            count, total = self.sums.get(f"{episode.game}/{player}", [0.0, 0.0])
            self.sums[f"{episode.game}/{player}"] = [count + 1, total + value]
        return [episode.returns[turn.player] - means[turn.player] for turn in episode.turns]

    def baseline(self, game: str, player: int) -> float:
        """Return the mean of the returns so far."""
        count, total = self.sums.get(f"{game}/{player}", [0.0, 0.0])
        return total / count if count else self.prior

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and sums."""
        return self.sums

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.sums = {key: list(value) for key, value in state.items()}
