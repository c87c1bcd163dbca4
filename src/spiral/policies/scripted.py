"""Policies that need no model: uniform random play, search, and equilibria.

`random` and `equilibrium` are whole names; `minimax` searches to the end of the game and `minimax(depth=4)` four moves
ahead, written as games write their parameters.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable

from spiral.core.policy import ScriptedPolicy, TurnReply, TurnRequest
from spiral.games import Game, State
from spiral.theory import DepthLimited, Minimax, TabularPolicy, equilibrium, uniform_policy

SCRIPTED_NAMES = ("random", "minimax", "equilibrium")
KNOWN = f"{', '.join(SCRIPTED_NAMES)}; minimax(depth=4) for larger games"


class _ListedPolicy(ScriptedPolicy):
    """A policy that chooses from the list of legal actions."""

    def _reply(self, request: TurnRequest) -> TurnReply:
        if not request.state.legal_actions():
            raise ValueError(f"{self.name} cannot play {request.game.spec}: it does not list its legal actions")
        return super()._reply(request)


class RandomPolicy(_ListedPolicy):
    """Uniform over the legal actions."""

    name = "random"

    def choose(self, state: State, seat: int, rng: random.Random) -> str:
        """Any legal action."""
        return rng.choice(state.legal_actions())


class MinimaxPolicy(_ListedPolicy):
    """Perfect play with a transposition table, uniform among the optimal actions; with `depth`, `DepthLimited` play."""

    def __init__(self, depth: int | None = None) -> None:
        super().__init__()
        self.name = "minimax" if depth is None else f"minimax(depth={depth})"
        self._search = Minimax() if depth is None else DepthLimited(depth)

    def choose(self, state: State, seat: int, rng: random.Random) -> str:
        """An action of the best value; `ValueError` when the game is too large or has hidden or random parts."""
        if isinstance(self._search, DepthLimited):
            return self._search.choose(state, rng)
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


def is_scripted(name: str) -> bool:
    """Whether a name, with parameters or without, is a scripted policy's; `check_scripted` says if they are right."""
    return name.partition("(")[0].strip() in SCRIPTED_NAMES


def check_scripted(name: str) -> None:
    """Raises `ValueError` where `scripted_policy` would for every game."""
    _parse(name)


def scripted_policy(name: str, game: Game) -> ScriptedPolicy:
    """The scripted policy called `name` for `game`; `ValueError` when there is none."""
    kind, depth = _parse(name)
    if kind == "random":
        return RandomPolicy()
    return MinimaxPolicy(depth) if kind == "minimax" else TablePolicy("equilibrium", equilibrium(game))


def able_opponents(names: Iterable[str], game: Game) -> list[str]:
    """Those who can play a game: minimax, for one, cannot play poker."""
    return [name for name in names if not is_scripted(name) or can_play(name, game)]


@functools.lru_cache(maxsize=256)
def can_play(opponent: str, game: Game) -> bool:
    """Whether a scripted opponent knows a game, found out by letting it try."""
    try:
        player = scripted_policy(opponent, game)
        if not _lists_actions(game):
            return False
        if isinstance(player, MinimaxPolicy):
            player.choose(game.initial_state(), 0, random.Random(0))
    except ValueError:
        return False
    return True


def _lists_actions(game: Game) -> bool:
    """Whether scripted players find something to choose from in the game's first decision."""
    state = game.initial_state()
    while state.is_chance:
        state = state.apply(state.chance_outcomes()[0][0])
    return bool(state.legal_actions())


def scripted_table(name: str, game: Game) -> TabularPolicy:
    """The probabilities with which the scripted policy called `name` plays; `ValueError` when they are not known."""
    kind, depth = _parse(name)
    if kind == "random":
        return uniform_policy
    if kind == "equilibrium":
        return equilibrium(game)
    if depth is not None:
        raise ValueError(
            f"the probabilities of {name} are not known, since it decides by random games; expected plain minimax, or"
            " measure its play with `spiral evaluate`"
        )
    return Minimax().policy


@functools.cache
def _parse(name: str) -> tuple[str, int | None]:
    """The kind of policy and its depth."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", name)
    kind, inner = match.groups() if match else (name, None)
    if kind not in SCRIPTED_NAMES:
        raise ValueError(f"there is no scripted policy {name!r}; known: {KNOWN}")
    if not inner:
        return kind, None
    depth = re.fullmatch(r"\s*depth\s*=\s*(\d+)\s*", inner)
    if kind != "minimax" or depth is None:
        raise ValueError(f"got {name!r}; only minimax has a parameter, a whole number as in minimax(depth=4)")
    DepthLimited(int(depth[1]))  # refuses depths out of range
    return kind, int(depth[1])
