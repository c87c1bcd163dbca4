"""Find games by name: native ones, those of installed packages, and classes by their module.

A package adds a game by an entry point in its pyproject, under the name that the class gives itself:

    [project.entry-points."spiral.games"]
    hex = "my_package.hex:Hex"

A game of your own needs no package: a class without a name is loaded by its module, as in `load_game("my_game:Nim")`.

Adapters provide the games of other libraries under a prefix, as in `load_game("openspiel/liars_dice(numdice=2)")`. An
adapter is a module with two functions: `names()` maps every name without the prefix to the reason why it is not
available, or None; `game_class(name)` returns the class. It is imported when one of its games is loaded.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from types import ModuleType

from spiral.games.base import Game
from spiral.games.installed import entry_points

ENTRY_POINT_GROUP = "spiral.games"

NATIVE_GAMES = {
    "tictactoe": "spiral.games.tictactoe:TicTacToe",
    "kuhn_poker": "spiral.games.kuhn_poker:KuhnPoker",
    "simple_negotiation": "spiral.games.simple_negotiation:SimpleNegotiation",
    "leduc_poker": "spiral.games.leduc_poker:LeducPoker",
    "connect_four": "spiral.games.connect_four:ConnectFour",
    "nim": "spiral.games.nim:Nim",
    "multi_kuhn": "spiral.games.multi_kuhn:MultiKuhn",
    "lewis_signalling": "spiral.games.lewis_signalling:LewisSignalling",
    "prisoners_dilemma": "spiral.games.prisoners_dilemma:PrisonersDilemma",
    "proposer_solver": "spiral.evaluation.reasoning.proposer_game:ProposerSolver",
}
"""The class of each name. That of proposer and solver needs the grader, and so is above this package."""

ADAPTERS = {
    "openspiel": "spiral.games.adapters.openspiel.game",
    "textarena": "spiral.games.adapters.textarena.game",
    "problems": "spiral.evaluation.reasoning.problem_game",
}
"""The adapter's module for each prefix. That of problems needs the grader, and so is above this package."""
OPEN = ("problems",)
"""Prefixes under which a name need not be listed, since a data file may have any."""

MAX_SPEC = 1_000
"""Maximum length of a game's name and parameters."""
SHOWN = 80
"""Maximum number of characters of a wrong value that an error repeats."""

_SPEC = re.compile(r"^\s*([A-Za-z0-9_.:/-]+)\s*(?:\((.*)\)|\?(.*))?\s*$", re.DOTALL)
_PARAM = re.compile(r"""(?:[^,'"]|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")+""")
"""One parameter: up to a comma that is not in quotes."""


def game_names() -> tuple[str, ...]:
    """Return the names of all native and installed games, native ones first, without those of adapters."""
    installed = sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    return (*NATIVE_GAMES, *(name for name in installed if name not in NATIVE_GAMES))


def own_games() -> dict[str, str | None]:
    """Return every game of `game_names` with the reason why it cannot be loaded, or None."""
    found: dict[str, str | None] = {}
    for name in game_names():
        try:
            load_game(name)
        except ValueError as error:
            found[name] = str(error)
        else:
            found[name] = None
    return found


def adapter_games() -> dict[str, str | None]:
    """Return the full name of every adapter's game with the reason why it is not available, or None.

    This imports the libraries that are installed, which takes a moment.
    """
    return {f"{prefix}/{name}": reason for prefix in ADAPTERS for name, reason in _adapter(prefix).names().items()}


def load_game(spec: str, **params: object) -> Game:
    """Return a game by its name, with parameters.

        load_game("kuhn_poker", hands=5)    load_game("kuhn_poker(hands=5)")    load_game("my_game:Nim(heap=21)")
        load_game("kuhn_poker?hands=5")     load_game("problems/mine?data=train.jsonl&split=held_out")

    Raises:
        ValueError: The name or a parameter is unknown, or the game refuses a value.
    """
    match = _SPEC.match(spec) if len(spec) <= MAX_SPEC else None
    if match is None:
        raise ValueError(f"got game {spec[:SHOWN]!r}; expected a name such as 'tictactoe' or 'kuhn_poker(hands=5)'")
    name, inner, query = match.groups()
    game_class = _find_class(name)
    items = _PARAM.findall(inner or "") if query is None else query.split("&")
    given = {**_parse_params(spec, items), **params}
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
    """The class of a name, registered or of the form "module:Class"."""
    if name in NATIVE_GAMES:
        return _import_class(NATIVE_GAMES[name], name)
    if name.partition("/")[0] in ADAPTERS:
        return _adapted(name)
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
    raise _unknown(name)


def _adapter(prefix: str) -> ModuleType:
    """The adapter's module. It imports this one, so it cannot be imported above."""
    return importlib.import_module(ADAPTERS[prefix])


def _adapted(name: str) -> type[Game]:
    """The class of another library's game. If the library is missing, its adapter raises the error that says so."""
    prefix, _, rest = name.partition("/")
    adapter = _adapter(prefix)
    if prefix not in OPEN:
        known = adapter.names()
        if rest not in known and None in known.values():
            raise _unknown(name)
    found: type[Game] = adapter.game_class(rest)
    return found


def _unknown(name: str) -> ValueError:
    """The error for an unknown name, with the nearest known one."""
    near = _nearest(name)
    hint = f"; did you mean {near!r}?" if near else "."
    return ValueError(
        f"there is no game {name!r}{hint} Known games: {', '.join(game_names())}; those of other libraries, which"
        " `spiral games` lists; or give 'module:Class'"
    )


def _nearest(name: str) -> str | None:
    """The name that was probably meant, with or without a prefix. Adapters come last, since they take longer."""
    prefix, _, rest = name.partition("/")
    near = [] if prefix in ADAPTERS else difflib.get_close_matches(name, _registered(), n=1)
    if near:
        return near[0]
    full = [known for known, reason in adapter_games().items() if reason is None]
    if prefix in ADAPTERS:
        named = {known.partition("/")[2].casefold(): known for known in full if known.startswith(f"{prefix}/")}
    else:
        rest, named = name, {known.casefold(): known for known in full}
        named |= {known.partition("/")[2].casefold(): known for known in reversed(full)}
    near = difflib.get_close_matches(rest.casefold(), named, n=1)
    return named[near[0]] if near else None


def _registered() -> dict[str, str]:
    """Name to "module:Class"; a native game cannot be replaced."""
    points = entry_points(group=ENTRY_POINT_GROUP)
    return {point.name: f"{point.module}:{point.attr}" for point in points} | NATIVE_GAMES


def _leads_to(game_class: type[Game], path: str) -> bool:
    """Whether `path` is another way to the same class."""
    return ":" in path and _import_class(path, path) is game_class


def _import_class(path: str, name: str) -> type[Game]:
    """The `Game` class at "module:Class". Importing a user's module can raise anything, `SystemExit` included."""
    module, _, attribute = path.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # a script may end the process
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


def _parse_params(spec: str, items: Iterable[str]) -> dict[str, object]:
    """Parse `hands=5` and `style='x'` into Python literals; what is none is text."""
    params: dict[str, object] = {}
    for item in filter(None, (part.strip() for part in items)):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"got game {spec!r}; expected parameters as name=value, found {item!r}")
        try:
            params[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            params[key.strip()] = value.strip()
    return params
