"""Tic-tac-toe on a 3 x 3 board. Player 0 plays X and moves first; cells are "0" to "8", row by row.

A win pays +1 to the winner and -1 to the other; a full board is a draw. Perfect play draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

from spiral.games.base import TERMINAL, Game, State, Style

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
MARKS = "XO"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TicTacToe(Game):
    """Three in a row on a 3 x 3 board."""

    name: ClassVar[str] = "tictactoe"
    summary: ClassVar[str] = "three in a row on a 3 x 3 board"
    rules: ClassVar[str] = "the common rules; X moves first"

    def initial_state(self) -> TicTacToeState:
        """The empty board, X to move."""
        return TicTacToeState()

    @property
    def enumerable(self) -> bool:
        """549,946 histories, but only 5,478 positions."""
        return True

    @property
    def max_turns(self) -> int:
        """One turn a cell."""
        return 9

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

    def _board(self) -> list[int | None]:
        """The player that holds each cell, or None. Length 9."""
        board: list[int | None] = [None] * 9
        for ply, cell in enumerate(self.moves):
            board[cell] = ply % 2
        return board

    def _winner(self) -> int | None:
        """Only the player that moved last can have completed a line."""
        if len(self.moves) < 5:
            return None
        player = (len(self.moves) - 1) % 2
        held = set(self.moves[player::2])
        return player if any(held.issuperset(line) for line in LINES) else None

    @property
    def current_player(self) -> int:
        """Players alternate until a line or a full board."""
        if len(self.moves) == 9 or self._winner() is not None:
            return TERMINAL
        return len(self.moves) % 2

    def legal_actions(self) -> tuple[str, ...]:
        """The empty cells in order."""
        if self.is_terminal:
            return ()
        return tuple(str(cell) for cell in range(9) if cell not in self.moves)

    def apply(self, action: str) -> TicTacToeState:
        """Marks a cell."""
        if not self.is_legal(action):
            raise self.refuse(action)
        return TicTacToeState(moves=(*self.moves, int(action)))

    def returns(self) -> tuple[float, float]:
        """+1 and -1 for a win, zeros for a draw."""
        winner = self._winner()
        if winner is None:
            return (0.0, 0.0)
        return (1.0, -1.0) if winner == 0 else (-1.0, 1.0)

    def information_state(self, player: int) -> str:
        """Everything is public: the moves in order."""
        return "".join(str(cell) for cell in self.moves)

    def position_key(self) -> Hashable:
        """The cells of each player, in whatever order they were taken."""
        return (tuple(sorted(self.moves[0::2])), tuple(sorted(self.moves[1::2])))

    def observation(self, player: int, style: Style = "full") -> str:
        """Empty cells show their own number in both styles."""
        cells = [str(cell) if held is None else MARKS[held] for cell, held in enumerate(self._board())]
        if style == "compact":
            return f"tictactoe:{MARKS[player]}:" + "".join(f"{''.join(cells[row : row + 3])}|" for row in (0, 3, 6))
        rows = "\n---+---+---\n".join(" " + " | ".join(cells[row : row + 3]) for row in (0, 3, 6))
        played = ", ".join(f"{MARKS[ply % 2]} took {cell}" for ply, cell in enumerate(self.moves))
        lines = [
            "You are playing tic-tac-toe. The first player to hold three cells in a row, column or diagonal wins;"
            " a full board without such a line is a draw.",
            f"You are {MARKS[player]}, your opponent is {MARKS[1 - player]}. X moves first.",
            f"Moves so far: {played or 'none'}.",
            f"The board, each empty cell showing its number:\n{rows}",
        ]
        if self.current_player == player:
            lines.append(
                f"It is your turn. Your legal actions, each the number of a cell: {', '.join(self.legal_actions())}."
            )
        return "\n".join(lines)
