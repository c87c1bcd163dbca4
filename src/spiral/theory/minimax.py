"""Perfect play in games of perfect information without chance: minimax over positions.

Values are cached by `State.position_key`, so transpositions are searched once (tic-tac-toe: 5,478 positions instead of
549,946 histories). The search has its own stack, so long games do not hit Python's recursion limit.

Not supported: pruning and depth limits (`depth_limited`). Every value is exact and every optimal action is found, or
the search raises an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable

import numpy as np

from spiral.games import CHANCE, Game, State
from spiral.theory.tree import Floats, GameTree

MAX_POSITIONS = 200_000
"""A few seconds of search."""
TOLERANCE = 1e-9
"""Largest sum of returns that counts as zero."""
ALTERNATIVE = "use `equilibrium` (--opponent equilibrium), or best_response and solve_cfr in Python"
"""For games with chance or hidden information."""


class Minimax:
    """A cache of one game's position values; reuse one instance for many states.

    `max_positions` bounds the positions that one call may visit. `stop` is called at every position, and may raise to
    end the search; the values found so far are kept, so that a later call goes on from them.
    """

    def __init__(self, *, max_positions: int = MAX_POSITIONS) -> None:
        self.max_positions = max_positions
        self.stop: Callable[[], None] = lambda: None
        self._values: dict[Hashable, float] = {}

    @property
    def positions(self) -> int:
        """Number of positions whose values are kept."""
        return len(self._values)

    def value(self, state: State) -> float:
        """The return of player 0 from `state` under perfect play.

        Raises `ValueError` for games with chance or hidden information, and for too many positions.
        """
        key = state.position_key()
        if key not in self._values:
            self._search(state)
        return self._values[key]

    def optimal_actions(self, state: State) -> tuple[str, ...]:
        """Every action with the value of `state`, in the order of `legal_actions`."""
        if state.is_terminal:
            raise ValueError("the game is over; minimax needs a state with a player to move")
        best = self.value(state)
        return tuple(action for action in state.legal_actions() if self.value(state.apply(action)) == best)

    def policy(self, state: State, player: int) -> dict[str, float]:
        """Uniform over the optimal actions, which is an equilibrium in these games."""
        actions = self.optimal_actions(state)
        return dict.fromkeys(actions, 1 / len(actions))

    def _search(self, root: State) -> None:
        """Caches the values of `root` and all positions after it, deepest first."""
        visited = 0
        children: dict[Hashable, list[Hashable]] = {}
        stack = [root]
        while stack:
            state = stack[-1]
            key = state.position_key()
            if key in self._values:
                stack.pop()
            elif key in children:
                values = [self._values[child] for child in children.pop(key)]
                self._values[key] = max(values) if state.current_player == 0 else min(values)
                stack.pop()
            elif state.is_terminal:
                self._values[key] = zero_sum_value(state)
                stack.pop()
            else:
                self.stop()
                visited += 1
                if visited > self.max_positions:
                    raise ValueError(
                        f"more than {self.max_positions:,} positions follow this one, too many for exact search; use"
                        " minimax(depth=4), which looks four moves ahead, a later position, or a game with smaller"
                        " parameters"
                    )
                following = _following(state)
                children[key] = list(following)
                stack.extend(child for child_key, child in following.items() if child_key not in self._values)


@functools.lru_cache(maxsize=8)
def perfect_play(game: Game) -> Minimax:  # noqa: ARG001 (what the search is kept for)
    """The search of a game that all who play it share, so that its positions are searched once in a process."""
    return Minimax()


def minimax_value(state: State, *, max_positions: int = MAX_POSITIONS) -> float:
    """The return of player 0 from `state` under perfect play; for games of perfect information without chance.

    Raises `ValueError` for other games, and for more than `max_positions` positions.
    """
    return Minimax(max_positions=max_positions).value(state)


def minimax_actions(state: State, *, max_positions: int = MAX_POSITIONS) -> tuple[str, ...]:
    """Every optimal action of the player to act in `state`."""
    return Minimax(max_positions=max_positions).optimal_actions(state)


def optimal_values(tree: GameTree) -> Floats:
    """The return of player 0 from every position of a merged tree under perfect play, averaged over chance, [N]."""
    assert tree.merged
    value_N = tree.payoff_N.copy()
    for level in reversed(tree.levels):
        source_E, target_E = tree.source_E[level.edges], tree.target_E[level.edges]
        for actor, worst, better in ((0, -np.inf, np.maximum), (1, np.inf, np.minimum)):
            mine = tree.actor_N[source_E] == actor
            value_N[source_E[mine]] = worst
            better.at(value_N, source_E[mine], value_N[target_E[mine]])
        chance = tree.actor_N[source_E] == CHANCE
        np.add.at(value_N, source_E[chance], tree.chance_E[level.edges][chance] * value_N[target_E[chance]])
    return value_N


def zero_sum_value(state: State) -> float:
    """The return of player 0 in a finished game. Raises `ValueError` unless the game is two-player zero-sum."""
    returns = state.returns()
    if len(returns) != 2 or not abs(returns[0] + returns[1]) <= TOLERANCE:
        raise ValueError(f"minimax needs a two-player zero-sum game, and this one has the returns {returns}")
    return returns[0]


def require_perfect_information(state: State) -> None:
    """Raises `ValueError` if chance moves in `state` or the players have different information."""
    if state.is_chance:
        raise ValueError(f"minimax needs a game without chance; {ALTERNATIVE}")
    if state.information_state(0) != state.information_state(1):
        raise ValueError(
            f"minimax needs a game of perfect information, and in this one the players know different things;"
            f" {ALTERNATIVE}"
        )


def _following(state: State) -> dict[Hashable, State]:
    require_perfect_information(state)
    after = (state.apply(action) for action in state.legal_actions())
    return {child.position_key(): child for child in after}
