"""Tic-tac-toe on a square board. Player 0 plays X and moves first; cells are numbered from "0", row by row.

A line of `line` cells of one player in a row, column or diagonal wins +1, and the other player gets -1; a full board is
a draw. By default three in a row on a 3 x 3 board, where perfect play draws. `tictactoe(size=5,line=4)` is one reading
of the paper's harder variant on 5 x 5 (arXiv 2506.24119v3), whose length of a line is not stated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable
from typing import ClassVar

from spiral.games.base import TERMINAL, Game, State, Style

MARKS = "XO"
SIZES = range(3, 10)
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


@functools.cache
def lines_through(cell: int, size: int, line: int) -> tuple[tuple[int, ...], ...]:
    """Every line of `line` cells on a board of `size` x `size` that holds `cell`."""
    row, column = divmod(cell, size)
    found = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for start in range(line):
            cells = [(row + (step - start) * down, column + (step - start) * right) for step in range(line)]
            if all(0 <= r < size and 0 <= c < size for r, c in cells):
                found.append(tuple(r * size + c for r, c in cells))
    return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TicTacToe(Game):
    """A line of cells on a square board, by default three in a row on 3 x 3."""

    name: ClassVar[str] = "tictactoe"
    summary: ClassVar[str] = "three in a row on a 3 x 3 board, or a larger one"
    rules: ClassVar[str] = "the common rules; X moves first"

    size: int = 3
    line: int = 3

    def __post_init__(self) -> None:
        """Refuse boards that are not square ones of a playable size, and lines that do not fit."""
        if self.size not in SIZES:
            raise ValueError(f"tictactoe got size={self.size}; expected a number from {SIZES[0]} to {SIZES[-1]}")
        if not 2 <= self.line <= self.size:
            raise ValueError(f"tictactoe got line={self.line}; expected a number from 2 to size, {self.size}")

    def initial_state(self) -> TicTacToeState:
        """The empty board, X to move."""
        return TicTacToeState(size=self.size, line=self.line)

    @property
    def enumerable(self) -> bool:
        """549,946 histories on 3 x 3, but only 5,478 positions; some millions of positions on 4 x 4."""
        return self.size == 3

    @property
    def max_turns(self) -> int:
        """One turn a cell."""
        return self.size**2

    @property
    def min_return(self) -> float:
        """A loss."""
        return -1.0

    @property
    def max_return(self) -> float:
        """A win."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TicTacToeState(State):
    """The cells played so far, in order: player 0 at even positions, player 1 at odd ones."""

    moves: tuple[int, ...] = ()
    size: int = 3
    line: int = 3

    def _board(self) -> list[int | None]:
        """[size * size] the player that holds each cell, or None."""
        board: list[int | None] = [None] * self.size**2
        for ply, cell in enumerate(self.moves):
            board[cell] = ply % 2
        return board

    def _winner(self) -> int | None:
        """Only the player that moved last can have completed a line, and only one through its last cell."""
        if len(self.moves) < 2 * self.line - 1:
            return None
        player = (len(self.moves) - 1) % 2
        held = set(self.moves[player::2])
        through = lines_through(self.moves[-1], self.size, self.line)
        return player if any(held.issuperset(line) for line in through) else None

    @property
    def current_player(self) -> int:
        """Players alternate until a line or a full board."""
        if len(self.moves) == self.size**2 or self._winner() is not None:
            return TERMINAL
        return len(self.moves) % 2

    def legal_actions(self) -> tuple[str, ...]:
        """The empty cells in order."""
        if self.is_terminal:
            return ()
        return tuple(str(cell) for cell in range(self.size**2) if cell not in self.moves)

    def apply(self, action: str) -> TicTacToeState:
        """Marks a cell."""
        if not self.is_legal(action):
            raise self.refuse(action)
        return TicTacToeState(moves=(*self.moves, int(action)), size=self.size, line=self.line)

    def returns(self) -> tuple[float, float]:
        """+1 and -1 for a win, zeros for a draw."""
        winner = self._winner()
        if winner is None:
            return (0.0, 0.0)
        return (1.0, -1.0) if winner == 0 else (-1.0, 1.0)

    def information_state(self, player: int) -> str:
        """Everything is public: the moves in order."""
        return ("" if self.size == 3 else " ").join(str(cell) for cell in self.moves)

    def position_key(self) -> Hashable:
        """The cells of each player, in whatever order they were taken."""
        key = (tuple(sorted(self.moves[0::2])), tuple(sorted(self.moves[1::2])))
        return key if (self.size, self.line) == (3, 3) else (self.size, self.line, *key)

    def observation(self, player: int, style: Style = "full") -> str:
        """Empty cells show their own number in both styles."""
        size, line = self.size, self.line
        cells = [str(cell) if held is None else MARKS[held] for cell, held in enumerate(self._board())]
        rows = [cells[start : start + size] for start in range(0, size**2, size)]
        if style == "compact":
            if size == 3:
                name = "tictactoe" if line == 3 else f"tictactoe {line} in a row"
                return f"{name}:{MARKS[player]}:" + "".join(f"{''.join(row)}|" for row in rows)
            board = "".join(f"{' '.join(row)} |" for row in rows)
            return f"tictactoe {size}x{size} {line} in a row:{MARKS[player]}:{board}"
        width = len(str(size**2 - 1))
        between = "\n" + "+".join(["-" * (width + 2)] * size) + "\n"
        shown = between.join(" " + " | ".join(f"{cell:>{width}}" for cell in row) for row in rows)
        played = ", ".join(f"{MARKS[ply % 2]} took {cell}" for ply, cell in enumerate(self.moves))
        board_size = "" if size == 3 else f" on a board of {size} x {size} cells"
        lines = [
            f"You are playing tic-tac-toe{board_size}. The first player to hold {NUMBERS[line]} cells in a row, column"
            " or diagonal wins; a full board without such a line is a draw.",
            f"You are {MARKS[player]}, your opponent is {MARKS[1 - player]}. X moves first.",
            f"Moves so far: {played or 'none'}.",
            f"The board, each empty cell showing its number:\n{shown}",
        ]
        if self.current_player == player:
            lines.append(
                f"It is your turn. Your legal actions, each the number of a cell: {', '.join(self.legal_actions())}."
            )
        return "\n".join(lines)
