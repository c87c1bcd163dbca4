"""Tic-tac-toe: every line, and the words a player sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiral.games import IllegalActionError, State, load_game
from spiral.games.tictactoe import lines_through
from spiral.theory import minimax_value
from spiral.theory.depth_limited import DepthLimited

LINES = sorted({line for cell in range(9) for line in lines_through(cell, 3, 3)})


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


@pytest.mark.parametrize(("size", "line", "count"), [(3, 3, 8), (4, 4, 10), (5, 4, 28), (5, 5, 12), (9, 5, 140)])
def test_the_number_of_lines(size: int, line: int, count: int) -> None:
    """2 n (n - k + 1) straight ones and 2 (n - k + 1)^2 diagonals."""
    found = {each for cell in range(size**2) for each in lines_through(cell, size, line)}
    assert len(found) == count == 2 * size * (size - line + 1) + 2 * (size - line + 1) ** 2


def test_a_larger_board() -> None:
    state = load_game("tictactoe(size=5,line=4)").initial_state()
    for cell in ["12", "24", "11", "0", "13", "20", "10"]:
        assert not state.is_terminal
        state = state.apply(cell)
    assert state.returns() == (1.0, -1.0)
    state = load_game("tictactoe", size=5, line=4).initial_state().apply("12").apply("24")
    assert state.observation(1, "compact") == (
        "tictactoe 5x5 4 in a row:O:0 1 2 3 4 |5 6 7 8 9 |10 11 X 13 14 |15 16 17 18 19 |20 21 22 23 O |"
    )
    text = state.observation(0)
    assert "You are playing tic-tac-toe on a board of 5 x 5 cells. The first player to hold four cells in a row" in text
    assert "\n 10 | 11 |  X | 13 | 14\n----+" in text
    assert text.endswith(": 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23.")


def test_boards_that_cannot_be_played_are_refused() -> None:
    for params in ("size=2", "size=10", "line=4", "line=1", "size=5,line=6"):
        with pytest.raises(ValueError, match=r"tictactoe got (size|line)=\d+; expected a number from \d to "):
            load_game(f"tictactoe({params})")
    assert load_game("tictactoe(size=3,line=3)") == load_game("tictactoe")
    assert load_game("tictactoe", size=4).spec == "tictactoe(size=4)"


def test_theory_covers_the_small_board_only() -> None:
    assert minimax_value(load_game("tictactoe").initial_state()) == 0.0
    assert minimax_value(load_game("tictactoe", line=2).initial_state()) == 1.0
    large = load_game("tictactoe", size=5, line=4)
    assert not large.exact_theory
    with pytest.raises(ValueError, match=r"too many for exact search; use minimax\(depth=4\)"):
        minimax_value(large.initial_state(), max_positions=2000)
    state = large.initial_state()
    for cell in ["12", "0", "11", "1", "13"]:
        state = state.apply(cell)
    assert DepthLimited(2).best_actions(state) == tuple(state.legal_actions())  # lost: 10 and 14 both win
    blocked = state.apply("14")
    assert DepthLimited(1).best_actions(blocked) == ("10",)
