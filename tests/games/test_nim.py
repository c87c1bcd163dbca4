"""Nim: the rules, and perfect play against the theorem."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiral.games import CHANCE, IllegalActionError, load_game
from spiral.games.nim import NimState, nim_sum
from spiral.games.playout import replay
from spiral.theory import has_perfect_information
from spiral.theory.minimax import Minimax


def position(*heaps: int) -> NimState:
    return NimState(heaps=len(heaps), size=max(heaps), dealt=heaps)


def test_chance_fills_the_heaps_one_by_one() -> None:
    state = load_game("nim(heaps=2,size=4)").initial_state()
    assert state.current_player == CHANCE
    assert state.chance_outcomes() == (("1", 0.25), ("2", 0.25), ("3", 0.25), ("4", 0.25))
    state = state.apply("3").apply("1")
    assert (state.current_player, state.chance_outcomes()) == (0, ())
    assert state.legal_actions() == ("1:1", "1:2", "1:3", "2:1")


@pytest.mark.parametrize("action", ["0", "5", "1:1", "٣", "03"])
def test_chance_fills_no_heap_otherwise(action: str) -> None:
    with pytest.raises(IllegalActionError, match="legal here: 1, 2, 3, 4"):
        load_game("nim(heaps=2,size=4)").initial_state().apply(action)


def test_the_last_to_take_wins() -> None:
    game = load_game("nim(heaps=2)")
    first = replay(game, ["3", "2", "1:3", "2:1", "2:1"])
    assert (first.is_terminal, first.returns(), first.legal_actions()) == (True, (1.0, -1.0), ())
    second = replay(game, ["3", "2", "1:3", "2:2"])
    assert (second.is_terminal, second.returns()) == (True, (-1.0, 1.0))
    assert replay(game, ["3", "2", "1:3"]).returns() == (0.0, 0.0)


@pytest.mark.parametrize("action", ["1:0", "1:4", "2:1", "0:1", "1", "1:1:1", "1: 1", "01:1", "1:\uff11", "", ":"])
def test_what_is_not_there_cannot_be_taken(action: str) -> None:
    state = replay(load_game("nim(heaps=2)"), ["3", "2", "2:2"])
    assert not state.is_legal(action)
    with pytest.raises(IllegalActionError, match="of player 1; legal here: 1:1, 1:2, 1:3"):
        state.apply(action)


@given(st.text())
def test_any_text_can_be_asked_about(text: str) -> None:
    assert position(3, 2).is_legal(text) is (text in ("1:1", "1:2", "1:3", "2:1", "2:2"))


@pytest.mark.parametrize("heaps", [1, 2, 3])
def test_minimax_agrees_with_the_theorem_on_all_small_positions(heaps: int) -> None:
    search = Minimax()
    for sizes in itertools.product(range(7), repeat=heaps):
        if not any(sizes):
            continue
        state, total = position(*sizes), nim_sum(sizes)
        assert search.value(state) == (1.0 if total else -1.0), sizes
        winning = tuple(
            f"{heap}:{left - (left ^ total)}" for heap, left in enumerate(sizes, start=1) if left ^ total < left
        )
        assert search.optimal_actions(state) == (winning or state.legal_actions()), sizes


def test_nim_sums() -> None:
    assert [nim_sum(heaps) for heaps in ((), (5,), (3, 5), (3, 5, 6), (1, 2, 4, 8))] == [0, 5, 6, 0, 15]


def test_observations() -> None:
    state = replay(load_game("nim"), ["3", "5", "7", "2:5"])
    assert state.observation(0, "compact") == state.observation(1, "compact") == "nim:3 0 7"
    shown = state.observation(1)
    assert "You are seat 1. Seat 0 moves first." in shown
    assert "The heaps at the start: heap 1 has 3, heap 2 has 5, heap 3 has 7." in shown
    assert "Moves so far: seat 0 took 5 from heap 2." in shown
    assert "The heaps now: heap 1 has 3, heap 2 has 0, heap 3 has 7." in shown
    assert "Your legal actions: 1:1, 1:2, 1:3, 3:1, 3:2, 3:3, 3:4, 3:5, 3:6, 3:7." in shown
    assert "It is your turn" not in state.observation(0)


def test_positions_are_equal_whatever_led_to_them() -> None:
    game = load_game("nim(heaps=2)")
    one, two = replay(game, ["3", "2", "1:1", "2:1"]), replay(game, ["2", "2", "2:1"])
    assert one.heap_sizes() == two.heap_sizes() == (2, 1)
    assert one.position_key() != two.position_key()  # another player moves
    assert one.position_key() == replay(game, ["3", "2", "2:1", "1:1"]).position_key()


@pytest.mark.parametrize(
    ("spec", "exact"),
    [("nim", True), ("nim(heaps=4)", True), ("nim(size=15)", True), ("nim(heaps=4,size=15)", False)],
)
def test_which_sizes_have_exact_theory(spec: str, exact: bool) -> None:
    assert load_game(spec).exact_theory is exact


def test_nothing_is_hidden() -> None:
    assert has_perfect_information(load_game("nim(heaps=2,size=4)"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nim(heaps=0)", "nim got heaps=0; expected a number from 1 to 6"),
        ("nim(heaps=7)", "nim got heaps=7"),
        ("nim(size=32)", "nim got size=32; expected a number from 1 to 31"),
        ("nim(size=-1)", "nim got size=-1"),
        ("nim(size=2.5)", "got size=2.5; expected a value of type int"),
    ],
)
def test_wrong_parameters_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_game(spec)
