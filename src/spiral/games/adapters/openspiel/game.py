"""Games of OpenSpiel (Lanctot et al., 2019, arXiv 1908.09453) behind our own `Game` and `State`.

Any of its turn-based, two-player, zero-sum games becomes a class here, made on demand: "openspiel/NAME", with the
parameters that OpenSpiel lists for it as fields.

Left out: simultaneous moves (although OpenSpiel can put them one after another), rewards before the end, games in which
players forget on purpose, games that wrap others, and parameters that are not plain values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import keyword
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from spiral.games.adapters.openspiel.state import OpenSpielState
from spiral.games.base import Game
from spiral.games.registry import load_game

PREFIX = "openspiel/"
TESTED = ("breakthrough", "connect_four", "hex", "leduc_poker", "liars_dice", "nim", "othello", "pig")
"""Named where OpenSpiel is missing and cannot be asked what it has."""
MISSING = 'OpenSpiel is not installed; install it with pip install "spiral-selfplay[games]"'
MAX_NODES = 600_000
"""Trees up to this size count as enumerable; that of tic-tac-toe has 549,946 nodes."""

_FAULTY = {"quoridor": "OpenSpiel itself warns of known faults in it"}


def names() -> dict[str, str | None]:
    """Every game of OpenSpiel, without our prefix, and why it cannot be played here; None where it can."""
    if importlib.util.find_spec("pyspiel") is None:
        return dict.fromkeys(TESTED, MISSING)
    return {name: _why_not(kind) for name, kind in sorted(_kinds().items())}


@functools.cache
def game_class(name: str) -> type[Game]:
    """The class of the game that OpenSpiel calls `name`, always the same one; `ValueError` when not available."""
    known = names()
    reason = known.get(name, "OpenSpiel has no such game") if None in known.values() else MISSING
    if reason is not None:
        raise ValueError(f"game {PREFIX + name!r} is not available: {reason}")
    kind = _kinds()[name]
    information = "hidden information" if "IMPERFECT" in str(kind.information) else "perfect information"
    chance = ", chance" if "STOCHASTIC" in str(kind.chance_mode) else ""
    namespace = {
        "__module__": __name__,
        "__doc__": f"OpenSpiel's {name}.",
        "name": PREFIX + name,
        "short_name": name,
        "long_name": kind.long_name,
        "summary": f"{kind.long_name}: {information}{chance}",
        "rules": f"OpenSpiel {_version()}",
    }
    fields = [(key, type(value), dataclasses.field(default=value)) for key, value in _parameters(kind).items()]
    title = "".join(part.capitalize() for part in name.split("_"))
    return dataclasses.make_dataclass(
        title, fields, bases=(OpenSpielGame,), namespace=namespace, frozen=True, kw_only=True
    )


@functools.cache
def _kinds() -> Mapping[str, Any]:
    """OpenSpiel's `GameType` of every game, by name."""
    import pyspiel  # optional: the extra "games"

    return {kind.short_name: kind for kind in pyspiel.registered_games()}


def _version() -> str:
    import pyspiel  # optional: the extra "games"

    return str(pyspiel.__version__)


def _why_not(kind: Any) -> str | None:
    """Why games of this kind cannot be played here; None when they can."""
    has_text = kind.provides_observation_string or kind.provides_information_state_string
    faults = {
        "not for two players": not kind.min_num_players <= 2 <= kind.max_num_players,
        "its moves are simultaneous": "SEQUENTIAL" not in str(kind.dynamics),
        "made out of another game or a file": not kind.default_loadable,
        "not zero-sum": not str(kind.utility).endswith(".ZERO_SUM"),
        "pays before the end": not str(kind.reward_model).endswith(".TERMINAL"),
        "draws chance out of sight": "SAMPLED" in str(kind.chance_mode),
        "its players forget on purpose": "Imperfect Recall" in kind.long_name,
        "has no text of what a player sees": not has_text,
    }
    return next((reason for reason, holds in faults.items() if holds), _FAULTY.get(kind.short_name))


def _parameters(kind: Any) -> dict[str, Any]:
    """The parameters that can be fields: plain values whose names are free."""
    return {
        key: value
        for key, value in kind.parameter_specification.items()
        if type(value) in {bool, int, float, str}
        and key.isidentifier()
        and not keyword.iskeyword(key)
        and not hasattr(OpenSpielGame, key)
    }


@functools.lru_cache(maxsize=256)
def _load(name: str, changed: tuple[tuple[str, Any], ...]) -> Any:
    """OpenSpiel's own game, given the parameters that are not at their defaults."""
    import pyspiel  # optional: the extra "games"

    try:
        with _silence():
            game = pyspiel.load_game(name, dict(changed))
            game.new_initial_state()  # where some games look at their parameters first
    except Exception as error:  # SpielError, or whatever the standard library of C++ raises
        given = ", ".join(f"{key}={value!r}" for key, value in changed)
        reason = " ".join(str(error).split())
        raise ValueError(f"OpenSpiel refuses {name} with {given or 'its defaults'}: {reason}") from error
    return game


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps standard error clean of what OpenSpiel itself prints there before it raises an error."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenSpielGame(Game):
    """What all games of OpenSpiel share; `game_class` derives a class for each, with its parameters as fields."""

    short_name: ClassVar[str]
    """OpenSpiel's own name for it."""
    long_name: ClassVar[str]
    """The same for readers."""

    def __post_init__(self) -> None:
        """Refuses what OpenSpiel refuses, and sizes with which some of its games end the whole process."""
        for key, least in self._defaults().items():
            value = self.parameters[key]
            if type(value) is int and value < min(least, 1):
                raise ValueError(f"game {self.name!r} got {key}={value}; expected {min(least, 1)} or more")
        if (players := self.original.num_players()) != 2:
            raise ValueError(f"game {self.spec!r} is for {players} players; expected 2")
        if (reason := _why_not(self.kind)) is not None:
            raise ValueError(f"game {self.spec!r} is not available: {reason}")
        first = self.original.new_initial_state()
        if first.is_terminal() or not first.legal_actions():
            raise ValueError(f"game {self.spec!r} is over before its first move; give it other parameters")

    def __reduce__(self) -> tuple[Callable[[str], Game], tuple[str]]:
        """The class cannot be imported by name, but the game can be loaded by its spec."""
        return _load_again, (self.spec,)

    @functools.cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def original(self) -> Any:
        """OpenSpiel's own game."""
        return _load(self.short_name, tuple(self._changed().items()))

    @functools.cached_property
    def kind(self) -> Any:
        """OpenSpiel's `GameType` for these parameters."""
        return self.original.get_type()

    @functools.cached_property
    def perfect_information(self) -> bool:
        """Whether nothing is hidden from anyone."""
        return str(self.kind.information).endswith(".PERFECT_INFORMATION")

    def initial_state(self) -> OpenSpielState:
        """The first state, often a chance node."""
        return OpenSpielState(game=self, position=self.original.new_initial_state())

    @property
    def enumerable(self) -> bool:
        """True for games whose tree is known to be small; the others count as large."""
        size = _SIZES.get(self.short_name, MAX_NODES + 1)
        return (size if isinstance(size, int) else size(self.parameters)) <= MAX_NODES

    @property
    def max_turns(self) -> int:
        """OpenSpiel's own bound."""
        return max(1, int(self.original.max_game_length()))

    @property
    def min_return(self) -> float:
        """OpenSpiel's own bound."""
        return float(self.original.min_utility())

    @property
    def max_return(self) -> float:
        """OpenSpiel's own bound."""
        return float(self.original.max_utility())

    @property
    def spec(self) -> str:
        """As everywhere, with texts in quotes: pile_sizes='5' is a text although it looks like a number."""
        changed = [f"{key}={value!r}" for key, value in self._changed().items()]
        return f"{self.name}({','.join(changed)})" if changed else self.name

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {field.name: field.default for field in dataclasses.fields(cls)}

    def _changed(self) -> dict[str, Any]:
        """The parameters that are not at their defaults."""
        return {
            key: self.parameters[key] for key, default in self._defaults().items() if self.parameters[key] != default
        }


@functools.lru_cache(maxsize=256)
def _load_again(spec: str) -> Game:
    """Kept, because every state that is unpickled asks for its game."""
    return load_game(spec)


def _liars_dice_nodes(params: Mapping[str, Any]) -> int:
    """Every roll with every rising row of bids, called or not."""
    dice = 2 * params["numdice"]
    bids = dice * params["dice_sides"]
    return int(params["dice_sides"] ** dice * 2 ** (bids + 1)) if bids < 20 else MAX_NODES + 1


def _nim_nodes(params: Mapping[str, Any]) -> int:
    piles = tuple(sorted(int(size) for size in params["pile_sizes"].split(";")))
    return _nim_lines(piles) if sum(piles) <= 20 else MAX_NODES + 1


@functools.cache
def _nim_lines(piles: tuple[int, ...]) -> int:
    """How many lines of play, finished or not, begin with these piles."""
    after = [
        tuple(sorted((*piles[:place], left, *piles[place + 1 :])))
        for place, size in enumerate(piles)
        for left in range(size)
    ]
    return 1 + sum(map(_nim_lines, after))


_SIZES: dict[str, int | Callable[[Mapping[str, Any]], int]] = {
    "coordinated_mp": 15,
    "kuhn_poker": 58,
    "leduc_poker": 9_457,
    "liars_dice": _liars_dice_nodes,
    "nim": _nim_nodes,
    "tic_tac_toe": 549_946,
}
"""How many nodes the trees of small games have, at most."""
