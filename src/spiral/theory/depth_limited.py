"""Depth-limited search for games too large for exact minimax: alpha-beta, then random playouts.

Alpha-beta (Knuth and Moore, 1975) over the next `depth` moves finds every forced win and avoids every forced loss of
that length; positions at the depth limit count as zero. A result that comes one move earlier counts a thousandth more,
so that a win is taken at once and a loss is delayed. Ties between moves are broken by the mean result of random games
from each (flat Monte Carlo, Abramson, 1990), which works a little in any game.

Not supported: a transposition table, move ordering, iterative deepening, and knowledge of particular games. It is an
opponent for evaluation, not a strong player.
"""

from __future__ import annotations

import math
import random

from spiral.games import State
from spiral.theory.minimax import require_perfect_information, zero_sum_value

MAX_DEPTH = 50
"""The search recurses once per move."""
MAX_POSITIONS = 200_000
"""Positions searched for one move, a few seconds."""
PLAYOUTS = 64
"""Random games per decision, divided among the tied moves."""
MAX_PLAYOUT_MOVES = 300
"""Random games count as draws after this number of moves."""
DISCOUNT = 1e-3
"""Share by which a result counts less for each move that it takes."""


class DepthLimited:
    """Chooses moves by searching `depth` moves ahead; `max_positions` bounds the positions of one search."""

    def __init__(self, depth: int, *, max_positions: int = MAX_POSITIONS) -> None:
        if not 1 <= depth <= MAX_DEPTH:
            raise ValueError(f"got depth={depth!r}; expected a whole number from 1 to {MAX_DEPTH}")
        self.depth = depth
        self.max_positions = max_positions
        self._visited = 0

    def choose(self, state: State, rng: random.Random) -> str:
        """One of `best_actions`, chosen by playouts with draws from `rng`."""
        best = self.best_actions(state)
        return best[0] if len(best) == 1 else _by_playouts(state, best, rng)

    def best_actions(self, state: State) -> tuple[str, ...]:
        """The best actions by the search, in the order of `legal_actions`.

        Raises `ValueError` for games with chance or hidden information, and for too many positions.
        """
        if state.is_terminal:
            raise ValueError("the game is over; minimax needs a state with a player to move")
        require_perfect_information(state)
        self._visited = 0
        sign = 1.0 if state.current_player == 0 else -1.0
        best, actions = -math.inf, []
        for action in _listed(state):
            # The window opens just below the best value, so that equal moves are found and worse ones are cut off.
            floor = math.nextafter(best, -math.inf)
            low, high = (floor, math.inf) if sign > 0 else (-math.inf, -floor)
            value = sign * self._value(state.apply(action), 1, low, high)
            if value > best:
                best, actions = value, [action]
            elif value == best:
                actions.append(action)
        return tuple(actions)

    def _value(self, state: State, ply: int, low: float, high: float) -> float:
        """The value of `state` for player 0: exact within `(low, high)`, a bound outside."""
        self._visited += 1
        if self._visited > self.max_positions:
            raise ValueError(
                f"more than {self.max_positions:,} positions are within {self.depth} moves; use a smaller depth,"
                f" such as minimax(depth={max(1, self.depth - 1)})"
            )
        if state.is_terminal:
            return zero_sum_value(state) * (1.0 - DISCOUNT * ply)
        if ply >= self.depth:
            return 0.0
        require_perfect_information(state)
        maximises = state.current_player == 0
        best = -math.inf if maximises else math.inf
        for action in _listed(state):
            value = self._value(state.apply(action), ply + 1, low, high)
            if maximises:
                best = max(best, value)
                low = max(low, best)
            else:
                best = min(best, value)
                high = min(high, best)
            if low >= high:
                break
        return best


def _listed(state: State) -> tuple[str, ...]:
    actions = state.legal_actions()
    if not actions:
        raise ValueError(f"{state!r} does not list its legal actions; minimax needs a game that does")
    return actions


def _by_playouts(state: State, actions: tuple[str, ...], rng: random.Random) -> str:
    """The action with the best mean result of random games for the player to act; ties are broken at random."""
    sign = 1.0 if state.current_player == 0 else -1.0
    games = max(1, PLAYOUTS // len(actions))
    results = {}
    for action in actions:
        after = state.apply(action)
        results[action] = sign * sum(_playout(after, rng) for _ in range(games))
    best = max(results.values())
    return rng.choice([action for action, result in results.items() if result == best])


def _playout(state: State, rng: random.Random) -> float:
    """The return of player 0 in one random continuation."""
    for _ in range(MAX_PLAYOUT_MOVES):
        actions = state.legal_actions()
        if not actions:
            break
        state = state.apply(rng.choice(actions))
    return zero_sum_value(state) if state.is_terminal else 0.0
