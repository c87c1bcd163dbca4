"""No baseline: the advantage is the return. In this setting the paper sees thinking collapse."""

from __future__ import annotations

from collections.abc import Sequence

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, advantages_by_turn, credited_players


class PlainReturns:
    """Gives every turn the return of its player."""

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order."""
        return [
            advantages_by_turn(episode, {player: episode.rewards[player] for player in credited_players(episode)})
            for episode in episodes
        ]
