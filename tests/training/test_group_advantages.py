"""RLOO and GRPO by hand, and which episodes are compared with each other."""

import dataclasses

import numpy as np
import pytest

from made_up import new_episode, new_turn
from spiral.games.failures import UserCodeError
from spiral.training.advantages import GRPO, RLOO, load_estimator


def attempts(*returns, seed=0, **fields):
    """Attempts at one deal, one turn for each player."""
    return [
        dataclasses.replace(new_episode(pair, [new_turn(0), new_turn(1)], seed=seed, **fields), attempt=number)
        for number, pair in enumerate(returns)
    ]


def first_players(advantages):
    return [float(array[0]) for array in advantages]


def test_rloo_by_hand():
    # Player 0 has 1, 0, 0, 1: the others' means are 1/3, 2/3, 2/3, 1/3. Player 1 has -1, 2, 0, -1.
    given = RLOO()(attempts((1.0, -1.0), (0.0, 2.0), (0.0, 0.0), (1.0, -1.0)))
    np.testing.assert_allclose(
        np.stack(given), [[2 / 3, -4 / 3], [-2 / 3, 8 / 3], [-2 / 3, 0.0], [2 / 3, -4 / 3]], atol=1e-12
    )


def test_grpo_by_hand():
    # Mean 0.5, standard deviation 0.5; for 3, 0, 0 mean 1, standard deviation sqrt(2).
    assert first_players(GRPO()(attempts((1.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 0.0)))) == [1.0, -1.0, -1.0, 1.0]
    three = attempts((3.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    assert first_players(GRPO()(three)) == pytest.approx([2**0.5, -(0.5**0.5), -(0.5**0.5)])
    assert first_players(GRPO(std=False)(three)) == [2.0, -1.0, -1.0]


@pytest.mark.parametrize("estimator", [RLOO(), GRPO(), GRPO(std=False)])
def test_equal_returns_have_advantage_zero_exactly(estimator):
    assert first_players(estimator(attempts(*[(0.1, 0.1)] * 3))) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("estimator", [RLOO(), GRPO(std=False)])
def test_groups_are_those_of_one_game_opponent_and_seed(estimator):
    here = attempts((1.0, 0.0), (0.0, 0.0), seed=1)
    there = attempts((5.0, 0.0), (5.0, 0.0), seed=2)
    other = attempts((7.0, 0.0), (6.0, 0.0), seed=1, game="kuhn_poker")
    against = attempts((9.0, 0.0), (9.0, 0.0), seed=1, trainable=(True, False))
    mixed = [episode for group in zip(here, there, other, against, strict=True) for episode in group]
    width = 1.0 if isinstance(estimator, RLOO) else 0.5
    assert first_players(estimator(mixed)) == [width, 0.0, width, 0.0, -width, 0.0, -width, 0.0]


def test_only_learning_players_have_advantages():
    given = RLOO()(attempts((1.0, -1.0), (0.0, 0.0), trainable=(False, True)))
    assert np.stack(given).tolist() == [[0.0, -1.0], [0.0, 1.0]]


def test_a_game_without_a_result_is_left_out_of_its_group():
    played = attempts((1.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    played[1] = dataclasses.replace(played[1], outcome="not_played")
    assert first_players(RLOO()(played)) == [1.0, 0.0, -1.0]
    assert first_players(RLOO()(played[:2])) == [0.0, 0.0]


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_group_of_one_is_refused_with_the_setting_to_change(name):
    with pytest.raises(UserCodeError, match=r"only one episode of tictactoe from seed 7.*set selfplay.attempts to 2"):
        load_estimator(name)(attempts((1.0, -1.0), seed=7))


def test_options_are_checked():
    assert first_players(load_estimator("grpo", {"std": False})(attempts((1.0, 0.0), (0.0, 0.0)))) == [0.5, -0.5]
    with pytest.raises(ValueError, match="got std 'no'; expected true or false"):
        load_estimator("grpo", {"std": "no"})
    with pytest.raises(ValueError, match="'rloo' has no option 'std'"):
        load_estimator("rloo", {"std": False})
