"""Connect four: lines in every direction, gravity, and no wrapping round the edge."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiral.games import IllegalActionError, State, load_game


def play(columns: str) -> State:
    state = load_game("connect_four").initial_state()
    for column in columns:
        state = state.apply(column)
    return state


@pytest.mark.parametrize(
    ("columns", "winner"),
    [
        ("0011223", 0),
        ("0101010", 0),
        ("01122323363", 0),
        ("65544343303", 0),
        ("60011223", 1),
        ("3322114", 0),
    ],
)
def test_four_in_a_row_wins(columns: str, winner: int) -> None:
    state = play(columns)
    assert state.is_terminal
    assert state.returns() == ((1.0, -1.0) if winner == 0 else (-1.0, 1.0))
    assert not play(columns[:-1]).is_terminal
    assert state.legal_actions() == ()


def brute_force_winner(columns: str) -> bool:
    """Whether the last move made a line, on a plain grid."""
    grid: dict[tuple[int, int], int] = {}
    heights = [0] * 7
    for ply, column in enumerate(map(int, columns)):
        grid[heights[column], column] = ply % 2
        heights[column] += 1
    return any(
        len({grid.get((row + step * up, column + step * right), -1) for step in range(4)} | {-1}) == 2
        and all((row + step * up, column + step * right) in grid for step in range(4))
        for row, column in grid
        for up, right in ((0, 1), (1, 0), (1, 1), (-1, 1))
    )


def test_lines_agree_with_a_plain_grid_over_random_games() -> None:
    rng = random.Random(1)
    ended = 0
    for _ in range(60):
        state, columns = play(""), ""
        while not state.is_terminal:
            column = rng.choice(state.legal_actions())
            state, columns = state.apply(column), columns + column
            won = brute_force_winner(columns)
            assert state.is_terminal is (won or len(columns) == 42), columns
            assert (state.returns() != (0.0, 0.0)) is won, columns
        ended += 1
    assert ended == 60


def test_a_full_board_is_a_draw() -> None:
    columns = "330254564223355224331121550404466660106011"
    state = play(columns)
    assert len(columns) == 42
    assert state.is_terminal
    assert state.returns() == (0.0, 0.0)


def test_a_full_column_is_closed_and_loses_its_number() -> None:
    state = play("000000")
    assert state.legal_actions() == ("1", "2", "3", "4", "5", "6")
    assert state.observation(0, "compact") == "connect_four:X:O123456/X....../O....../X....../O....../X......"
    with pytest.raises(IllegalActionError, match="got action '0' of player 0; legal here: 1, 2, 3, 4, 5, 6"):
        state.apply("0")


def test_the_compact_form_reads_from_the_top() -> None:
    assert play("334").observation(1, "compact") == ("connect_four:O:0123456/......./......./......./...O.../...XX..")


def test_the_order_of_moves_is_history_but_not_position() -> None:
    one, two = play("031"), play("130")
    assert one.position_key() == two.position_key()
    assert one.information_state(0) != two.information_state(0)
    assert one.observation(0, "compact") == two.observation(0, "compact")


@given(st.text())
def test_any_text_can_be_asked_about(text: str) -> None:
    for state in (play(""), play("0011223")):
        assert state.is_legal(text) is (text in state.legal_actions())
