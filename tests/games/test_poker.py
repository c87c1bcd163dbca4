"""Kuhn and Leduc poker: where the chips go, and who sees which card."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiral.games import IllegalActionError, State, load_game
from spiral.games.testing import random_playout


def play(spec: str, actions: str) -> State:
    """The state after the actions, separated by semicolons."""
    state = load_game(spec).initial_state()
    for action in filter(None, actions.split(";")):
        state = state.apply(action)
    return state


def uniform_value(state: State) -> float:
    """Player 0's expected return when both players play uniformly."""
    if state.is_terminal:
        return state.returns()[0]
    listed = state.legal_actions()
    outcomes: Sequence[tuple[str, float]] = state.chance_outcomes() or [(name, 1 / len(listed)) for name in listed]
    return sum(chance * uniform_value(state.apply(action)) for action, chance in outcomes)


@pytest.mark.parametrize(
    ("actions", "won"),
    [
        ("K;Q;check;check", 1),
        ("J;Q;check;check", -1),
        ("Q;J;bet;fold", 1),
        ("J;K;bet;fold", 1),
        ("K;J;check;bet;fold", -1),
        ("Q;K;bet;call", -2),
        ("K;Q;check;bet;call", 2),
        ("Q;J;check;bet;call", 2),
    ],
)
def test_one_kuhn_hand_pays_chips(actions: str, won: float) -> None:
    state = play("kuhn_poker", actions)
    assert state.is_terminal
    assert state.returns() == (won, -won)


def test_uniform_kuhn_is_worth_an_eighth_of_a_chip() -> None:
    assert uniform_value(load_game("kuhn_poker").initial_state()) == pytest.approx(1 / 8)


def test_uniform_leduc_is_worth_minus_5_64ths() -> None:
    assert uniform_value(load_game("leduc_poker").initial_state()) == pytest.approx(-5 / 64)


@pytest.mark.parametrize(
    ("actions", "compact"),
    [
        ("", "kuhn_poker:-:"),
        ("K;J", "kuhn_poker:K:"),
        ("K;J;check;bet", "kuhn_poker:K:check,bet"),
    ],
)
def test_compact_kuhn(actions: str, compact: str) -> None:
    assert play("kuhn_poker", actions).observation(0, "compact") == compact


def test_a_match_carries_chips_and_alternates_who_acts_first() -> None:
    state = play("kuhn_poker(hands=3)", "seat 1 first;K;Q")
    assert state.current_player == 1
    assert state.observation(1, "compact") == "kuhn_poker:hand 1/3:you +0:first:Q:"
    for action in ("bet", "call"):
        state = state.apply(action)
    assert state.is_chance
    state = state.apply("J").apply("Q")
    assert state.current_player == 0
    assert state.observation(0, "compact") == "kuhn_poker:hand 2/3:you +2:first:J:"
    for action in ("check", "bet", "fold"):
        state = state.apply(action)
    state = state.apply("Q").apply("J")
    assert state.current_player == 1
    assert state.observation(0, "compact") == "kuhn_poker:hand 3/3:you +1:second:Q:"
    for action in ("check", "check"):
        assert state.returns() == (0.0, 0.0)
        state = state.apply(action)
    assert state.is_terminal
    assert state.returns() == (1.0, -1.0)
    assert "Your chips won or lost so far: +2." in state.observation(0)


def test_more_chips_win_a_match_regardless_of_the_last_hand() -> None:
    state = play("kuhn_poker(hands=2)", "seat 0 first;K;Q;bet;call;J;Q;check;check")
    assert state.is_terminal
    assert state.observation(0, "compact") == "kuhn_poker:hand 2/2:you +1:second:J:check,check"
    assert state.returns() == (1.0, -1.0)


def test_equal_chips_draw_a_match() -> None:
    state = play("kuhn_poker(hands=2)", "seat 0 first;K;Q;check;check;J;Q;check;check")
    assert state.is_terminal
    assert state.returns() == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(40))
def test_the_pot_goes_to_the_winner_of_each_hand(seed: int) -> None:
    """Chips counted again here, from the actions alone."""
    actions, last = random_playout(load_game("kuhn_poker", hands=5), seed)
    first, chips = int(actions[0][5]), [0, 0]
    rest = iter(actions[1:])
    hands = 0
    for card_0, card_1 in zip(rest, rest, strict=False):
        paid, player = [1, 1], first
        line: list[str] = []
        while line[-2:] not in (["check", "check"], ["bet", "call"], ["bet", "fold"]):
            line.append(next(rest))
            paid[player] += line[-1] in ("bet", "call")
            player = 1 - player
        winner = player if line[-1] == "fold" else int("JQK".index(card_1) > "JQK".index(card_0))
        for player in (0, 1):
            chips[player] += sum(paid) * (player == winner) - paid[player]
        first, hands = 1 - first, hands + 1
    assert hands == 5
    assert sum(chips) == 0
    assert f"you {chips[0]:+d}:" in last.observation(0, "compact")
    assert last.returns()[0] == (chips[0] > 0) - (chips[0] < 0)


@pytest.mark.parametrize("style", ["full", "compact"])
@pytest.mark.parametrize(
    "lines", [("bet;fold", "check;check"), ("check;bet;fold", "bet;call"), ("bet;fold", "bet;fold")]
)
def test_a_folded_card_is_never_shown(lines: tuple[str, str], style: str) -> None:
    """Two matches that differ in the other player's folded card look the same, and go on looking the same."""
    before, after = lines
    one = play("kuhn_poker(hands=3)", f"seat 0 first;Q;J;{before}")
    two = play("kuhn_poker(hands=3)", f"seat 0 first;Q;K;{before}")
    for action in ("K", "J", *after.split(";"), "J", "Q"):
        assert one.observation(0, style) == two.observation(0, style)  # type: ignore[arg-type]
        assert one.information_state(0) == two.information_state(0)
        one, two = one.apply(action), two.apply(action)
    assert one.information_state(1) != two.information_state(1)


def test_a_showdown_shows_both_cards() -> None:
    one = play("kuhn_poker(hands=2)", "seat 0 first;Q;J;bet;call")
    assert "your opponent showed J, you won 2 chips" in one.observation(0)
    assert "your opponent showed Q, you lost 2 chips" in one.observation(1)
    two = play("kuhn_poker(hands=2)", "seat 0 first;Q;K;bet;call")
    assert one.information_state(0) != two.information_state(0)


def test_cards_of_the_other_player_are_hidden_during_a_hand() -> None:
    for spec, hidden in (("kuhn_poker", "JK"), ("leduc_poker", "JQK")):
        texts = {play(spec, f"Q;{card}").observation(0) for card in hidden}
        assert len(texts) == 1


@pytest.mark.parametrize("hands", [0, -3])
def test_a_match_needs_a_hand(hands: int) -> None:
    with pytest.raises(ValueError, match=f"got hands={hands}; expected 1 or more"):
        load_game("kuhn_poker", hands=hands)


@pytest.mark.parametrize(
    ("spec", "actions", "illegal"),
    [
        ("kuhn_poker", "", "check"),
        ("kuhn_poker", "K", "K"),
        ("kuhn_poker", "K;J", "call"),
        ("kuhn_poker", "K;J;bet", "check"),
        ("kuhn_poker", "K;J;bet;fold", "bet"),
        ("kuhn_poker(hands=2)", "", "J"),
        ("leduc_poker", "K;K", "K"),
        ("leduc_poker", "K;K;call", "fold"),
        ("leduc_poker", "K;K;raise;raise", "raise"),
        ("leduc_poker", "K;K;call;call", "K"),
        ("leduc_poker", "K;K;raise;fold", "call"),
    ],
)
def test_illegal_actions_are_refused(spec: str, actions: str, illegal: str) -> None:
    state = play(spec, actions)
    with pytest.raises(IllegalActionError, match=re.escape(repr(illegal))):
        state.apply(illegal)


@pytest.mark.parametrize(
    ("actions", "won"),
    [
        ("K;J;raise;fold", 1),
        ("K;J;raise;raise;fold", -3),
        ("K;J;call;call;Q;call;call", 1),
        ("K;J;call;call;J;call;call", -1),
        ("K;K;raise;call;J;raise;call", 0),
        ("K;J;raise;raise;call;J;raise;raise;call", -13),
        ("Q;J;call;raise;raise;call;K;call;raise;raise;call", 13),
        ("Q;J;call;raise;call;K;raise;raise;fold", -7),
    ],
)
def test_leduc_pays_the_losers_share_of_the_pot(actions: str, won: float) -> None:
    state = play("leduc_poker", actions)
    assert state.is_terminal
    assert state.returns() == (won, -won)


@pytest.mark.parametrize(
    ("actions", "compact"),
    [
        ("", "leduc_poker:-:-:"),
        ("K;J;raise", "leduc_poker:K:-:raise"),
        ("K;J;raise;call", "leduc_poker:K:-:raise,call"),
        ("K;J;raise;call;Q;call", "leduc_poker:K:Q:raise,call/call"),
    ],
)
def test_compact_leduc(actions: str, compact: str) -> None:
    assert play("leduc_poker", actions).observation(0, "compact") == compact


def test_the_leduc_deck_has_two_cards_of_each_rank() -> None:
    assert dict(play("leduc_poker", "").chance_outcomes()) == pytest.approx({"J": 1 / 3, "Q": 1 / 3, "K": 1 / 3})
    assert dict(play("leduc_poker", "K").chance_outcomes()) == pytest.approx({"J": 0.4, "Q": 0.4, "K": 0.2})
    assert dict(play("leduc_poker", "K;K;call;call").chance_outcomes()) == {"J": 0.5, "Q": 0.5}
    assert dict(play("leduc_poker", "K;Q;call;call").chance_outcomes()) == {"J": 0.5, "Q": 0.25, "K": 0.25}


@given(st.text(), st.sampled_from(["kuhn_poker", "kuhn_poker(hands=2)", "leduc_poker"]))
def test_any_text_can_be_asked_about(text: str, spec: str) -> None:
    assert load_game(spec).initial_state().is_legal(text) is False
    state = play(spec, "K;Q" if "hands" not in spec else "seat 0 first;K;Q")
    assert state.is_legal(text) is (text in state.legal_actions())


def test_larger_decks() -> None:
    state = load_game("kuhn_poker", cards=5).initial_state()
    assert state.chance_outcomes() == tuple((card, 1 / 5) for card in "9TJQK")
    state = state.apply("T")
    assert state.chance_outcomes() == tuple((card, 1 / 4) for card in "9JQK")
    state = state.apply("9").apply("bet")
    assert state.observation(1, "compact") == "kuhn_poker 5 cards:9:bet"
    assert "The deck holds five cards: 9, T, J, Q and K. T is the ten. 9 is the lowest and K" in state.observation(0)
    assert state.apply("call").returns() == (2.0, -2.0)
    ace = load_game("kuhn_poker", cards=13).initial_state().apply("A").apply("2").apply("check").apply("check")
    assert ace.returns() == (-1.0, 1.0)
    match = load_game("kuhn_poker(hands=5,cards=5)").initial_state().apply("seat 1 first").apply("9").apply("K")
    assert match.observation(1, "compact") == "kuhn_poker 5 cards:hand 1/5:you +0:first:K:"
    for number in (2, 14):
        with pytest.raises(ValueError, match=f"kuhn_poker got cards={number}; expected a number from 3 to 13"):
            load_game("kuhn_poker", cards=number)
    with pytest.raises(IllegalActionError):
        load_game("kuhn_poker").initial_state().apply("T")
