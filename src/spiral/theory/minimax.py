"""Perfect play in games where nothing is hidden and nothing is random: minimax over positions.

Values are kept by `State.position_key`, so transpositions are searched once (tic-tac-toe: 5,478 positions instead
of 549,946 histories). The search keeps its own stack; long games do not meet Python's recursion limit.

Left out: pruning and depth limits (`depth_limited`). Every value is exact and every optimal action is known, or the
search is refused.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from spiral.games import CHANCE, State
from spiral.theory.tree import Floats, GameTree

MAX_POSITIONS = 200_000
"""Some seconds of search."""
TOLERANCE = 1e-9
INSTEAD = "`equilibrium` plays such games (--opponent equilibrium); in Python there are best_response and solve_cfr"
"""For games with chance or with something hidden."""


class Minimax:
    """The values of one game's positions found so far; keep one when asking about many states.

    `max_positions` bounds the positions that one question may visit.
    """

    def __init__(self, *, max_positions: int = MAX_POSITIONS) -> None:
        self.max_positions = max_positions
        self._values: dict[Hashable, float] = {}

    def value(self, state: State) -> float:
        """What player 0 gets from `state` on under perfect play by both.

        Raises `ValueError` when chance moves, the players know different things, or there are too many positions.
        """
        key = state.position_key()
        if key not in self._values:
            self._search(state)
        return self._values[key]

    def optimal_actions(self, state: State) -> tuple[str, ...]:
        """Every action that keeps the value of `state`, in the order of `legal_actions`."""
        if state.is_terminal:
            raise ValueError("got a finished game; expected a state in which a player has to act")
        best = self.value(state)
        return tuple(action for action in state.legal_actions() if self.value(state.apply(action)) == best)

    def policy(self, state: State, player: int) -> dict[str, float]:
        """Uniform over the optimal actions: in these games an equilibrium, as a policy for exact theory."""
        actions = self.optimal_actions(state)
        return dict.fromkeys(actions, 1 / len(actions))

    def _search(self, root: State) -> None:
        """Fills the table for `root` and all that follows it, deepest first."""
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
                visited += 1
                if visited > self.max_positions:
                    raise ValueError(
                        f"more than {self.max_positions:,} positions follow the one asked about, too many for exact"
                        " search; expected minimax(depth=4), which looks four moves ahead, a later position, or a game"
                        " with smaller parameters"
                    )
                following = _following(state)
                children[key] = list(following)
                stack.extend(child for child_key, child in following.items() if child_key not in self._values)


def minimax_value(state: State, *, max_positions: int = MAX_POSITIONS) -> float:
    """What player 0 gets from `state` on under perfect play; for games of perfect information without chance."""
    return Minimax(max_positions=max_positions).value(state)


def minimax_actions(state: State, *, max_positions: int = MAX_POSITIONS) -> tuple[str, ...]:
    """Every optimal action of the player to act in `state`."""
    return Minimax(max_positions=max_positions).optimal_actions(state)


def optimal_values(tree: GameTree) -> Floats:
    """What player 0 gets from every position of a merged tree on under perfect play, chance averaged over. [N]"""
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
    """What player 0 gets in a finished game. Raises `ValueError` unless two players win what the other loses."""
    returns = state.returns()
    if len(returns) != 2 or abs(returns[0] + returns[1]) > TOLERANCE:
        raise ValueError(f"minimax needs a zero-sum game of two players, and this one has the returns {returns}")
    return returns[0]


def require_openness(state: State) -> None:
    """Raises `ValueError` where chance moves or the players know different things."""
    if state.is_chance:
        raise ValueError(f"minimax needs a game without chance; {INSTEAD}")
    if state.information_state(0) != state.information_state(1):
        raise ValueError(
            "minimax needs a game in which nothing is hidden, and in this one the players know different things; "
            + INSTEAD
        )


def _following(state: State) -> dict[Hashable, State]:
    """The positions one move on."""
    require_openness(state)
    after = (state.apply(action) for action in state.legal_actions())
    return {child.position_key(): child for child in after}
