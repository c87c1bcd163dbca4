"""Rewards: the built-in ones, a user's own, and what happens when it fails."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from made_up import new_episode, new_turn
from spiral.games import load_game
from spiral.games.failures import UserCodeError
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play
from spiral.rollout.rewards import _call_reward, illegal_move_returns, load_reward, with_reward
from spiral.runs.recipe import load_recipe

HERE = "tests.rollout.test_rewards"


def quick(episode, *, discount=0.5):
    return [value * discount ** len(episode.turns) for value in episode.returns]


def fails(episode):
    raise KeyError("my reward")


def too_few(episode):
    return [1.0]


def infinite(episode):
    return [float("inf"), 0.0]


def leaves(episode):
    raise SystemExit(3)


def test_the_built_in_rewards():
    won, penalty = new_episode((2.0, -2.0)), new_episode((-1.5, 0.5), outcome="illegal_move")
    assert with_reward(won, load_reward("returns")) == won
    assert with_reward(won, load_reward("sign")).returns == (1.0, -1.0)
    assert with_reward(new_episode((0.0, 0.0)), load_reward("sign")).returns == (0.0, 0.0)
    assert with_reward(penalty, load_reward("sign")).returns == (-1.5, 0.5)


def test_a_custom_reward_with_options():
    episode = new_episode((2.0, -2.0), [new_turn(0), new_turn(1)])
    assert with_reward(episode, load_reward(f"{HERE}:quick")).returns == (0.5, -0.5)
    assert with_reward(episode, load_reward(f"{HERE}:quick", {"discount": 1.0})).returns == (2.0, -2.0)


def test_a_game_that_was_not_played_has_no_reward():
    episode = new_episode((0.0, 0.0), [new_turn(0)], outcome="not_played", fault="HTTP 500")
    assert with_reward(episode, load_reward(f"{HERE}:fails")) == episode


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"failed for an episode of tictactoe \(seed 7\): KeyError: 'my reward' \(test_rewards.py"),
        ("leaves", r"failed for an episode of tictactoe \(seed 7\): SystemExit: 3"),
        ("too_few", r"gave \[1.0\] for an episode of tictactoe \(seed 7\); expected 2 finite numbers"),
        ("infinite", r"gave \[inf, 0.0\] for an episode of tictactoe \(seed 7\); expected 2 finite numbers"),
    ],
)
def test_failing_reward_error_names_reward_and_game(name, message):
    player, reward = RandomPolicy(), load_reward(f"{HERE}:{name}")
    match = Match(game=load_game("tictactoe"), seed=7, policies=(player, player), reward=reward)
    with pytest.raises(UserCodeError, match=f"the reward '{HERE}:{name}' {message}"):
        play([match])


def test_recipes_name_rewards_and_refuse_what_is_wrong():
    own = load_recipe("nano", [f"selfplay.reward={HERE}:quick", "selfplay.reward_options={ discount = 0.9 }"])
    assert own.selfplay.reward_options == {"discount": 0.9}
    for reward, message in (("sum", "selfplay.reward: there is no 'sum' among the rewards"), ("no:thing", "no:thing")):
        with pytest.raises(ValueError, match=message):
            load_recipe("nano", [f"selfplay.reward={reward}"])
    with pytest.raises(ValueError, match="has no option 'gamma'; its options: discount"):
        load_recipe("nano", [f"selfplay.reward={HERE}:quick", "selfplay.reward_options={ gamma = 0.9 }"])


@pytest.mark.parametrize(
    "given",
    [{0: 1.0, 1: -1.0}, {1.0, -1.0}, "19", b"19", ("1", "9"), (1j, -1j), np.array([1j, -1j]), [None, 1.0], None],
    ids=repr,
)
def test_a_reward_is_a_list_of_numbers(given):
    reward = functools.partial(_call_reward, "mine", lambda _episode: given, {})
    with pytest.raises(UserCodeError, match=r"the reward 'mine' gave .* expected 2 finite numbers"):
        reward(new_episode((1.0, -1.0)))


def test_rewards_may_come_from_generators_and_arrays():
    def reward(given):
        return _call_reward("mine", lambda _episode: given, {}, new_episode((1.0, -1.0)))

    assert reward(value for value in (1.5, -1)) == reward(np.float64([1.5, -1.0])) == (1.5, -1.0)
    assert reward({0: 1.5, 1: -1}.values()) == (1.5, -1.0)
    with pytest.raises(UserCodeError, match=r"the reward 'mine' failed .*: ZeroDivisionError"):
        reward(1 / value for value in (1, 0))


def without_arguments():
    return [1.0, -1.0]


def by_keyword(*, episode=None):
    return [1.0, -1.0]


@pytest.mark.parametrize("name", ["without_arguments", "by_keyword"])
def test_a_reward_that_does_not_take_an_episode_is_refused(name):
    with pytest.raises(ValueError, match=f"'{HERE}:{name}' is called as {name}\\(episode, .*options\\), but takes "):
        load_reward(f"{HERE}:{name}")


@pytest.mark.parametrize(
    ("players", "offender", "paid"),
    [(1, 0, (-1.5,)), (2, 0, (-1.5, 0.5)), (2, 1, (0.5, -1.5)), (3, 1, (0.25, -1.5, 0.25))],
)
def test_what_an_illegal_move_pays(players, offender, paid):
    assert illegal_move_returns(players, offender) == paid
