"""CFR+ converges and returns an ordinary policy."""

import pickle

import pytest

from spiral.games import load_game
from spiral.theory import (
    best_response,
    equilibrium,
    expected_returns,
    exploitability,
    has_perfect_information,
    information_states,
    kuhn_equilibrium,
    solve_cfr,
    uniform_policy,
)

KUHN = load_game("kuhn_poker")
LEDUC = load_game("leduc_poker")


def test_kuhn_converges_to_an_equilibrium():
    policy = solve_cfr(KUHN, 500)
    assert exploitability(KUHN, policy) < 1e-3
    assert expected_returns(KUHN, [policy, policy])[0] == pytest.approx(-1 / 18, abs=1e-3)
    # No member of the family bets first with Q, and the second to act bluffs with J one time in three.
    by_play = {
        (state.cards[player], state.actions): policy(state, player) for state, player in information_states(KUHN)
    }
    assert by_play["Q", ()]["bet"] < 0.01
    assert by_play["J", ("check",)]["bet"] == pytest.approx(1 / 3, abs=0.03)
    assert by_play["K", ("bet",)]["call"] > 0.999
    assert by_play["K", ()]["bet"] == pytest.approx(3 * by_play["J", ()]["bet"], abs=0.05)


def test_leduc_converges_to_its_value():
    policy = solve_cfr(LEDUC, 200)
    assert exploitability(LEDUC, policy) < 0.02
    # The game's value to player 0 is about -0.0856 chips.
    assert -best_response(LEDUC, policy, 1).value <= -0.0856 <= best_response(LEDUC, policy, 0).value
    assert expected_returns(LEDUC, [policy, policy])[0] == pytest.approx(-0.0856, abs=2e-3)


def test_more_iterations_are_better():
    few, many = (exploitability(LEDUC, solve_cfr(LEDUC, iterations)) for iterations in (10, 100))
    assert many < few / 5


def test_two_hands_are_fair_to_both_players():
    # Chance picks who acts first, so the value is zero.
    match = load_game("kuhn_poker", hands=2)
    policy = solve_cfr(match, 100)
    assert exploitability(match, policy) < 1e-3
    assert expected_returns(match, [policy, policy])[0] == pytest.approx(0.0, abs=1e-3)


def test_the_same_call_gives_the_same_policy_and_it_can_be_pickled():
    policy = solve_cfr(KUHN, 20)
    assert policy == solve_cfr(KUHN, 20)
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_equilibrium_uses_the_most_exact_method():
    state = KUHN.initial_state().apply("J").apply("K")
    assert equilibrium(KUHN)(state, 0) == kuhn_equilibrium()(state, 0)
    tictactoe = load_game("tictactoe")
    assert exploitability(tictactoe, equilibrium(tictactoe), merge_positions=True) == 0.0
    leduc = equilibrium(LEDUC)
    assert exploitability(LEDUC, leduc) < 2e-4 * 13
    assert equilibrium(load_game("leduc_poker")) is leduc
    five = load_game("kuhn_poker", cards=5)
    assert exploitability(five, equilibrium(five)) < 2e-4 * 2
    assert expected_returns(five, [equilibrium(five)] * 2)[0] == pytest.approx(-1 / 15, abs=4e-4)
    assert exploitability(five, uniform_policy) == pytest.approx(0.425)
    match = load_game("kuhn_poker", hands=2)
    assert exploitability(match, equilibrium(match)) < 1e-3


@pytest.mark.parametrize(
    ("spec", "words"),
    [("connect_four", "too large for exact theory"), ("simple_negotiation", "takes free text")],
)
def test_equilibrium_refuses_games_without_exact_theory(spec, words):
    with pytest.raises(ValueError, match=f"equilibrium cannot play {spec}: .*{words}"):
        equilibrium(load_game(spec))


def test_perfect_information_is_recognised():
    assert has_perfect_information(load_game("tictactoe"))
    assert not has_perfect_information(KUHN)
    assert not has_perfect_information(LEDUC)


def test_zero_iterations_are_refused():
    with pytest.raises(ValueError, match="got 0 iterations; expected 1 or more"):
        solve_cfr(KUHN, 0)
