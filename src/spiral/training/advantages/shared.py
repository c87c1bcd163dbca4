"""One baseline for all players of a game: RAE without its roles (the ablation of arXiv 2506.24119, section 3.3).

    A = R - b[game]        with b read before it is updated
    b[game] <- decay * b[game] + (1 - decay) * mean of the rewards R of the episode's players that learn

All players of an episode read the same b, so their order does not matter. In a zero-sum game of the policy against
itself the mean is 0, and b moves with illegal moves alone: the player with the better role keeps a positive advantage
for having it. A game is an `Episode.matchup`.
"""

from __future__ import annotations

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, advantages_by_turn
from spiral.training.advantages.rae import RAE


class SharedBaseline(RAE):
    """The returns less one moving average of all players of a game.

    Args:
        decay: How slowly the average moves; 0.95 remembers some 20 games.
    """

    def _advantages(self, episode: Episode) -> TurnAdvantages:
        rewards = {player: episode.rewards[player] for player in self._players(episode)}
        baseline = self.baseline(episode.matchup, 0)
        if rewards:
            self._baselines.update(episode.matchup, 0, sum(rewards.values()) / len(rewards))
        return advantages_by_turn(episode, {player: reward - baseline for player, reward in rewards.items()})

    def baseline(self, game: str, player: int) -> float:
        """Return the baseline of `game` (an `Episode.matchup`), the same for every player; 0 before the first game."""
        return super().baseline(game, 0)
