"""Several attempts at one deal: what they share, what differs, and how one is played again."""

from __future__ import annotations

import dataclasses

import pytest

from spiral.core.storage import read_episodes, write_episodes
from spiral.distributed.checks import check_episode
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import play
from spiral.rollout.matchmaking import Matchmaker, SelfPlayConfig, episodes_by_game
from spiral.runs.recipe import load_recipe

GAMES = {"kuhn_poker(hands=3)": 3.0, "tictactoe": 1.0}


def matchmaker(**settings):
    return Matchmaker(RandomPolicy(), SelfPlayConfig(games=GAMES, **settings), 5)


def deal(episode):
    """What chance did in the first hand."""
    return episode.actions[:2]


def test_attempts_are_next_to_each_other_and_share_deal_and_opponent():
    settings = {"episodes_per_step": 32, "attempts": 4, "opponents": {"mirror": 1.0, "random": 1.0}}
    planned = matchmaker(**settings).pairings(7)
    assert [pairing.attempt for pairing in planned] == [0, 1, 2, 3] * 8
    groups = [planned[first : first + 4] for first in range(0, 32, 4)]
    assert all(len({(p.game, p.seed, p.players) for p in group}) == 1 for group in groups)
    assert len({group[0].seed for group in groups}) == 8
    assert len({group[0].players for group in groups}) > 1
    assert episodes_by_game(SelfPlayConfig(games=GAMES, **settings)) == {"kuhn_poker(hands=3)": 24, "tictactoe": 8}


def test_the_first_attempts_are_the_games_of_a_step_without_attempts():
    once = matchmaker(episodes_per_step=8).pairings(3)
    often = matchmaker(episodes_per_step=24, attempts=3).pairings(3)
    assert [pairing for pairing in often if pairing.attempt == 0] == once


def test_chance_and_openings_are_the_same_and_replies_are_not():
    made = matchmaker(episodes_per_step=160, attempts=10, opening_plies={"tictactoe": 4})
    episodes = play(made.matches(1))
    groups = [episodes[first : first + 10] for first in range(0, 160, 10)]
    poker, board = groups[:12], groups[12:]
    assert all(len({deal(episode) for episode in group}) == 1 for group in poker)
    assert len({deal(group[0]) for group in poker}) > 1
    assert all(len({episode.actions for episode in group}) > 1 for group in groups)
    openings = [len(group[0].actions) - len(group[0].turns) for group in board]
    for group, plies in zip(board, openings, strict=True):
        assert len({episode.actions[:plies] for episode in group}) == 1
    assert max(openings) > 0


def test_an_attempt_is_played_again_from_its_seed_and_number():
    made = matchmaker(episodes_per_step=8, attempts=4)
    matches = made.matches(2)
    episodes = play(matches)
    (again,) = play([matches[6]])
    assert (again.seed, again.attempt, again.actions) == (episodes[6].seed, 2, episodes[6].actions)
    assert again == episodes[6]


def test_the_attempt_is_stored_and_checked(tmp_path):
    made = matchmaker(episodes_per_step=4, attempts=2)
    matches = [dataclasses.replace(match, trainable=(False, False)) for match in made.matches(1)]
    episodes = play(matches)
    write_episodes(tmp_path / "a.parquet", episodes)
    assert [episode.attempt for episode in read_episodes(tmp_path / "a.parquet")] == [0, 1, 0, 1]
    assert check_episode(episodes[1], matches[1], 10, range(1)) is None
    wrong = dataclasses.replace(episodes[1], attempt=0)
    assert "it played attempt 0 of kuhn_poker(hands=3)" in str(check_episode(wrong, matches[1], 10, range(1)))


def test_attempts_that_do_not_divide_the_step_are_refused():
    with pytest.raises(ValueError, match=r"is 100 and selfplay.attempts is 8; expected a multiple.*, such as 96"):
        SelfPlayConfig(episodes_per_step=100, attempts=8)


def test_group_estimators_need_attempts_in_one_batch():
    with pytest.raises(ValueError, match=r"selfplay.attempts is 1; set selfplay.attempts to 2 or more"):
        load_recipe("nano", overrides=["credit.estimator=rloo"])
    grouped = ["credit.estimator=grpo", "selfplay.attempts=8"]
    assert load_recipe("nano", overrides=grouped).selfplay.attempts == 8
    with pytest.raises(ValueError, match=r"schedule is 'async', which can put .* into different steps"):
        load_recipe("nano", overrides=[*grouped, "cluster.rollout_workers=2", "cluster.schedule=async"])
