"""DEPT: two baselines and the entropy of the results (Wang et al., 2026, arXiv 2605.08721).

When the same result comes in nearly every game, the baseline becomes that result, advantages vanish, and the policy
stays where it is. DEPT notices this and then pushes against the common result. For every game and player, once a step:

    fast <- 0.5 fast + 0.5 m,    slow <- 0.95 slow + 0.05 m       m the mean reward of the step
    H = entropy of the shares of win, draw and loss in the step, in bits and at most 1
    lambda = (1 - tanh |fast - slow|) * sqrt(1 - H)               near 1: nothing moves, and all games end alike
    V = the largest `fast` so far where the episode's result is the most common of the step, else the smallest
    A = R - ((1 - lambda) slow + lambda V)

From the paper, as published summaries of it give its formulas: both baselines and their decays, lambda, V and A. Ours,
where these leave room: baselines begin at 0, move once a step by the mean and are read after it; H counts bits up to
1, so that a game without draws that is won as often as lost needs no push (divided by log 3 it would get one for ever);
the bounds of V belong to a game and player; of results that are equally common the better one for the player is the
common one. A result is `Episode.result`, so games of any number of players have one for each. The paper tries it in
zero-sum games of two players only.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, advantages_by_turn, credited_players

FIELDS = ("fast", "slow", "largest", "smallest")


class DEPT:
    """RAE with a slow baseline that gives way to a push against the common result when training stands still.

    Args:
        fast: Decay of the fast baseline.
        slow: Decay of the slow baseline; above that of the fast one.
    """

    def __init__(self, fast: float = 0.5, slow: float = 0.95) -> None:
        """Raise `ValueError` unless 0 <= fast < slow < 1."""
        numbers = all(isinstance(decay, float | int) and not isinstance(decay, bool) for decay in (fast, slow))
        if not numbers or not 0 <= fast < slow < 1:
            raise ValueError(f"got fast {fast!r} and slow {slow!r}; expected numbers with 0 <= fast < slow < 1")
        self._decays = (float(fast), float(slow))
        self._states: dict[tuple[str, int], dict[str, float]] = {}

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order, after moving the baselines by the step's means."""
        groups: dict[tuple[str, int], list[Episode]] = defaultdict(list)
        for episode in episodes:
            for player in credited_players(episode):
                groups[episode.matchup, player].append(episode)
        pulls, common = {}, {}
        for key, played in groups.items():
            self._move(key, sum(episode.rewards[key[1]] for episode in played) / len(played))
            counts = Counter(episode.result(key[1]) for episode in played)
            common[key] = max(counts, key=lambda result: (counts[result], result))
            pulls[key] = self._pull(key, [count / len(played) for count in counts.values()])
        advantages = []
        for episode in episodes:
            by_player = {}
            for player in credited_players(episode):
                key = (episode.matchup, player)
                state, pull = self._states[key], pulls[key]
                value = state["largest" if episode.result(player) == common[key] else "smallest"]
                by_player[player] = episode.rewards[player] - ((1 - pull) * state["slow"] + pull * value)
            advantages.append(advantages_by_turn(episode, by_player))
        return advantages

    def _move(self, key: tuple[str, int], mean: float) -> None:
        if not math.isfinite(mean):
            raise ValueError(
                f"the baselines of {key[0]}, player {key[1]}, got the mean reward {mean}; expected a finite number"
            )
        before = self._states.get(key, {})
        fast, slow = (
            decay * before.get(name, 0.0) + (1 - decay) * mean
            for decay, name in zip(self._decays, ("fast", "slow"), strict=True)
        )
        self._states[key] = {
            "fast": fast,
            "slow": slow,
            "largest": max(before.get("largest", fast), fast),
            "smallest": min(before.get("smallest", fast), fast),
        }

    def _pull(self, key: tuple[str, int], shares: Sequence[float]) -> float:
        """How much of the baseline is the push against the common result, from 0 to 1."""
        state = self._states[key]
        entropy = min(1.0, -sum(share * math.log2(share) for share in shares))
        return (1 - math.tanh(abs(state["fast"] - state["slow"]))) * math.sqrt(1 - entropy)

    def baseline(self, game: str, player: int) -> float:
        """Return the slow baseline of `player` in `game` (an `Episode.matchup`); 0 before the first game."""
        state = self._states.get((game, player))
        return state["slow"] if state else 0.0

    def state_dict(self) -> dict[str, object]:
        """Return the state as plain JSON values."""
        return {
            "values": [
                [game, player, *(state[name] for name in FIELDS)]
                for (game, player), state in sorted(self._states.items())
            ]
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Replace the state by one that `state_dict` returned. Raise `ValueError` if it is not one."""
        try:
            self._states = {
                (str(game), int(player)): dict(zip(FIELDS, map(float, values), strict=True))
                for game, player, *values in state["values"]  # type: ignore[attr-defined]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"got {state!r} as the state of DEPT; expected {{'values': [[game, player, {', '.join(FIELDS)}]]}}"
            ) from error
