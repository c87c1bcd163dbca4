"""Policies without a model: uniform random play, minimax search, equilibrium play, and the policy of a file.

Their names are `random`, `equilibrium`, `minimax` (searches to the end of the game), `minimax(depth=4)` (searches four
moves ahead) and `table:FILE` (`tables.py`).
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable

from spiral.core.policy import ScriptedPolicy, TurnReply, TurnRequest
from spiral.games import Game, State
from spiral.games.playout import resolve_chance
from spiral.policies.tables import TABLE, check_table, is_table_for, read_table, table_file
from spiral.theory import DepthLimited, TabularPolicy, equilibrium, require_two_player_zero_sum, uniform_policy
from spiral.theory.minimax import perfect_play

SCRIPTED_NAMES = ("random", "minimax", "equilibrium")
KNOWN = f"{', '.join(SCRIPTED_NAMES)}; minimax(depth=4) for larger games, {TABLE}FILE for probabilities in a file"


class _ListedPolicy(ScriptedPolicy):
    """A policy that chooses from the game's list of legal actions."""

    def _reply(self, request: TurnRequest) -> TurnReply:
        if not request.state.legal_actions():
            raise ValueError(f"{self.name} cannot play {request.game.spec}: it does not list its legal actions")
        return super()._reply(request)


class RandomPolicy(_ListedPolicy):
    """Uniform over the legal actions."""

    name = "random"

    def choose(self, state: State, player: int, rng: random.Random) -> str:
        """A legal action, all with the same probability."""
        return rng.choice(state.legal_actions())


class MinimaxPolicy(_ListedPolicy):
    """Perfect play by minimax search, uniform over the optimal actions."""

    def __init__(self, game: Game, depth: int | None = None) -> None:
        """`depth` is the number of moves to search ahead (`DepthLimited`); None searches to the end of the game."""
        super().__init__()
        self.name = "minimax" if depth is None else f"minimax(depth={depth})"
        self._search = perfect_play(game) if depth is None else DepthLimited(depth)

    @property
    def is_exact(self) -> bool:
        """Whether it searches to the end of the game."""
        return not isinstance(self._search, DepthLimited)

    def choose(self, state: State, player: int, rng: random.Random) -> str:
        """An action of the highest value.

        Raises:
            ValueError: The game is too large, hides information or has chance.
        """
        if isinstance(self._search, DepthLimited):
            return self._search.choose(state, rng)
        return rng.choice(self._search.optimal_actions(state))


class KnownPolicy(ScriptedPolicy):
    """Samples from probabilities that are known, such as those of an equilibrium."""

    def __init__(self, name: str, probabilities: TabularPolicy) -> None:
        """Take the policy's name and its probabilities."""
        super().__init__()
        self.name = name
        self._probabilities = probabilities

    def choose(self, state: State, player: int, rng: random.Random) -> str:
        """An action drawn from the distribution."""
        distribution = self._probabilities(state, player)
        return rng.choices(list(distribution), weights=list(distribution.values()))[0]


def is_scripted(name: str) -> bool:
    """Whether a name belongs to a scripted policy; `check_scripted` checks its parameters."""
    return name.startswith(TABLE) or name.partition("(")[0].strip() in SCRIPTED_NAMES


def check_scripted(name: str) -> None:
    """Raises `ValueError` when a name is not a scripted policy or its parameters are wrong, whatever the game."""
    if name.startswith(TABLE):
        check_table(table_file(name))
    else:
        _parse(name)


def scripted_policy(name: str, game: Game) -> ScriptedPolicy:
    """The scripted policy called `name` for `game`. Raises `ValueError` when there is none."""
    if name.startswith(TABLE):
        return KnownPolicy(name, read_table(table_file(name), game))
    kind, depth = _parse(name)
    if kind == "random":
        return RandomPolicy()
    require_two_player_zero_sum(game)
    return MinimaxPolicy(game, depth) if kind == "minimax" else KnownPolicy(kind, equilibrium(game))


def able_opponents(names: Iterable[str], game: Game) -> list[str]:
    """The names of policies that can play `game`: minimax, for example, cannot play poker.

    Names of models are kept, since models play every game.
    """
    return [name for name in names if not is_scripted(name) or can_play(name, game)]


@functools.lru_cache(maxsize=256)
def can_play(opponent: str, game: Game) -> bool:
    """Whether a scripted opponent can play a game, tested by asking it for a first move.

    Raises:
        ValueError: It is a table for this game that is damaged, or a file that is no table.
    """
    if opponent.startswith(TABLE):
        able = is_table_for(table_file(opponent), game)
        if able:
            read_table(table_file(opponent), game)  # a damaged one is not left out in silence
        return able
    try:
        player = scripted_policy(opponent, game)
        if not _lists_actions(game):
            return False
        if isinstance(player, MinimaxPolicy):
            player.choose(_first_decision(player, game), 0, random.Random(0))
    except ValueError:
        return False
    return True


def _first_decision(player: MinimaxPolicy, game: Game) -> State:
    """The state in which minimax is tried. Chance may deal first, where no deal has too many positions to search."""
    state = game.initial_state()
    return resolve_chance(state) if player.is_exact and game.enumerable else state


def _lists_actions(game: Game) -> bool:
    """Whether the game lists its legal actions at the first decision."""
    return bool(resolve_chance(game.initial_state()).legal_actions())


def scripted_table(name: str, game: Game) -> TabularPolicy:
    """The action probabilities of the scripted policy called `name`.

    Raises:
        ValueError: There is no such policy, or its probabilities are not known.
    """
    if name.startswith(TABLE):
        return read_table(table_file(name), game)
    kind, depth = _parse(name)
    if kind == "random":
        return uniform_policy
    require_two_player_zero_sum(game)
    if kind == "equilibrium":
        return equilibrium(game)
    if depth is not None:
        raise ValueError(
            f"{name} has no known action probabilities, because it decides by random games; use minimax without a"
            " depth, or evaluate it with `spiral evaluate`"
        )
    return perfect_play(game).policy


@functools.cache
def _parse(name: str) -> tuple[str, int | None]:
    """The kind of policy and its search depth, None for none."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", name)
    kind, inner = match.groups() if match else (name, None)
    if kind not in SCRIPTED_NAMES:
        raise ValueError(f"there is no scripted policy {name!r}; the scripted policies are {KNOWN}")
    if not inner:
        return kind, None
    depth = re.fullmatch(r"\s*depth\s*=\s*(\d+)\s*", inner)
    if kind != "minimax" or depth is None:
        raise ValueError(f"got {name!r}; only minimax takes a parameter, a whole number as in minimax(depth=4)")
    DepthLimited(int(depth[1]))  # raises ValueError for a depth out of range
    return kind, int(depth[1])
