"""Finding a game by name: the native ones here, others through entry points or by where they are.

A package adds a game by naming its `Game` class in its pyproject, under the name that the class gives itself:

    [project.entry-points."spiral.games"]
    nim = "my_package.nim:Nim"

A game of one's own needs no package: a class without a name goes by its place, as in `load_game("my_game:Nim")`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
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

    "module:Class" is the game of that class, for example `load_game("my_game:Nim(heap=21)")`.

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
    """The class behind a name, registered or of the form "module:Class"."""
    registered = _registered()
    if name in registered:
        return _import_class(registered[name], name)
    if ":" in name:
        found = _import_class(name, name)
        if found.name != name and not _leads_to(found, registered.get(found.name, found.name)):
            raise ValueError(
                f"the class {name!r} gives itself the name {found.name!r}, under which `load_game` does not find it;"
                " leave `name` out of the class, or register it as an entry point (see CONTRIBUTING.md)"
            )
        return found
    near = difflib.get_close_matches(name, registered, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"there is no game {name!r}{hint} Known games: {', '.join(game_names())}; or give 'module:Class'")


def _registered() -> dict[str, str]:
    """Name to "module:Class"; a native game cannot be replaced."""
    points = entry_points(group=ENTRY_POINT_GROUP)
    return {point.name: f"{point.module}:{point.attr}" for point in points} | NATIVE_GAMES


def _leads_to(game_class: type[Game], path: str) -> bool:
    """Whether `path` is another way to the same class."""
    return ":" in path and _import_class(path, path) is game_class


def _import_class(path: str, name: str) -> type[Game]:
    """The `Game` class at "module:Class". Importing somebody's module can fail in any way."""
    module, _, attribute = path.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        here = isinstance(error, ModuleNotFoundError) and error.name == module
        hint = f"; if {module}.py is in this directory, run with PYTHONPATH=." if here else ""
        reason = f"{type(error).__name__}: {error}{hint}"
        raise ValueError(f"game {name!r} cannot be imported from {path!r}: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, Game)):
        raise ValueError(f"game {name!r} is {path!r}, which is not a subclass of spiral.games.Game")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ValueError(f"game {name!r} is {path!r}, which is abstract; write its {missing}")
    return found


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
