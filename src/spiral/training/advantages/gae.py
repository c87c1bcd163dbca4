"""Generalised advantage estimation over turns (Schulman et al., 2015, arXiv 1506.02438), with a learned value.

For the K turns of one player in an episode, with V(t) the value of what it sees before turn t and V(K + 1) = 0:

    d(t) = r(t) + gamma V(t + 1) - V(t)
    A(t) = d(t) + gamma lam A(t + 1)
    V is trained towards A(t) + V(t)

A step of the player's environment is everything until its next turn, the other players' turns and chance included. The
rewards r are those of `turn_rewards`; the values come from a linear head on the learner's hidden state at the last
token of the prompt (`spiral.training.value_head`). With gamma and lam 1, A is what the player still gets less V(t).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, TurnValues, credited_players
from spiral.training.advantages.turn_rewards import turn_rewards


class GAE:
    """The rewards from each turn on less the value of what the player saw, weighed over the turns.

    Args:
        gamma: Discount of one turn of the player; above 0 and at most 1.
        lam: From 0, which trusts the value of the next turn, to 1, which trusts the result alone.
    """

    def __init__(self, gamma: float = 1.0, lam: float = 0.95) -> None:
        """Raise `ValueError` unless 0 < gamma <= 1 and 0 <= lam <= 1."""
        numbers = all(isinstance(value, float | int) and not isinstance(value, bool) for value in (gamma, lam))
        if not numbers or not (0 < gamma <= 1 and 0 <= lam <= 1):
            raise ValueError(f"got gamma {gamma!r} and lam {lam!r}; expected 0 < gamma <= 1 and 0 <= lam <= 1")
        self._gamma, self._lam = float(gamma), float(lam)

    def __call__(self, episodes: Sequence[Episode], values: Sequence[TurnValues]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order.

        Args:
            episodes: The episodes of a step.
            values: [turns] for each episode: the value of what the turn's player saw.
        """
        paid = turn_rewards(episodes)
        return [
            self._advantages(episode, rewards, of_turns)
            for episode, rewards, of_turns in zip(episodes, paid, values, strict=True)
        ]

    def _advantages(self, episode: Episode, rewards: TurnAdvantages, values: TurnValues) -> TurnAdvantages:
        advantages = np.zeros(len(episode.turns))
        players, after = credited_players(episode), defaultdict[int, tuple[float, float]](lambda: (0.0, 0.0))
        for index in reversed(range(len(episode.turns))):
            player = episode.turns[index].player
            if player not in players:
                continue
            next_value, next_advantage = after[player]
            surprise = rewards[index] + self._gamma * next_value - values[index]
            advantages[index] = surprise + self._gamma * self._lam * next_advantage
            after[player] = (float(values[index]), float(advantages[index]))
        return advantages

    def value_targets(self, episodes: Sequence[Episode], values: Sequence[TurnValues]) -> list[TurnValues]:
        """Return what the values should have been, [turns] for each episode; arguments as in a call."""
        advantages = self(episodes, values)
        return [of_turns + own for of_turns, own in zip(values, advantages, strict=True)]
