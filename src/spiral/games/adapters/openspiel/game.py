"""Games of OpenSpiel (Lanctot et al., 2019, arXiv 1908.09453) behind our own `Game` and `State`.

Each of its turn-based, two-player, zero-sum games becomes a class, made on demand: "openspiel/NAME". Its fields are the
parameters that OpenSpiel lists for it.

A state is its game and the moves made so far. OpenSpiel's own state is kept beside them, cloned for every move, left
out of comparisons, and rebuilt from the moves after pickling. A player sees what OpenSpiel shows it: whole boards, and
only its own hidden cards.

Not supported: simultaneous moves (although OpenSpiel can put them one after another), rewards before the end, games of
imperfect recall, games that wrap others, and parameters that are not plain values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import keyword
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, ClassVar, TypeAlias

from spiral.games.adapters.openspiel import text as words
from spiral.games.base import CHANCE, TERMINAL, Game, State, Style
from spiral.games.registry import load_game

PREFIX = "openspiel/"
TESTED = ("breakthrough", "connect_four", "hex", "leduc_poker", "liars_dice", "nim", "othello", "pig")
"""Games to list when OpenSpiel is not installed."""
MISSING = "OpenSpiel is not installed; install it with pip install open_spiel"
MAX_NODES = 600_000
"""Trees up to this size count as enumerable; that of tic-tac-toe has 549,946 nodes."""

Move: TypeAlias = tuple[int, str]
"""The actor, a player or chance, and its action."""

_PUBLIC_MOVES = frozenset({"kuhn_poker", "leduc_poker", "liars_dice", "universal_poker"})
"""Games with hidden cards or dice in which both players see every move of a player."""
_BOARD_IS_ALL = frozenset({"breakthrough", "connect_four", "hex", "nim", "othello", "tic_tac_toe"})
"""Games whose future depends only on the board and the player to act."""
_CHIPS_ON_THE_TABLE = frozenset({"leduc_poker"})
"""Games with hidden cards whose observation, unlike the information state, shows the chips of both players."""

_FAULTY = {"quoridor": "OpenSpiel itself warns of known faults in it"}


def names() -> dict[str, str | None]:
    """Return every game of OpenSpiel, without the prefix, with the reason why it cannot be played here, or None."""
    if importlib.util.find_spec("pyspiel") is None:
        return dict.fromkeys(TESTED, MISSING)
    return {name: _why_not(kind) for name, kind in sorted(_kinds().items())}


@functools.cache
def game_class(name: str) -> type[Game]:
    """Return the class of OpenSpiel's game `name`, always the same one; `ValueError` when it is not available."""
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
    """The reason why games of this kind cannot be played here, or None."""
    has_text = kind.provides_observation_string or kind.provides_information_state_string
    faults = {
        "not for two players": not kind.min_num_players <= 2 <= kind.max_num_players,
        "its moves are simultaneous": "SEQUENTIAL" not in str(kind.dynamics),
        "made out of another game or a file": not kind.default_loadable,
        "not zero-sum": not str(kind.utility).endswith(".ZERO_SUM"),
        "pays before the end": not str(kind.reward_model).endswith(".TERMINAL"),
        "samples chance unseen": "SAMPLED" in str(kind.chance_mode),
        "its players have imperfect recall": "Imperfect Recall" in kind.long_name,
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
            game.new_initial_state()  # some games check their parameters only here
    except Exception as error:  # SpielError, or whatever the standard library of C++ raises
        given = ", ".join(f"{key}={value!r}" for key, value in changed)
        reason = " ".join(str(error).split())
        raise ValueError(f"OpenSpiel refuses {name} with {given or 'its defaults'}: {reason}") from error
    return game


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide what OpenSpiel prints on standard error before it raises an error."""
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
    """The base of all OpenSpiel games; `game_class` derives a class for each, with its parameters as fields."""

    short_name: ClassVar[str]
    """OpenSpiel's own name for it."""
    long_name: ClassVar[str]
    """OpenSpiel's name for people."""

    def __post_init__(self) -> None:
        """Refuse what OpenSpiel refuses, and sizes that would make OpenSpiel end the whole process."""
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
        """Whether nothing is hidden from a player."""
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
        """See `Game.spec`; strings are quoted, because pile_sizes='5' looks like a number otherwise."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenSpielState(State):
    """The moves made so far. `position` and `past` follow from them and are kept to save work."""

    game: OpenSpielGame
    moves: tuple[Move, ...] = ()
    position: Any = dataclasses.field(compare=False, repr=False)
    """OpenSpiel's state; never changed."""
    past: tuple[str, str] = dataclasses.field(default=("", ""), compare=False, repr=False)
    """A fingerprint of what each player saw and did at its own decisions; empty where all moves are public."""

    def __reduce__(self) -> tuple[Callable[..., OpenSpielState], tuple[object, ...]]:
        """Pickle the moves instead of OpenSpiel's state."""
        return _rebuild, (self.game, self.moves, tuple(self.position.history()), self.past)

    @property
    def current_player(self) -> int:
        """OpenSpiel's numbers of players, chance and the end are the same."""
        return int(self.position.current_player())

    def legal_actions(self) -> tuple[str, ...]:
        """In OpenSpiel's order."""
        return tuple(self._choices) if self.current_player >= 0 else ()

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """In OpenSpiel's order, impossible ones left out."""
        if self.current_player != CHANCE:
            return ()
        return tuple((name, chance) for name, (_, chance) in self._choices.items())

    def apply(self, action: str) -> OpenSpielState:
        """Apply the action to a copy of OpenSpiel's state."""
        if action not in self._choices:
            raise self.refuse(action)
        player, past = self.current_player, self.past
        if player >= 0 and not self._open_moves:
            seen = "\0".join((past[player], self._known(player), action))
            mark = blake2b(seen.encode(), digest_size=8).hexdigest()
            past = (mark, past[1]) if player == 0 else (past[0], mark)
        position = self.position.child(self._choices[action][0])
        return OpenSpielState(game=self.game, moves=(*self.moves, (player, action)), position=position, past=past)

    def returns(self) -> tuple[float, float]:
        """OpenSpiel's, at the end."""
        if self.current_player != TERMINAL:
            return (0.0, 0.0)
        first, second = self.position.returns()
        if not abs(first + second) <= 1e-9:
            raise ValueError(f"OpenSpiel pays {(first, second)} in {self.game.spec}; expected a sum of zero")
        return (first + 0.0, 0.0 - first)  # never -0.0

    def information_state(self, player: int) -> str:
        """All that the player has seen and done: perfect recall, also where OpenSpiel's own text has none."""
        if self.game.perfect_information:
            return self._public_moves()
        return f"{self._known(player)} | {self._public_moves() if self._open_moves else self.past[player]}"

    def position_key(self) -> Hashable:
        """The board and the player to act in games known to depend on nothing else; otherwise the moves."""
        if self.game.short_name in _BOARD_IS_ALL and not self.game.parameters.get("swap"):
            return (self.game, self.current_player, str(self.position))
        return self

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form is OpenSpiel's own text in one line."""
        name, params = self.game.short_name, self.game.parameters
        if style == "compact":
            return f"{self.game.name}:{player}:{words.one_line(self._known(player, now=self.game.perfect_information))}"
        seen = self._known(player, now=True)
        title = "The position" if self.game.perfect_information else "What you see"
        shown = words.view(name, params, seen, player) or f"{title}:\n{seen or '(nothing yet)'}"
        lines = [_introduction(self.game), words.player_line(name, player), self._history(player), shown]
        if self.is_terminal:
            lines.append(f"The game is over. Your return is {self.returns()[player]:g}.")
        elif self.current_player == player:
            lines.append(f"It is your turn. Your legal actions: {words.listed(self.legal_actions())}.")
        return "\n".join(lines)

    @functools.cached_property
    def _choices(self) -> dict[str, tuple[int, float]]:
        """The actions of the player to act or of chance: name, OpenSpiel's number, and probability."""
        player = self.current_player
        if player == TERMINAL:
            return {}
        if player == CHANCE:
            odds = [(number, chance) for number, chance in self.position.chance_outcomes() if chance > 0]
        else:
            odds = [(number, 1.0) for number in self.position.legal_actions()]
        written = [self.position.action_to_string(player, number) for number, _ in odds]
        return dict(zip(words.action_names(self.game.short_name, written), odds, strict=True))

    @property
    def _open_moves(self) -> bool:
        """Whether both players see every move of a player."""
        return self.game.perfect_information or self.game.short_name in _PUBLIC_MOVES

    def _history(self, player: int) -> str:
        """Every move where both players see all moves; otherwise the player's own."""
        if self._open_moves:
            return f"Moves so far: {self._public_moves() or 'none'}."
        own = [action for mover, action in self.moves if mover == player]
        return f"Your own moves so far: {'; '.join(own) or 'none'}."

    def _public_moves(self) -> str:
        """The moves that both players see: chance's too, unless something is hidden."""
        shown = [move for move in self.moves if move[0] != CHANCE or self.game.perfect_information]
        return "; ".join(f"{'chance' if player == CHANCE else f'seat {player}'}: {action}" for player, action in shown)

    def _known(self, player: int, now: bool = False) -> str:
        """OpenSpiel's text for a player: its information state if it has one; with `now` the present observation."""
        table = now and (self.game.perfect_information or self.game.short_name in _CHIPS_ON_THE_TABLE)
        kind = self.game.kind
        if kind.provides_observation_string and (table or not kind.provides_information_state_string):
            return words.tidy(self.position.observation_string(player))
        return words.tidy(self.position.information_state_string(player))


def _rebuild(
    game: OpenSpielGame, moves: tuple[Move, ...], numbers: tuple[int, ...], past: tuple[str, str]
) -> OpenSpielState:
    """A state from its moves, given by name and by OpenSpiel's numbers."""
    position = game.original.new_initial_state()
    for number in numbers:
        position.apply_action(number)
    return OpenSpielState(game=game, moves=moves, position=position, past=past)


@functools.lru_cache(maxsize=256)
def _introduction(game: OpenSpielGame) -> str:
    """The rules, or OpenSpiel's own description of a game whose rules are not in `text`."""
    known = words.rules(game.short_name, game.parameters)
    if known is not None:
        return f"You are playing {game.long_name}. {known}"
    given = "".join(f", {key} {value!r}" for key, value in game.parameters.items() if value not in {"", False})
    information = "Nothing is hidden" if game.perfect_information else "Some things are hidden from each player"
    return (
        f"You are playing {game.long_name} by the rules of {game.short_name} in OpenSpiel{given}. {information}. One"
        f" player wins what the other loses, at most {game.original.max_utility():g}."
    )


@functools.lru_cache(maxsize=256)
def _load_again(spec: str) -> Game:
    """Load a game, cached, because every unpickled state needs its game."""
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
    """Number of lines of play, finished or not, that begin with these piles."""
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
"""Upper bounds of the number of nodes in the trees of small games."""
