"""The value of every action at one decision, and what a move gives away."""

from __future__ import annotations

import time

import pytest

from spiral.games import load_game
from spiral.games.playout import replay
from spiral.theory import expected_returns, judgement
from spiral.theory.cfr import equilibrium
from spiral.theory.judgement import TimeUpError, judge_decision


def judged(spec, actions):
    game = load_game(spec)
    return judge_decision(game, replay(game, actions))


def test_perfect_play_is_the_measure_in_tictactoe():
    first = judged("tictactoe", [])
    assert (first.method, set(first.values.values())) == ("minimax", {0.0})
    assert first.best == tuple("012345678")
    # X in a corner: only the centre holds the draw.
    answer = judged("tictactoe", ["0"])
    assert (answer.best, answer.values["4"], answer.regret("4")) == (("4",), 0.0, 0.0)
    assert answer.regret("1") == 1.0
    # X threatens 2; leaving it open loses, blocking draws at best.
    assert judged("tictactoe", ["0", "4", "1"]).best == ("2",)
    # X can win at once, and must not open the way for O.
    assert judged("tictactoe", ["0", "4", "1", "8"]).values["2"] == 1.0
    assert judged("tictactoe", ["0", "4", "1", "8"]).regret("7") == 2.0


def test_the_equilibrium_is_the_measure_in_kuhn_poker():
    # A king that faces a bet always calls: 2 chips against 1 lost.
    king = judged("kuhn_poker", ["Q", "K", "bet"])
    assert (king.method, king.best) == ("equilibrium", ("call",))
    assert king.values == pytest.approx({"call": 2.0, "fold": -1.0})
    # A jack that faces a bet always folds.
    jack = judged("kuhn_poker", ["Q", "J", "bet"])
    assert jack.values == pytest.approx({"call": -2.0, "fold": -1.0})
    assert (jack.best, jack.regret("call")) == (("fold",), 1.0)
    # The first player's jack is indifferent between bluffing and checking, and loses an 18th over all three cards.
    game = load_game("kuhn_poker")
    values = [max(judged("kuhn_poker", [card, other]).values.values()) for card, other in ("JQ", "QJ", "KJ")]
    assert sum(values) / 3 == pytest.approx(-1 / 18)
    assert sum(values) / 3 == pytest.approx(expected_returns(game, [equilibrium(game)] * 2)[0])
    assert judged("kuhn_poker", ["J", "K"]).best == ("check", "bet")
    assert judged("kuhn_poker", ["J", "K"]).values == judged("kuhn_poker", ["J", "Q"]).values  # what it cannot see


def test_a_long_match_of_kuhn_poker_is_judged_hand_by_hand():
    game = load_game("kuhn_poker(hands=5)")
    state = replay(game, ["seat 1 first", "J", "Q", "check", "bet"])
    found = judge_decision(game, state)
    assert state.current_player == 1
    assert (found.hand, set(found.best)) == (True, {"fold", "call"})  # a queen is indifferent to the bluff
    assert judge_decision(game, replay(game, ["seat 0 first", "K", "Q"])).values == judged("kuhn_poker", "KQ").values
    mirrored = judge_decision(game, replay(game, ["seat 1 first", "Q", "K"]))
    assert mirrored.values == judged("kuhn_poker", ["K", "Q"]).values


def test_leduc_poker_is_judged_within_the_precision_of_its_equilibrium():
    opening = judged("leduc_poker", ["K", "Q"])
    assert (opening.method, set(opening.values)) == ("equilibrium", {"call", "raise"})
    # A pair that faces the last raise never folds.
    pair = judged("leduc_poker", ["K", "Q", "call", "call", "K", "call", "raise"])
    assert "fold" not in pair.best
    assert pair.values["fold"] == -1.0
    assert pair.regret("fold") > 2.0


@pytest.mark.parametrize(
    ("spec", "actions"),
    [
        ("connect_four", []),
        ("simple_negotiation", None),
        ("tictactoe", list("0123456")),  # over
    ],
)
def test_what_is_too_large_or_has_no_decision_is_not_judged(spec, actions):
    game = load_game(spec)
    state = game.initial_state()
    if actions is None:
        while state.is_chance:
            state = state.apply(state.chance_outcomes()[0][0])
    else:
        state = replay(game, actions)
    assert judge_decision(game, state) is None


def test_the_end_of_a_large_game_is_judged():
    game = load_game("tictactoe", size=4, line=4)
    found = judge_decision(game, replay(game, ["0", "4", "1", "5", "2", "8", "7", "9"]))
    assert (found.method, found.best, found.values["3"], found.regret("6")) == ("minimax", ("3",), 1.0, 1.0)


def test_a_caller_can_bound_the_time_and_ask_again():
    game = load_game("tictactoe", size=4, line=4)
    state = replay(game, ["0", "4", "1", "5", "10", "8", "7", "9"])
    began = time.monotonic()
    asked = 0
    while True:
        try:
            found = judge_decision(game, state, until=time.monotonic() + 0.05)
        except TimeUpError:
            asked += 1
            continue
        break
    assert (asked > 0, found.values) == (True, judge_decision(game, state).values)
    assert time.monotonic() - began < 20


def test_an_equilibrium_is_solved_in_the_background():
    game = load_game("leduc_poker")
    judgement._solutions.pop(game, None)
    state = replay(game, ["K", "Q"])
    with pytest.raises(TimeUpError):
        judge_decision(game, state, until=time.monotonic())
    assert judge_decision(game, state, until=time.monotonic() + 60).method == "equilibrium"
    assert len(judgement._solutions) <= judgement.MAX_SOLUTIONS
