"""The other estimators by hand: each formula in numbers, three players, opponents, and games without a result."""

import dataclasses
import json
import math

import numpy as np
import pytest

from made_up import new_episode, new_estimator, new_turn
from spiral.core.records import Seat
from spiral.training.advantages import (
    DEPT,
    ESTIMATORS,
    GROUP_ESTIMATORS,
    RAE,
    DelayedAttribution,
    DiscountedTurns,
    DrGRPO,
    Marshal,
    ReinforcePlusPlus,
    SharedBaseline,
    load_estimator,
)
from spiral.training.advantages.turn_rewards import rewards_to_go, turn_rewards


def game(returns, players=(0, 1), rewards=None, **fields):
    """An episode whose turns are those of the players listed, each with what its turn earned."""
    turns = [new_turn(player) for player in players]
    if rewards is not None:
        turns = [dataclasses.replace(turn, reward=reward) for turn, reward in zip(turns, rewards, strict=True)]
    return new_episode(returns, turns, **fields)


def three(returns, players=(0, 1, 2), trainable=(True, True, True)):
    """An episode of three players."""
    seats = tuple(Seat(policy="a", trainable=learns) for learns in trainable)
    return dataclasses.replace(new_episode(returns, [new_turn(player) for player in players]), seats=seats)


def values(advantages):
    return [array.tolist() for array in advantages]


def test_one_baseline_for_all_players_moves_by_their_mean():
    shared = SharedBaseline(decay=0.5)
    # b is 0; after 2 and 0 it is 0.5; after -1.5 and 0.5 it is 0.25 - 0.25 = 0.
    assert values(shared([game((2.0, 0.0)), game((-1.5, 0.5))])) == [[2.0, 0.0], [-2.0, 0.0]]
    assert shared.baseline("tictactoe", 0) == shared.baseline("tictactoe", 1) == 0.0
    shared([game((3.0, 1.0), game="kuhn_poker")])
    assert (shared.baseline("kuhn_poker", 1), shared.baseline("tictactoe", 1)) == (1.0, 0.0)
    other = SharedBaseline()
    other.load_state_dict(json.loads(json.dumps(shared.state_dict())))
    assert other.state_dict() == shared.state_dict()
    assert other.baseline("kuhn_poker", 0) == 1.0


def test_in_zero_sum_self_play_a_shared_baseline_leaves_the_role_its_edge():
    shared, rae = SharedBaseline(), RAE()
    for _ in range(200):
        ours, theirs = shared([game((1.0, -1.0))])[0], rae([game((1.0, -1.0))])[0]
    assert ours.tolist() == [1.0, -1.0]
    assert np.abs(theirs).max() < 1e-3


def test_the_order_of_players_does_not_matter_to_a_shared_baseline():
    one, other = SharedBaseline(), SharedBaseline()
    one([game((1.0, -1.5))])
    other([game((-1.5, 1.0))])
    assert one.baseline("tictactoe", 0) == other.baseline("tictactoe", 0) == pytest.approx(-0.0125)


def test_dr_grpo_is_grpo_without_the_standard_deviation():
    attempts = [game((3.0, 0.0)), game((0.0, 0.0)), game((0.0, 3.0))]
    assert values(DrGRPO()(attempts)) == [[2.0, -1.0], [-1.0, -1.0], [-1.0, 2.0]]
    assert values(load_estimator("dr_grpo")(attempts)) == values(load_estimator("grpo", {"std": False})(attempts))
    with pytest.raises(ValueError, match="'dr_grpo' has no option 'std'"):
        load_estimator("dr_grpo", {"std": True})


def test_reinforce_plus_plus_normalises_over_all_turns_of_the_step():
    # Three turns with 1, one with -3 in one game; two with 0 in another: mean 0, variance (3 + 9) / 6 = 2.
    played = [game((1.0, -3.0), players=(0, 1, 0, 0)), game((0.0, 0.0), game="kuhn_poker")]
    one = 1 / math.sqrt(2)
    first, second = ReinforcePlusPlus()(played)
    assert first.tolist() == pytest.approx([one, -3 * one, one, one])
    assert second.tolist() == [0.0, 0.0]
    assert np.concatenate([first, second]).std() == pytest.approx(1.0)
    assert values(ReinforcePlusPlus()([game((0.1, 0.1))])) == [[0.0, 0.0]]
    assert ReinforcePlusPlus()([]) == []


def test_rewards_of_turns_are_paid_in_the_units_of_the_reward():
    # Payoff 4: normalised rewards are a quarter of the returns, in the episode that comes to nothing too.
    first = dataclasses.replace(game((2.0, -2.0), (0, 1, 0, 1), (3.0, -1.0, -1.0, -1.0)), rewards=(0.5, -0.5))
    level = dataclasses.replace(game((0.0, 0.0), (0, 1, 0, 1), (1.0, -1.0, -1.0, 1.0)), rewards=(0.0, 0.0))
    assert values(turn_rewards([first, level])) == [[0.75, -0.25, -0.25, -0.25], [0.25, -0.25, -0.25, 0.25]]
    assert rewards_to_go(first, turn_rewards([first, level])[0]).tolist() == [0.5, -0.5, -0.25, -0.25]


def test_where_something_else_is_paid_it_comes_with_the_last_turn():
    one = dataclasses.replace(game((2.0, -2.0), (0, 1, 0, 1), (3.0, -1.0, -1.0, -1.0)), rewards=(1.0, -1.0))
    two = dataclasses.replace(game((1.0, -1.0), (0, 1), (1.0, -1.0)), rewards=(1.0, -1.0))
    assert values(turn_rewards([one, two])) == [[0.0, 0.0, 1.0, -1.0], [1.0, -1.0]]
    coin = dataclasses.replace(game((0.0, 0.0), (0, 1, 0), (1.0, 0.0, -1.0)), rewards=(-1.0, 1.0))
    assert values(turn_rewards([coin])) == [[0.0, 1.0, -1.0]]


def test_marshal_by_hand():
    # Player 0 gets 3 to go, then 1, and in the second game 0: mean 4/3. Player 1 has -3, -2, and -1: mean -2.
    played = [
        game((3.0, -3.0), (0, 1, 0, 1), (2.0, -1.0, 1.0, -2.0)),
        game((0.0, -1.0), (0, 1), (0.0, -1.0)),
        game((9.0, 9.0), game="kuhn_poker"),
    ]
    first, second, other = Marshal()(played)
    assert first.tolist() == pytest.approx([5 / 3, -1.0, -1 / 3, 0.0])
    assert second.tolist() == pytest.approx([-4 / 3, 1.0])
    assert other.tolist() == [0.0, 0.0]
    first, second, _ = Marshal(std=True)(played)
    assert first.tolist() == pytest.approx(
        [5 / 3 / math.sqrt(14 / 9), -1 / math.sqrt(2 / 3), -1 / 3 / math.sqrt(14 / 9), 0.0]
    )
    assert second[1] == pytest.approx(1 / math.sqrt(2 / 3))
    with pytest.raises(ValueError, match="got std 1; expected true or false"):
        load_estimator("marshal", {"std": 1})


def test_discounted_credit_by_hand():
    estimator = DiscountedTurns(gamma=0.5, decay=0.5)
    assert values(estimator([game((1.0, -1.0), (0, 1, 0))])) == [[0.25, -0.5, 1.0]]
    assert values(estimator([game((1.0, -1.0), (0, 1))])) == [[0.25, -0.5]]  # RAE gives 0.5 and -0.5
    assert estimator.baseline("tictactoe", 0) == 0.75
    played = [game((1.0, -1.5)), game((0.0, 0.5), (0, 1, 0))]
    assert values(DiscountedTurns(gamma=1)(played)) == values(RAE()(played))
    for gamma in (0, 1.5, "much", True, float("nan")):
        with pytest.raises(ValueError, match="expected a number with 0 < gamma <= 1"):
            DiscountedTurns(gamma=gamma)


def test_an_illegal_move_of_the_other_side_earns_nothing():
    estimator = DelayedAttribution(decay=0.5)
    legal, illegal = game((1.0, -1.0)), game((0.5, -1.5), outcome="illegal_move")
    assert values(estimator([legal, illegal, legal])) == [[1.0, -1.0], [0.0, -1.0], [0.5, 0.0]]
    assert estimator.baseline("tictactoe", 0) == 0.75  # the two games that were won by play
    assert estimator.baseline("tictactoe", 1) == -1.0
    illegal = dataclasses.replace(three((0.25, -1.5, 0.25), (0, 1)), outcome="illegal_move")
    assert values(DelayedAttribution()([illegal])) == [[0.0, -1.5]]


def test_an_opponents_illegal_move_earns_nothing_either():
    illegal = game((0.5, -1.5), trainable=(True, False), outcome="illegal_move")
    estimator = DelayedAttribution()
    assert values(estimator([illegal])) == [[0.0, 0.0]]
    assert estimator.baseline(illegal.matchup, 0) == 0.0
    assert values(RAE()([illegal])) == [[0.5, 0.0]]


def test_dept_by_hand_when_results_vary():
    # Half won, half lost: H is 1 and nothing pushes; the baseline is 0.05 times the mean 0.
    assert values(DEPT()([game((1.0, -1.0)), game((-1.0, 1.0))])) == [[1.0, -1.0], [-1.0, 1.0]]


def test_dept_by_hand_when_all_games_end_alike():
    dept = DEPT()
    (first,) = dept([game((1.0, -1.0))])
    # fast 0.5, slow 0.05, H = 0: lambda = 1 - tanh 0.45, V = 0.5 for player 0 and -0.5 for player 1.
    pull = 1 - math.tanh(0.45)
    assert first.tolist() == pytest.approx(
        [1 - ((1 - pull) * 0.05 + pull * 0.5), -1 + ((1 - pull) * 0.05 + pull * 0.5)]
    )
    for _ in range(200):
        same = dept([game((1.0, -1.0))])[0]
    # Both baselines have arrived at the result: fast = slow = 1 and -1, lambda 1. Player 0 has V = 1, so nothing;
    # player 1 has V = -0.5, the largest so far: its common loss is pushed down, where RAE would see 0.
    assert same.tolist() == pytest.approx([0.0, -0.5], abs=1e-4)
    common, rare = dept([*[game((1.0, -1.0))] * 9, game((-1.0, 1.0))])[-2:]
    # The rare result is measured with the smallest: 0.5 for player 0, and the new -0.9 for player 1.
    entropy = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    fast, slow = 0.5 * 1 + 0.5 * 0.8, 0.95 * 1 + 0.05 * 0.8
    pull = (1 - math.tanh(slow - fast)) * math.sqrt(1 - entropy)
    assert rare.tolist() == pytest.approx(
        [-1 - ((1 - pull) * slow + pull * 0.5), 1 - (-(1 - pull) * slow + pull * -1.0)], abs=1e-3
    )
    assert common.tolist() == pytest.approx(
        [1 - ((1 - pull) * slow + pull * 1.0), -1 - (-(1 - pull) * slow + pull * -0.5)], abs=1e-3
    )


def test_the_state_of_dept_survives_json_and_damage_is_refused():
    dept, other = DEPT(), DEPT()
    dept([game((1.0, -1.0)), game((0.5, 0.5), game="kuhn_poker")])
    other.load_state_dict(json.loads(json.dumps(dept.state_dict())))
    assert other.state_dict() == dept.state_dict()
    assert values(other([game((0.0, 1.0))])) == values(dept([game((0.0, 1.0))]))
    assert other.baseline("kuhn_poker", 1) == pytest.approx(0.025)
    before = other.state_dict()
    for damaged in ({}, {"values": 3}, {"values": [["tictactoe", 0, 1.0]]}, {"values": [["tictactoe", 0, *"abcd"]]}):
        with pytest.raises(ValueError, match="as the state of DEPT; expected"):
            other.load_state_dict(damaged)
    assert other.state_dict() == before
    for options in ({"fast": 0.95}, {"slow": 1.0}, {"fast": -0.1}, {"fast": "low"}):
        with pytest.raises(ValueError, match="expected numbers with 0 <= fast < slow < 1"):
            DEPT(**options)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_takes_three_players_opponents_and_games_without_a_result(name):
    missing = dataclasses.replace(three((0.0, 0.0, 0.0), (0, 1)), outcome="not_played")
    played = [three((2.0, -1.0, -1.0), (0, 1, 2, 0)), three((-1.0, 2.0, -1.0)), missing]
    against = [
        three((2.0, 5.0, -1.0), trainable=(True, False, False)),
        three((0.0, -5.0, 0.0), trainable=(True, False, False)),
    ]

    def estimated(episodes):
        return new_estimator(name)(episodes)

    given = estimated([*played, *against])
    assert [len(array) for array in given] == [4, 3, 2, 3, 3]
    assert given[2].tolist() == [0.0, 0.0]
    assert all(array.tolist()[1:] == [0.0, 0.0] for array in given[3:])
    assert given[0][0] > given[1][0]
    # Games against an opponent stand alone where baselines belong to a matchup.
    if name != "reinforce++":
        apart = estimated(against)
        assert values(apart) == values(given[3:])
    # One for each player, so that all turns of a player have it, but where turns are discounted.
    if name not in ("discounted", "marshal", "gae"):
        assert given[0][0] == given[0][3]
    assert name in GROUP_ESTIMATORS or len(estimated([played[0]])[0]) == 4
