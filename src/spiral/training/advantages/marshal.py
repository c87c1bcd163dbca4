"""MARSHAL's turn-level advantages, summed first and normalised then (Yuan et al., 2025, arXiv 2510.15414).

    R_k = r_k + r_(k+1) + ... + r_K            what player p gets from its turn k to its last turn K
    A_k = R_k - mean over the step of all R of p in this game        with `std = true` also divided by their std

The group of a player's role is all of its turns in the episodes of one `Episode.matchup` in the step: turns of both
players are never compared with each other. Where a game pays only at its end every turn of a player has the same R, and
what differs from `batch_mean` is that a long episode weighs more in the mean. The rewards r are those of
`turn_rewards`. There is no state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, credited_players
from spiral.training.advantages.turn_rewards import rewards_to_go, turn_rewards


class Marshal:
    """What each turn's player gets from there on, normalised over the turns of the same game and player.

    Args:
        std: Whether to divide by the standard deviation, as GRPO does.
    """

    def __init__(self, std: bool = False) -> None:
        """Raise `ValueError` unless `std` is true or false."""
        if not isinstance(std, bool):
            raise ValueError(f"got std {std!r}; expected true or false")
        self._std = std

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order."""
        to_go = [rewards_to_go(episode, paid) for episode, paid in zip(episodes, turn_rewards(episodes), strict=True)]
        groups: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        for number, episode in enumerate(episodes):
            for index, turn in enumerate(episode.turns):
                if turn.player in credited_players(episode):
                    groups[episode.matchup, turn.player].append((number, index))
        advantages = [np.zeros(len(episode.turns)) for episode in episodes]
        for members in groups.values():
            values = np.array([to_go[number][index] for number, index in members])
            if np.ptp(values) == 0:  # exactly zero, so that the samples can be left out of the batch
                continue
            centred = values - values.mean()
            for (number, index), value in zip(members, centred / values.std() if self._std else centred, strict=True):
                advantages[number][index] = value
        return advantages
