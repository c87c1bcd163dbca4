"""A position of an OpenSpiel game as one of our immutable states.

A state is its game and the moves made so far. OpenSpiel's own state is carried along, cloned for every move, left out
of comparisons, and rebuilt from the moves after pickling. What a seat sees is what OpenSpiel shows that seat: boards
whole, hidden cards only to their owner.

Left out: undoing moves, and observations as tensors.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

from spiral.games.adapters.openspiel import text as words
from spiral.games.base import CHANCE, TERMINAL, State, Style

if TYPE_CHECKING:
    from spiral.games.adapters.openspiel.game import OpenSpielGame

Move: TypeAlias = tuple[int, str]
"""Who acted, a seat or chance, and what they did."""

_PUBLIC_MOVES = frozenset({"kuhn_poker", "leduc_poker", "liars_dice", "universal_poker"})
"""Games with hidden cards or dice in which every move of a player is seen by both."""
_BOARD_IS_ALL = frozenset({"breakthrough", "connect_four", "hex", "nim", "othello", "tic_tac_toe"})
"""Games whose future depends on the board and the seat to act alone."""
_CHIPS_ON_THE_TABLE = frozenset({"leduc_poker"})
"""Games with hidden cards whose observation, other than the information state, tells the chips of both seats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenSpielState(State):
    """The moves made so far. `position` and `past` follow from them and are carried along to save work."""

    game: OpenSpielGame
    moves: tuple[Move, ...] = ()
    position: Any = dataclasses.field(compare=False, repr=False)
    """OpenSpiel's state; never changed."""
    past: tuple[str, str] = dataclasses.field(default=("", ""), compare=False, repr=False)
    """A fingerprint of what each seat saw and did at its own decisions; empty where the moves tell it all."""

    def __reduce__(self) -> tuple[Callable[..., OpenSpielState], tuple[object, ...]]:
        """OpenSpiel's state is not pickled: its moves are played again."""
        return _rebuild, (self.game, self.moves, tuple(self.position.history()), self.past)

    @property
    def current_player(self) -> int:
        """OpenSpiel numbers seats, chance and the end as we do."""
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
        """Moves a copy of OpenSpiel's state on."""
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

    def information_state(self, seat: int) -> str:
        """Perfect recall, whether OpenSpiel's own text has it or not: all that the seat has seen and done."""
        if self.game.perfect_information:
            return self._told()
        return f"{self._known(seat)} | {self._told() if self._open_moves else self.past[seat]}"

    def position_key(self) -> Hashable:
        """The board and the seat to act, where that is known to be all; otherwise the moves."""
        if self.game.short_name in _BOARD_IS_ALL and not self.game.parameters.get("swap"):
            return (self.game, self.current_player, str(self.position))
        return self

    def observation(self, seat: int, style: Style = "full") -> str:
        """The compact form is OpenSpiel's own text in one line."""
        name, params = self.game.short_name, self.game.parameters
        if style == "compact":
            return f"{self.game.name}:{seat}:{words.one_line(self._known(seat, now=self.game.perfect_information))}"
        seen = self._known(seat, now=True)
        title = "The position" if self.game.perfect_information else "What you see"
        shown = words.view(name, params, seen, seat) or f"{title}:\n{seen or '(nothing yet)'}"
        lines = [_introduction(self.game), words.seats(name, seat), self._history(seat), shown]
        if self.is_terminal:
            lines.append(f"The game is over. Your return is {self.returns()[seat]:g}.")
        elif self.current_player == seat:
            lines.append(f"It is your turn. Your legal actions: {words.listed(self.legal_actions())}.")
        return "\n".join(lines)

    @functools.cached_property
    def _choices(self) -> dict[str, tuple[int, float]]:
        """What the player to act or chance may do: its name, OpenSpiel's number for it, and chance's odds."""
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
        """Whether every move of a player is seen by both."""
        return self.game.perfect_information or self.game.short_name in _PUBLIC_MOVES

    def _history(self, seat: int) -> str:
        """Every move, where moves are seen by both; otherwise the seat's own."""
        if self._open_moves:
            return f"Moves so far: {self._told() or 'none'}."
        own = [action for player, action in self.moves if player == seat]
        return f"Your own moves so far: {'; '.join(own) or 'none'}."

    def _told(self) -> str:
        """The moves that both seats see: chance's too, unless something is hidden."""
        shown = [move for move in self.moves if move[0] != CHANCE or self.game.perfect_information]
        return "; ".join(f"{'chance' if player == CHANCE else f'seat {player}'}: {action}" for player, action in shown)

    def _known(self, seat: int, now: bool = False) -> str:
        """OpenSpiel's text for a seat: the one with a memory if there is one, or of what is on the table `now`."""
        table = now and (self.game.perfect_information or self.game.short_name in _CHIPS_ON_THE_TABLE)
        kind = self.game.kind
        if kind.provides_observation_string and (table or not kind.provides_information_state_string):
            return words.tidy(self.position.observation_string(seat))
        return words.tidy(self.position.information_state_string(seat))


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
    """The rules, or what OpenSpiel says of a game whose rules are not written here."""
    known = words.rules(game.short_name, game.parameters)
    if known is not None:
        return f"You are playing {game.long_name}. {known}"
    given = "".join(f", {key} {value!r}" for key, value in game.parameters.items() if value not in {"", False})
    information = "Nothing is hidden" if game.perfect_information else "Some things are hidden from each player"
    return (
        f"You are playing {game.long_name} by the rules of {game.short_name} in OpenSpiel{given}. {information}. One"
        f" player wins what the other loses, at most {game.original.max_utility():g}."
    )
