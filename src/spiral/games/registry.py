"""Finding a game by name: the native ones here, others through the entry-point group "spiral.games".

A package adds a game by naming its `Game` class in its pyproject:

    [project.entry-points."spiral.games"]
    nim = "my_package.nim:Nim"
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import re
from importlib.metadata import entry_points

from spiral.games.base import Game

ENTRY_POINT_GROUP = "spiral.games"

NATIVE_GAMES = {
    "tictactoe": "spiral.games.tictactoe:TicTacToe",
    "kuhn_poker": "spiral.games.kuhn_poker:KuhnPoker",
    "simple_negotiation": "spiral.games.simple_negotiation:SimpleNegotiation",
    "leduc_poker": "spiral.games.leduc_poker:LeducPoker",
    "connect_four": "spiral.games.connect_four:ConnectFour",
}

_SPEC = re.compile(r"^\s*([A-Za-z0-9_.:/-]+)\s*(?:\((.*)\))?\s*$", re.DOTALL)


def game_names() -> tuple[str, ...]:
    """Every name that `load_game` knows, native games first."""
    installed = sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    return (*NATIVE_GAMES, *(name for name in installed if name not in NATIVE_GAMES))


def load_game(spec: str, **params: object) -> Game:
    """The game called `spec`, for example `load_game("kuhn_poker", hands=5)` or `load_game("kuhn_poker(hands=5)")`.

    Raises `ValueError` for an unknown name, an unknown parameter or a value the game refuses.
    """
    match = _SPEC.match(spec)
    if match is None:
        raise ValueError(f"got game {spec!r}; expected a name such as 'tictactoe' or 'kuhn_poker(hands=5)'")
    name, inner = match.group(1), match.group(2)
    game_class = _find_class(name)
    given = {**_parse_params(spec, inner or ""), **params}
    known = {field.name: field.default for field in dataclasses.fields(game_class)}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"game {name!r} has no parameter {key!r}; it has: {', '.join(known) or 'none'}")
        if type(value) is not type(known[key]):
            raise ValueError(
                f"game {name!r} got {key}={value!r}; expected a value of type {type(known[key]).__name__},"
                f" such as {known[key]!r}"
            )
    return game_class(**given)


def _find_class(name: str) -> type[Game]:
    """The class behind a registered name."""
    if name in NATIVE_GAMES:
        module, _, attribute = NATIVE_GAMES[name].partition(":")
        found: type[Game] = getattr(importlib.import_module(module), attribute)
        return found
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            loaded = point.load()
            if not (isinstance(loaded, type) and issubclass(loaded, Game)):
                raise ValueError(f"entry point {point.value!r} of game {name!r} is not a subclass of spiral.games.Game")
            return loaded
    names = game_names()
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"there is no game {name!r}{hint} Known games: {', '.join(names)}")


def _parse_params(spec: str, inner: str) -> dict[str, object]:
    """`hands=5, style='x'` as a dictionary of Python literals."""
    params: dict[str, object] = {}
    for item in filter(None, (part.strip() for part in inner.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"got game {spec!r}; expected parameters as name=value, found {item!r}")
        try:
            params[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            params[key.strip()] = value.strip()
    return params
