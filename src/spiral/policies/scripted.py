"""Policies that need no model: uniform random play, perfect play by search, and the Kuhn equilibrium."""

from __future__ import annotations

import random

from spiral.games import Game, State
from spiral.policies.base import ScriptedPolicy
from spiral.theory import Minimax, TabularPolicy, kuhn_equilibrium

SCRIPTED_NAMES = ("random", "minimax", "equilibrium")


class RandomPolicy(ScriptedPolicy):
    """Uniform over the legal actions."""

    name = "random"

    def choose(self, state: State, seat: int, rng: random.Random) -> str:
        """Any legal action."""
        return rng.choice(state.legal_actions())


class MinimaxPolicy(ScriptedPolicy):
    """Perfect play with a transposition table; uniform among the optimal actions."""

    name = "minimax"

    def __init__(self) -> None:
        super().__init__()
        self._search = Minimax()

    def choose(self, state: State, seat: int, rng: random.Random) -> str:
        """An action of the best value; `ValueError` when the game is too large or has hidden or random parts."""
        return rng.choice(self._search.optimal_actions(state))


class TablePolicy(ScriptedPolicy):
    """Samples from a tabular policy."""

    def __init__(self, name: str, table: TabularPolicy) -> None:
        super().__init__()
        self.name = name
        self._table = table

    def choose(self, state: State, seat: int, rng: random.Random) -> str:
        """An action drawn from the table's distribution."""
        distribution = self._table(state, seat)
        return rng.choices(list(distribution), weights=list(distribution.values()))[0]


def scripted_policy(name: str, game: Game) -> ScriptedPolicy:
    """The scripted policy called `name` for `game`; `ValueError` when there is none."""
    if name == "random":
        return RandomPolicy()
    if name == "minimax":
        return MinimaxPolicy()
    if name == "equilibrium":
        if game.spec != "kuhn_poker":
            raise ValueError(f"got policy 'equilibrium' for {game.spec!r}; it is known for 'kuhn_poker' (one hand)")
        return TablePolicy("equilibrium", kuhn_equilibrium())
    raise ValueError(f"there is no scripted policy {name!r}; known: {', '.join(SCRIPTED_NAMES)}")
