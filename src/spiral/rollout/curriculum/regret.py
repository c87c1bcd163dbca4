"""Play more of the games in which better results are within reach: an estimate of regret.

Regret, the distance from the best that could be had, is not known. Two stand in for it:

- "positive_value_loss" (Jiang et al., 2021, "Replay-guided adversarial environment design", arXiv 2110.02439): the mean
  of max(0, reward - average) over a step's games, the average being the player's running mean. It is high where some
  games end far better than expected, so that there is something to repeat, and 0 where all end alike.
- "gap_to_best": how far the running mean of a player is below the best that it has been. It is high for a game that the
  policy once played better, and 0 for all where nothing was lost.

Both are averaged over the players of a game. Rewards of different games are compared, so leave `selfplay.reward` at
"normalised" or another that pays all games alike. A step's games are shared out by the recipe's weights times regret,
but for the share `floor`, which goes by the weights alone.

In "positive_value_loss" the noise of the deal counts as well as the policy's: poker keeps a high value for ever.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from spiral.core.records import Episode
from spiral.rollout.curriculum.base import Curriculum, checked_share, mean_rewards, shared_out

MEASURES = ("positive_value_loss", "gap_to_best")


class Regret(Curriculum):
    """Weighs games by an estimate of regret."""

    def __init__(
        self,
        games: Mapping[str, float],
        *,
        measure: str = "positive_value_loss",
        rate: float = 0.2,
        floor: float = 0.2,
    ) -> None:
        """Take `selfplay.games`.

        Args:
            games: The games and their weights.
            measure: What stands in for regret.
            rate: How far the running averages move towards a step's mean.
            floor: Share of the games that goes by the recipe's weights alone.
        """
        if measure not in MEASURES:
            raise ValueError(f"the curriculum 'regret' got measure={measure!r}; expected {' or '.join(MEASURES)}")
        self._measure = measure
        self._rate = checked_share("regret", "rate", rate)
        self._floor = checked_share("regret", "floor", floor)
        self._average: dict[str, dict[str, float]] = {}
        """By game and player: the running mean of its rewards."""
        self._best: dict[str, dict[str, float]] = {}
        """The highest that the running mean has been."""
        self._loss: dict[str, float] = {}
        """By game: the running positive value loss."""

    def weights(self, step: int, games: Mapping[str, float]) -> Mapping[str, float]:
        """Return the recipe's weights times regret."""
        return shared_out(games, self.regret(), self._floor)

    def regret(self) -> dict[str, float]:
        """Return the estimate of every game that was played."""
        if self._measure == "positive_value_loss":
            return dict(self._loss)
        return {
            game: statistics.fmean(self._best[game][player] - average for player, average in players.items())
            for game, players in self._average.items()
        }

    def observe(self, step: int, episodes: Sequence[Episode]) -> None:
        """Measure against the averages so far, then move them; the first mean of a player is where it begins."""
        means = mean_rewards(episodes)
        for game, players in means.items():
            average = self._average.setdefault(game, {})
            for player, mean in players.items():
                average.setdefault(player, mean)
        gains: dict[str, list[float]] = {game: [] for game in means}
        for episode in episodes:
            if episode.outcome != "not_played":
                known = self._average[episode.game]
                gains[episode.game] += [
                    max(0.0, episode.rewards[player] - known[str(player)]) for player in episode.learning_players
                ]
        for game, players in means.items():
            gain = statistics.fmean(gains[game])
            before = self._loss.get(game, gain)
            self._loss[game] = before + self._rate * (gain - before)
            average, best = self._average[game], self._best.setdefault(game, {})
            for player, mean in players.items():
                average[player] += self._rate * (mean - average[player])
                best[player] = max(best.get(player, average[player]), average[player])

    def state_dict(self) -> dict[str, object]:
        """Return the averages, their best, and the losses."""
        return {"average": self._average, "best": self._best, "loss": self._loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._average = {game: dict(players) for game, players in state["average"].items()}
        self._best = {game: dict(players) for game, players in state["best"].items()}
        self._loss = dict(state["loss"])
