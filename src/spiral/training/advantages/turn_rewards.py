"""What training pays for each turn, in the units of `Episode.rewards`.

`Turn.reward` is in the game's units, and the rewards of a player's turns sum to its return. What training pays for an
episode can be something else (`selfplay.reward`). Where it is the returns times one number for all episodes of a game,
as with "normalised" and "returns", that number scales the reward of every turn. Where it is not ("sign", a control),
rewards on the way would say what is not paid, so that all of it comes with the last turn of each player.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spiral.core.records import Episode
from spiral.training.advantages.base import credited_players

TurnRewards = NDArray[np.float64]
"""[turns] what each turn of an episode pays its player; 0 for players that get no advantages."""


def turn_rewards(episodes: Sequence[Episode]) -> list[TurnRewards]:
    """Return what each turn pays, one array [turns] for each episode; a player's turns sum to its `Episode.rewards`."""
    by_game: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        if credited_players(episode):
            by_game[episode.game].append(episode)
    scales = {game: _scale(played) for game, played in by_game.items()}
    return [_paid(episode, scales.get(episode.game)) for episode in episodes]


def rewards_to_go(episode: Episode, rewards: TurnRewards) -> TurnRewards:
    """Return for each turn the sum of its player's rewards from there to the end, [turns]."""
    total: dict[int, float] = defaultdict(float)
    result = np.zeros(len(episode.turns))
    for index in reversed(range(len(episode.turns))):
        player = episode.turns[index].player
        total[player] += rewards[index]
        result[index] = total[player]
    return result


def _scale(episodes: Sequence[Episode]) -> float | None:
    """The number that turns the returns of a game's episodes into what is paid for them, or None."""
    returns = np.array([value for episode in episodes for value in episode.returns])
    rewards = np.array([value for episode in episodes for value in episode.rewards])
    largest = int(np.abs(returns).argmax())
    if returns[largest] == 0:
        return None
    scale = float(rewards[largest] / returns[largest])
    return scale if np.allclose(returns * scale, rewards, rtol=1e-9, atol=1e-9) else None


def _paid(episode: Episode, scale: float | None) -> TurnRewards:
    paid = np.zeros(len(episode.turns))
    for player in credited_players(episode):
        own = [index for index, turn in enumerate(episode.turns) if turn.player == player]
        if not own:
            continue
        if scale is not None:
            paid[own] = [episode.turns[index].reward * scale for index in own]
        paid[own[-1]] = episode.rewards[player] - paid[own[:-1]].sum()
    return paid
