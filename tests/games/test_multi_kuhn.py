"""Kuhn poker of three players and more: pots by hand, and every hand as OpenSpiel plays it."""

from __future__ import annotations

from typing import Any

import pytest

from spiral.games import IllegalActionError, State, load_game

FOR_OPENSPIEL = {"check": 0, "fold": 0, "bet": 1, "call": 1}


def play(actions: str, spec: str = "multi_kuhn") -> State:
    state = load_game(spec).initial_state()
    for action in actions.split(";"):
        state = state.apply(action)
    return state


@pytest.mark.parametrize(
    ("actions", "returns"),
    [
        ("T;J;Q;check;check;check", (-1.0, -1.0, 2.0)),
        ("K;J;Q;check;bet;fold;fold", (-1.0, 2.0, -1.0)),
        ("T;K;Q;check;check;bet;call;call", (-2.0, 4.0, -2.0)),
        ("K;T;J;bet;fold;call", (3.0, -1.0, -2.0)),
    ],
)
def test_who_takes_the_pot(actions: str, returns: tuple[float, ...]) -> None:
    state = play(actions)
    assert state.is_terminal
    assert state.returns() == returns


def test_every_hand_is_openspiels() -> None:
    """Deals, who acts, how many actions there are, and the returns of all 312 hands."""
    pyspiel = pytest.importorskip("pyspiel")

    def compare(ours: State, theirs: Any) -> int:
        if theirs.is_terminal():
            assert list(ours.returns()) == theirs.returns()
            return 1
        if theirs.is_chance_node():
            assert ours.is_chance
            pairs = list(zip(ours.chance_outcomes(), theirs.chance_outcomes(), strict=True))
            assert all(chance == pytest.approx(other) for (_, chance), (_, other) in pairs)
            return sum(compare(ours.apply(card), theirs.child(number)) for (card, _), (number, _) in pairs)
        assert ours.current_player == theirs.current_player()
        assert sorted(FOR_OPENSPIEL[action] for action in ours.legal_actions()) == theirs.legal_actions()
        return sum(compare(ours.apply(action), theirs.child(FOR_OPENSPIEL[action])) for action in ours.legal_actions())

    root = pyspiel.load_game("kuhn_poker(players=3)").new_initial_state()
    assert compare(load_game("multi_kuhn").initial_state(), root) == 312


def test_a_player_sees_its_own_card_and_who_did_what() -> None:
    state = play("T;K;Q;check;bet")
    assert state.observation(2, "compact") == "multi_kuhn:Q:check,bet"
    text = state.observation(2, "full")
    assert "Your card: Q." in text
    assert "Actions so far: seat 0 checked, seat 1 bet. Pot: 4 chips." in text
    assert "Your legal actions: call, fold." in text
    others = [play(f"{cards};Q;check;bet") for cards in ("K;T", "J;T")]
    assert {other.information_state(2) for other in others} == {state.information_state(2)}


def test_a_winner_without_a_call_shows_nothing() -> None:
    assert play("K;J;Q;bet;fold;fold").information_state(1) == "J:bet,fold,fold"
    assert play("K;J;Q;bet;fold;call").information_state(1) == "JKQ:bet,fold,call"
    assert "seat 0 showed K, seat 2 showed Q, you lost 1 chip." in play("K;J;Q;bet;fold;call").observation(1)


def test_two_players_are_referred_to_kuhn_poker() -> None:
    with pytest.raises(ValueError, match=r"multi_kuhn got players=2; expected 3 to 5, or play 'kuhn_poker' for two"):
        load_game("multi_kuhn(players=2)")
    with pytest.raises(IllegalActionError, match="legal here: check, bet"):
        play("T;J;Q;call")
