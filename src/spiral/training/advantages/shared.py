"""One baseline for all players of a game: RAE without its roles (the ablation of arXiv 2506.24119, section 3.3).

    A = R - b[game]        with b read before it is updated
    b[game] <- decay * b[game] + (1 - decay) * mean of the rewards R of the episode's players that learn

All players of an episode read the same b, so their order does not matter. In a zero-sum game of the policy against
itself the mean is 0, and b moves with illegal moves alone: the player with the better role keeps a positive advantage
for having it. A game is an `Episode.matchup`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, advantages_by_turn, credited_players
from spiral.training.advantages.rae import RoleBaselines


class SharedBaseline:
    """The returns less one moving average of all players of a game.

    Args:
        decay: How slowly the average moves; 0.95 remembers some 20 games.
    """

    def __init__(self, decay: float = 0.95) -> None:
        self._baselines = RoleBaselines(decay)

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order, and update the baseline after each episode."""
        return [self._advantages(episode) for episode in episodes]

    def _advantages(self, episode: Episode) -> TurnAdvantages:
        rewards = {player: episode.rewards[player] for player in credited_players(episode)}
        baseline = self.baseline(episode.matchup, 0)
        if rewards:
            self._baselines.update(episode.matchup, 0, sum(rewards.values()) / len(rewards))
        return advantages_by_turn(episode, {player: reward - baseline for player, reward in rewards.items()})

    def baseline(self, game: str, player: int) -> float:
        """Return the baseline of `game` (an `Episode.matchup`), the same for every player; 0 before the first game."""
        return self._baselines.value(game, 0)

    def state_dict(self) -> dict[str, object]:
        """Return the baselines as plain JSON values, each under player 0."""
        return self._baselines.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Replace the baselines by those that `state_dict` returned. Raise `ValueError` for anything else."""
        self._baselines.load_state_dict(state)
