"""The return less the mean return of the same game and player in the batch; without state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, advantages_by_turn, credited_players


class BatchMean:
    """Centres the returns of each game and player within a step. An `Episode.matchup` counts as a game."""

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order."""
        returns: dict[tuple[str, int], list[float]] = defaultdict(list)
        for episode in episodes:
            for player in credited_players(episode):
                returns[episode.matchup, player].append(episode.rewards[player])
        means = {key: sum(values) / len(values) for key, values in returns.items()}
        return [
            advantages_by_turn(
                episode,
                {
                    player: episode.rewards[player] - means[episode.matchup, player]
                    for player in credited_players(episode)
                },
            )
            for episode in episodes
        ]
