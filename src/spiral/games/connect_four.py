"""Connect four on 6 rows and 7 columns. Player 0 plays X and moves first; an action is a column, "0" to "6".

Each player's discs are one integer, a bitboard: cell (row, column) is bit 7 * column + row, rows counted from the
bottom. The seventh bit of a column stays empty, so that four shifts find every line without wrapping round. The
layout is that of John Tromp's Fhourstones (https://tromp.github.io/c4/c4.html).

A win pays +1 to the winner and -1 to the other; a full board is a draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

from spiral.games.base import TERMINAL, Game, State, Style

ROWS, COLUMNS = 6, 7
COLUMN_NAMES = tuple(str(column) for column in range(COLUMNS))
COLUMN_BITS = tuple(0b111111 << 7 * column for column in range(COLUMNS))
BOTTOM_BITS = tuple(1 << 7 * column for column in range(COLUMNS))
TOP_BITS = tuple(1 << 7 * column + ROWS - 1 for column in range(COLUMNS))
CELL_BITS = tuple(tuple(1 << 7 * column + row for column in range(COLUMNS)) for row in reversed(range(ROWS)))
"""The bit of every cell, rows from top to bottom."""
SHIFTS = (1, 7, 6, 8)
"""Up, right, down-right and up-right."""
MARKS = "XO"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectFour(Game):
    """Four in a row, discs falling to the lowest empty row."""

    name: ClassVar[str] = "connect_four"
    summary: ClassVar[str] = "four in a row on 6 rows and 7 columns"
    rules: ClassVar[str] = "the common rules; X moves first"

    def initial_state(self) -> ConnectFourState:
        """The empty board, X to move."""
        return ConnectFourState()

    @property
    def max_turns(self) -> int:
        """One turn a cell."""
        return ROWS * COLUMNS

    @property
    def min_return(self) -> float:
        """A loss."""
        return -1.0

    @property
    def max_return(self) -> float:
        """A win."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectFourState(State):
    """The columns played so far, in order, and the board they make: one bitboard a player."""

    moves: str = ""
    discs: tuple[int, int] = (0, 0)

    def _last_won(self) -> bool:
        """Whether the player that moved last has four in a row; the other player cannot."""
        board = self.discs[(len(self.moves) - 1) % 2]
        for shift in SHIFTS:
            pairs = board & board >> shift
            if pairs & pairs >> 2 * shift:
                return True
        return False

    @property
    def current_player(self) -> int:
        """Players alternate until a line or a full board."""
        plies = len(self.moves)
        if plies >= 7 and (plies == ROWS * COLUMNS or self._last_won()):
            return TERMINAL
        return plies % 2

    def legal_actions(self) -> tuple[str, ...]:
        """The columns that are not full, in order."""
        if self.current_player == TERMINAL:
            return ()
        held = self.discs[0] | self.discs[1]
        return tuple(name for name, top in zip(COLUMN_NAMES, TOP_BITS, strict=True) if not held & top)

    def apply(self, action: str) -> ConnectFourState:
        """Drops a disc."""
        if not self.is_legal(action):
            raise self.refuse(action)
        column = int(action)
        mine, other = self.discs
        held = mine | other
        disc = (held + BOTTOM_BITS[column]) & COLUMN_BITS[column]  # the carry stops at the lowest empty cell
        discs = (mine, other | disc) if len(self.moves) % 2 else (mine | disc, other)
        return ConnectFourState(moves=self.moves + action, discs=discs)

    def returns(self) -> tuple[float, float]:
        """+1 and -1 for a win, zeros for a draw."""
        if not self._last_won():
            return (0.0, 0.0)
        return (1.0, -1.0) if len(self.moves) % 2 else (-1.0, 1.0)

    def information_state(self, player: int) -> str:
        """Everything is public: the moves in order."""
        return self.moves

    def position_key(self) -> Hashable:
        """The board, whatever moves led to it."""
        return self.discs

    def observation(self, player: int, style: Style = "full") -> str:
        """In the compact form, empty cells of the top row show their column, which shows the legal actions."""
        if style == "compact":
            rows = self._rows()
            top = "".join(name if cell == "." else cell for name, cell in zip(COLUMN_NAMES, rows[0], strict=True))
            return f"connect_four:{MARKS[player]}:{'/'.join((top, *rows[1:]))}"
        board = "\n".join([" ".join(COLUMN_NAMES), *(" ".join(row) for row in self._rows())])
        played = ", ".join(f"{MARKS[ply % 2]} in {column}" for ply, column in enumerate(self.moves))
        lines = [
            f"You are playing connect four on a board of {ROWS} rows and {COLUMNS} columns. Players take turns dropping"
            " a disc into a column, where it falls to the lowest empty cell. The first player with four discs in a row,"
            " column or diagonal wins; a full board without such a line is a draw.",
            f"You are {MARKS[player]}, your opponent is {MARKS[1 - player]}. X moves first.",
            f"Moves so far, each in a column: {played or 'none'}.",
            f"The board, columns numbered at the top and empty cells shown as dots:\n{board}",
        ]
        if self.current_player == player:
            lines.append(
                "It is your turn. Your legal actions, each the number of a column that is not full:"
                f" {', '.join(self.legal_actions())}."
            )
        return "\n".join(lines)

    def _rows(self) -> list[str]:
        """The board as text, top row first."""
        crosses, noughts = self.discs
        return [
            "".join(MARKS[0] if crosses & bit else MARKS[1] if noughts & bit else "." for bit in row)
            for row in CELL_BITS
        ]
