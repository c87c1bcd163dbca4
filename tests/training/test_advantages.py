"""Advantages by hand: the baseline is read before it moves, and each game and seat has its own."""

import json
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_up import new_episode
from spiral.training.advantages import (
    RoleBaselines,
    batch_mean_advantages,
    load_estimator,
    plain_returns,
    role_conditioned_advantages,
)


def episodes(*returns, game="tictactoe"):
    return [new_episode(pair, game=game) for pair in returns]


def test_four_episodes_by_hand():
    baselines = RoleBaselines(decay=0.95)
    played = episodes((1.0, -1.0), (1.0, -1.0), (0.0, 0.0), (-1.5, 0.5))
    advantages = role_conditioned_advantages(played, baselines)
    # Seat 0: b is 0, then 0.05, then 0.0975, then 0.092625; seat 1 mirrors it until the illegal move.
    assert advantages == [
        pytest.approx((1.0, -1.0), abs=1e-12),
        pytest.approx((0.95, -0.95), abs=1e-12),
        pytest.approx((-0.0975, 0.0975), abs=1e-12),
        pytest.approx((-1.592625, 0.592625), abs=1e-12),
    ]
    assert baselines.value("tictactoe", 0) == pytest.approx(0.95 * 0.092625 - 0.05 * 1.5, abs=1e-12)
    assert baselines.value("tictactoe", 1) == pytest.approx(-0.95 * 0.092625 + 0.05 * 0.5, abs=1e-12)


def test_reading_before_updating_makes_the_first_advantage_the_return():
    # Updating first would scale every advantage by the decay.
    advantages = role_conditioned_advantages(episodes((2.0, -2.0)), RoleBaselines(decay=0.5))
    assert advantages == [(2.0, -2.0)]


@given(
    returns=st.lists(st.floats(-2, 2), min_size=1, max_size=30),
    decay=st.floats(0, 0.99),
)
def test_the_baseline_is_the_discounted_sum_of_past_returns(returns, decay):
    baselines = RoleBaselines(decay=decay)
    advantages = role_conditioned_advantages(episodes(*((value, -value) for value in returns)), baselines)
    for index, (first, second) in enumerate(advantages):
        past = sum((1 - decay) * decay ** (index - 1 - age) * returns[age] for age in range(index))
        assert first == pytest.approx(returns[index] - past, abs=1e-9)
        assert second == pytest.approx(-first, abs=1e-9)


def test_games_and_seats_do_not_share_a_baseline():
    baselines = RoleBaselines(decay=0.5)
    mixed = [
        new_episode((1.0, -1.0), game="tictactoe"),
        new_episode((2.0, -2.0), game="kuhn_poker"),
        new_episode((1.0, -1.0), game="tictactoe"),
        new_episode((1.0, -1.0), game="kuhn_poker(hands=5)"),
    ]
    assert role_conditioned_advantages(mixed, baselines) == [(1.0, -1.0), (2.0, -2.0), (0.5, -0.5), (1.0, -1.0)]
    assert baselines.value("tictactoe", 0) == 0.75
    assert baselines.value("tictactoe", 1) == -0.75
    assert baselines.value("kuhn_poker", 0) == 1.0
    assert baselines.value("connect_four", 0) == 0.0


def test_splitting_a_batch_changes_nothing():
    played = episodes((1.0, -1.0), (0.0, 0.0), (-1.0, 1.0), (0.5, -1.5))
    whole, parts = RoleBaselines(), RoleBaselines()
    together = role_conditioned_advantages(played, whole)
    apart = [pair for episode in played for pair in role_conditioned_advantages([episode], parts)]
    assert together == apart
    assert whole.state_dict() == parts.state_dict()


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2, float("nan")])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match="expected a number with 0 <= decay < 1"):
        RoleBaselines(decay=decay)


def test_state_survives_json():
    baselines = RoleBaselines(decay=0.9)
    role_conditioned_advantages(episodes((1.0, -1.0), (0.3, -0.3)), baselines)
    role_conditioned_advantages(episodes((1.0, 0.5), game="kuhn_poker"), baselines)
    other = RoleBaselines()
    other.update("leduc_poker", 0, 1.0)
    other.load_state_dict(json.loads(json.dumps(baselines.state_dict())))
    assert other.state_dict() == baselines.state_dict()
    assert other.decay == 0.9
    assert other.value("leduc_poker", 0) == 0.0
    after = role_conditioned_advantages(episodes((1.0, -1.0)), other)
    assert after == role_conditioned_advantages(episodes((1.0, -1.0)), baselines)


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"decay": 0.9},
        {"decay": 1.5, "values": []},
        {"decay": "high", "values": []},
        {"decay": 0.9, "values": 3},
        {"decay": 0.9, "values": [["tictactoe", 0]]},
        {"decay": 0.9, "values": [["tictactoe", "first", 1.0]]},
        {"decay": 0.9, "values": [["tictactoe", 0, "much"]]},
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damaged):
    baselines = RoleBaselines(decay=0.5)
    baselines.update("tictactoe", 0, 1.0)
    with pytest.raises(ValueError, match="as the state of the baselines; expected"):
        baselines.load_state_dict(damaged)
    assert baselines.state_dict() == {"decay": 0.5, "values": [["tictactoe", 0, 0.5]]}


def test_batch_mean_is_per_game_and_seat():
    baselines = RoleBaselines(decay=0.5)
    played = [*episodes((1.0, -1.0), (0.0, 0.0)), *episodes((2.0, -2.0), game="kuhn_poker")]
    assert batch_mean_advantages(played, baselines) == [(0.5, -0.5), (-0.5, 0.5), (0.0, 0.0)]
    assert baselines.value("tictactoe", 0) == 0.25
    assert baselines.value("kuhn_poker", 1) == -1.0


def test_plain_returns_have_no_baseline():
    baselines = RoleBaselines(decay=0.5)
    assert plain_returns(episodes((1.0, -1.0), (1.0, -1.0)), baselines) == [(1.0, -1.0), (1.0, -1.0)]
    assert baselines.value("tictactoe", 0) == 0.75


def test_estimators_by_name():
    assert load_estimator("rae") is role_conditioned_advantages
    assert load_estimator("batch_mean") is batch_mean_advantages
    assert load_estimator("returns") is plain_returns
    assert load_estimator("spiral.training.advantages:plain_returns").args == (
        "spiral.training.advantages:plain_returns",
        plain_returns,
    )


def test_an_estimator_of_ones_own(monkeypatch):
    module = types.ModuleType("my_credit")
    module.half = lambda episodes, baselines: [(0.5, 0.5) for _ in episodes]
    monkeypatch.setitem(sys.modules, "my_credit", module)
    assert load_estimator("my_credit:half")(episodes((1.0, -1.0)), RoleBaselines()) == [(0.5, 0.5)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gae", "expected one of rae, batch_mean, returns, or 'module:function'"),
        ("no_such_module:f", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("spiral.training.advantages:nothing", "cannot be imported: .*has no attribute 'nothing'"),
        ("spiral.training.advantages:", "cannot be imported"),
        (":plain_returns", "cannot be imported"),
        (".credit:plain_returns", "cannot be imported"),
        ("spiral.training.advantages:SEED", "cannot be imported"),
    ],
)
def test_estimators_that_do_not_exist(name, message):
    with pytest.raises(ValueError, match=message) as error:
        load_estimator(name)
    assert repr(name) in str(error.value)
