"""Best responses: their values, their optimality, and that they use no hidden information."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiral.games import load_game
from spiral.theory import (
    Minimax,
    best_response,
    expected_returns,
    information_states,
    nash_conv,
    policy_from_table,
    uniform_policy,
)

KUHN = load_game("kuhn_poker")
LEDUC = load_game("leduc_poker")
TICTACTOE = load_game("tictactoe")


def random_policy(game, seed, concentration=1.0):
    """Dirichlet probabilities at every information state; a small concentration is nearly pure."""
    rng = np.random.default_rng(seed)
    table = {}
    for state, player in information_states(game):
        actions = state.legal_actions()
        row = rng.dirichlet(np.full(len(actions), concentration))
        table[state.information_state(player)] = dict(zip(actions, row.tolist(), strict=True))
    return policy_from_table(table)


def seated(player, mine, other):
    """`mine` in `player` and `other` in the other one."""
    return [mine, other] if player == 0 else [other, mine]


@pytest.mark.parametrize("game", [KUHN, LEDUC], ids=lambda game: game.name)
@pytest.mark.parametrize("player", [0, 1])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), concentration=st.sampled_from([0.02, 1.0]))
def test_a_best_response_earns_its_value_and_nothing_earns_more(game, player, seed, concentration):
    policy = random_policy(game, seed, concentration)
    reply = best_response(game, policy, player)
    returns = expected_returns(game, seated(player, reply.policy, policy))
    assert sum(returns) == 0.0
    assert returns[player] == pytest.approx(reply.value, abs=1e-9)
    other = random_policy(game, seed + 1, concentration)
    assert expected_returns(game, seated(player, other, policy))[player] <= reply.value + 1e-9


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_nash_conv_is_the_sum_of_both_players_gains(seed):
    policy = random_policy(LEDUC, seed)
    on_policy = expected_returns(LEDUC, [policy, policy])
    gains = [best_response(LEDUC, policy, player).value - on_policy[player] for player in (0, 1)]
    assert min(gains) >= -1e-9
    assert nash_conv(LEDUC, policy) == pytest.approx(sum(gains), abs=1e-9)


def test_the_best_response_to_uniform_kuhn():
    # Seat 1 against random play: J folds to a bet, since calling never wins.
    reply = best_response(KUHN, uniform_policy, 1)
    by_state = {state.information_state(player): state for state, player in information_states(KUHN) if player == 1}
    assert set(reply.actions) == set(by_state)
    facing_bet = {state.cards[1]: reply.actions[name] for name, state in by_state.items() if state.actions == ("bet",)}
    assert facing_bet == {"J": "fold", "Q": "call", "K": "call"}
    after_check = {
        state.cards[1]: reply.actions[name] for name, state in by_state.items() if state.actions == ("check",)
    }
    assert after_check["K"] == "bet"
    for name, state in by_state.items():
        assert reply.policy(state, 1)[reply.actions[name]] == 1.0
        assert sum(reply.policy(state, 1).values()) == 1.0


def test_the_responder_cannot_see_the_hidden_card():
    # One who sees it folds every lower card (-1) and wins 2 with every higher one: 1/2 instead of 1/3.
    def bold(state, player):
        return {"bet" if "bet" in state.legal_actions() else "call": 1.0}

    assert best_response(KUHN, bold, 1).value == pytest.approx(1 / 3, abs=1e-12)


def test_every_information_state_is_asked_once():
    asked = []

    def policy(state, player):
        asked.append((player, state.information_state(player)))
        return uniform_policy(state, player)

    nash_conv(KUHN, policy)
    assert len(asked) == len(set(asked)) == 12
    asked.clear()
    best_response(KUHN, policy, 0)
    assert {player for player, _ in asked} == {1}
    assert len(asked) == 6


def test_information_states_of_the_games():
    # Kuhn: 3 cards and 2 lines of play for each player. Leduc without suits: 288 in all.
    assert [sum(player == mine for _, player in information_states(KUHN)) for mine in (0, 1)] == [6, 6]
    assert len(information_states(LEDUC)) == 288
    assert all(state.current_player == player for state, player in information_states(LEDUC))
    # 5,478 positions of tic-tac-toe, 958 of them final.
    assert len(information_states(TICTACTOE, merge_positions=True)) == 5_478 - 958


def test_perfect_tictactoe_cannot_be_exploited():
    search = Minimax()

    def perfect(state, player):
        return {search.optimal_actions(state)[0]: 1.0}

    assert nash_conv(TICTACTOE, perfect, merge_positions=True) == 0.0


def test_a_best_response_on_positions_works_on_any_history():
    reply = best_response(TICTACTOE, uniform_policy, 0, merge_positions=True)
    assert expected_returns(TICTACTOE, [reply.policy, uniform_policy], merge_positions=True)[0] == pytest.approx(
        reply.value, abs=1e-12
    )
    assert reply.value == pytest.approx(0.9947916667, abs=1e-9)  # 191/192
    start = TICTACTOE.initial_state()
    one = start.apply("0").apply("3").apply("1").apply("4")
    same = start.apply("1").apply("4").apply("0").apply("3")
    assert one != same
    assert reply.policy(one, 0) == reply.policy(same, 0)
    assert reply.policy(one, 0)["2"] == 1.0


def test_best_responses_survive_pickling():
    reply = best_response(KUHN, uniform_policy, 0)
    copy = pickle.loads(pickle.dumps(reply))
    assert copy == reply
    assert expected_returns(KUHN, [copy.policy, uniform_policy])[0] == pytest.approx(reply.value, abs=1e-12)
