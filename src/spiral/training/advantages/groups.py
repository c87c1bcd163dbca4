"""Groups of attempts: the episodes of a step that were played from the same deal by the same players."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, advantages_by_turn, has_result

Centre = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From the returns [n >= 2] of a group to the advantages [n] of its members."""


def group_advantages(episodes: Sequence[Episode], centre: Centre) -> list[TurnAdvantages]:
    """Return one array [turns] for each episode, in order, from the returns of each group and player.

    A group is what has one `Episode.matchup` and one seed. Episodes without a result are left out; where they leave a
    group of one, that one gets 0.

    Raises:
        ValueError: A group has one episode, so there is nothing to compare it with.
    """
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, episode in enumerate(episodes):
        groups[episode.matchup, episode.seed].append(index)
    advantages: list[dict[int, float]] = [{} for _ in episodes]
    for (matchup, seed), members in groups.items():
        if len(members) == 1:
            raise ValueError(
                f"there is only one episode of {matchup} from seed {seed}, so it cannot be compared with other attempts"
                " at the same deal; set selfplay.attempts to 2 or more"
            )
        played = [index for index in members if has_result(episodes[index])]
        if len(played) < 2:
            continue
        for player in episodes[played[0]].learning_players:
            returns = np.array([episodes[index].rewards[player] for index in played], dtype=np.float64)
            for index, value in zip(played, centre(returns), strict=True):
                advantages[index][player] = float(value)
    return [advantages_by_turn(episode, by_player) for episode, by_player in zip(episodes, advantages, strict=True)]
