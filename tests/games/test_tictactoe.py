"""Tic-tac-toe: every line, and the words a player sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiral.games import IllegalActionError, State, load_game
from spiral.games.tictactoe import LINES


def play(cells: str) -> State:
    state = load_game("tictactoe").initial_state()
    for cell in cells:
        state = state.apply(cell)
    return state


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("winner", [0, 1])
def test_every_line_wins_for_either_player(line: tuple[int, int, int], winner: int) -> None:
    a, b, c = line
    for others in ([x for x in range(9) if x not in line][i:] for i in range(3)):
        w, x, y = others[:3]
        if tuple(sorted((w, x, y))) in LINES:
            continue
        cells = (a, w, b, x, c) if winner == 0 else (w, a, x, b, y, c)
        state = play("".join(map(str, cells)))
        assert state.is_terminal
        assert state.returns() == ((1.0, -1.0) if winner == 0 else (-1.0, 1.0))
        return
    pytest.fail("no harmless cells were left for the other player")


def test_a_full_board_without_a_line_is_a_draw() -> None:
    state = play("012436587")
    assert state.is_terminal
    assert state.returns() == (0.0, 0.0)


def test_the_last_cell_can_win() -> None:
    assert not play("03145768").is_terminal
    state = play("031457682")
    assert state.is_terminal
    assert state.returns() == (1.0, -1.0)


def test_texts() -> None:
    state = play("40")
    assert state.observation(0, "compact") == "tictactoe:X:O12|3X5|678|"
    assert state.observation(1, "compact") == "tictactoe:O:O12|3X5|678|"
    assert state.observation(0).endswith("Your legal actions, each the number of a cell: 1, 2, 3, 5, 6, 7, 8.")
    assert "Moves so far: X took 4, O took 0." in state.observation(1)
    assert "It is your turn" not in state.observation(1)


def test_a_taken_cell_is_refused() -> None:
    with pytest.raises(IllegalActionError, match="got action '4' of player 1; legal here: 0, 1, 2, 3, 5, 6, 7, 8"):
        play("4").apply("4")


@given(st.text())
def test_any_text_can_be_asked_about(text: str) -> None:
    for state in (play(""), play("03142")):
        assert state.is_legal(text) is (text in state.legal_actions())
