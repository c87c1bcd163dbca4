"""REINFORCE++ (Hu, 2025, arXiv 2501.03262): returns normalised over the whole batch.

    A = (R - mean(R)) / std(R)

over all turns of a step whose players learn, whatever their game and player: a sample of the paper's batch is one turn
here, so an episode weighs as much as it has turns. The standard deviation is that of the batch itself (divided by n);
where all returns are equal, A is 0. There is no state.

The paper subtracts a KL penalty from the reward of every token before it normalises; here the pull to the reference is
a term of the loss (`loss.kl_coefficient`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, advantages_by_turn, credited_players


class ReinforcePlusPlus:
    """The return normalised over all turns of the step."""

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order."""
        returns = [
            episode.rewards[turn.player]
            for episode in episodes
            for turn in episode.turns
            if turn.player in credited_players(episode)
        ]
        flat = not returns or np.ptp(returns) == 0  # exactly zero, so that the samples can be left out of the batch
        mean, std = (0.0, 1.0) if flat else (float(np.mean(returns)), float(np.std(returns)))
        return [
            advantages_by_turn(
                episode,
                {
                    player: 0.0 if flat else (episode.rewards[player] - mean) / std
                    for player in credited_players(episode)
                },
            )
            for episode in episodes
        ]
