"""Others in the second seat: who sits where, who learns, and that nothing is learned of the other one."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from distributed_policies import VOCABULARY, coin
from made_up import new_episode, new_turn
from spiral.batch import samples_from_episodes
from spiral.credit import RoleBaselines, batch_mean_advantages, plain_returns, role_conditioned_advantages
from spiral.display import seat_table
from spiral.distributed.checks import check_episode
from spiral.distributed.staleness import split_stale, turn_ages
from spiral.games import load_game
from spiral.measures import episode_metrics
from spiral.policies import scripted_policy
from spiral.recipe import load_recipe
from spiral.records import Seat
from spiral.rollout import SelfPlayConfig, play
from spiral.seating import Opponents
from spiral.selfplay import Matchmaker, SelfPlay

MIXED = SelfPlayConfig(
    games={"tictactoe": 1.0, "kuhn_poker": 1.0},
    episodes_per_step=20,
    opponents={"mirror": 2.0, "random": 1.0, "minimax": 2.0},
)


def against(returns, learner, opponent="random", turns=(), **fields):
    """A game in which one seat learned."""
    seats = [Seat(policy="policy", trainable=True), Seat(policy=opponent, trainable=False)]
    episode = new_episode(returns, turns, **fields)
    return dataclasses.replace(episode, seats=(seats[learner], seats[1 - learner]))


def seated(step):
    """Games by (game, who sits first, who sits second, who learns)."""
    policy = coin()
    return Counter(
        (match.game.spec, *(player.name for player in match.policies), match.trainable)
        for match in Matchmaker(policy, MIXED, 3).matches(step)
    )


def test_opponents_get_their_shares_and_the_policy_sits_on_both_sides():
    # Ten games each: two, one and two of five parts; minimax does not play poker, which leaves two and one of three.
    assert seated(1) == {
        ("tictactoe", "coin", "coin", (True, True)): 4,
        ("tictactoe", "coin", "random", (True, False)): 1,
        ("tictactoe", "random", "coin", (False, True)): 1,
        ("tictactoe", "coin", "minimax", (True, False)): 2,
        ("tictactoe", "minimax", "coin", (False, True)): 2,
        ("kuhn_poker", "coin", "coin", (True, True)): 7,
        ("kuhn_poker", "coin", "random", (True, False)): 1,
        ("kuhn_poker", "random", "coin", (False, True)): 2,
    }
    odd = {key: count for key, count in seated(2).items() if key[:3] == ("kuhn_poker", "coin", "random")}
    assert list(odd.values()) == [2]  # the odd game changes sides from step to step


def test_the_policy_alone_plays_what_it_played_without_opponents():
    alone = SelfPlayConfig(games=MIXED.games, episodes_per_step=20)
    mine = [(m.game.spec, m.seed, m.trainable) for m in Matchmaker(coin(), alone, 3).matches(1)]
    mixed = [(m.game.spec, m.seed) for m in Matchmaker(coin(), MIXED, 3).matches(1)]
    assert [(spec, seed) for spec, seed, _ in mine] == mixed
    assert {trainable for *_, trainable in mine} == {(True, True)}


def test_nothing_is_learned_of_an_opponent_s_turns():
    episodes = SelfPlay(coin(), MIXED, 3).collect(1)
    samples, dropped = samples_from_episodes(
        episodes, role_conditioned_advantages(episodes, RoleBaselines()), drop_zero_advantage=False
    )
    own = [turn for e in episodes for turn in e.turns if e.seats[turn.player].policy == "coin"]
    assert (len(samples), dropped) == (len(own), 0)
    others = [turn for e in episodes for turn in e.turns if e.seats[turn.player].policy != "coin"]
    assert len(others) > 10
    assert all(turn.generation is None and turn.action is not None for turn in others)


def test_each_opponent_has_baselines_of_its_own_and_only_for_the_seat_that_learns():
    baselines = RoleBaselines(decay=0.5)
    games = [
        new_episode((1.0, -1.0)),
        against((1.0, -1.0), 0),
        against((-1.0, 1.0), 0),
        against((1.0, -1.0), 1),
        against((0.0, 0.0), 1, "minimax"),
    ]
    assert role_conditioned_advantages(games, baselines) == [
        (1.0, -1.0),
        (1.0, 0.0),
        (-1.5, 0.0),
        (0.0, -1.0),
        (0.0, 0.0),
    ]
    assert baselines.value("tictactoe", 0) == 0.5
    assert baselines.value("tictactoe against random", 0) == -0.25
    assert baselines.value("tictactoe against random", 1) == -0.5
    assert baselines.value("tictactoe against minimax", 0) == 0.0
    restored = RoleBaselines()
    restored.load_state_dict(baselines.state_dict())
    assert restored.value("tictactoe against random", 0) == -0.25
    assert batch_mean_advantages(games, RoleBaselines())[1:4] == [(1.0, 0.0), (-1.0, 0.0), (0.0, 0.0)]
    assert plain_returns(games, RoleBaselines())[:3] == [(1.0, -1.0), (1.0, 0.0), (-1.0, 0.0)]


def test_metrics_keep_opponents_apart_and_count_the_policy_only():
    games = [
        new_episode((1.0, -1.0), [new_turn(0, tokens=range(4)), new_turn(1, tokens=range(2))]),
        against((-1.0, 1.0), 0, "endpoint:x", [new_turn(0, tokens=range(6)), new_turn(1, tokens=range(50))]),
        against((0.5, -1.5), 1, "endpoint:x", [new_turn(0, tokens=range(50)), new_turn(1, tokens=(), action=None)]),
    ]
    metrics = episode_metrics(games, {})
    assert metrics["rollout/response_tokens"] == 4 + 2 + 6
    assert metrics["rollout/illegal"] == pytest.approx(1 / 4)
    assert metrics["tictactoe/return_seat_0"] == 1.0
    assert metrics["tictactoe against endpoint:x/return_seat_0"] == -1.0
    assert metrics["tictactoe against endpoint:x/return_seat_1"] == -1.5
    assert metrics["tictactoe against endpoint:x/response_length_seat_0"] == 6.0
    assert metrics["tictactoe against endpoint:x/illegal_seat_1"] == 1.0
    alone = episode_metrics(games[:2], {})
    assert "tictactoe against endpoint:x/return_seat_1" not in alone
    assert seat_table(alone).row_count == 3
    assert seat_table(metrics).row_count == 4


def test_a_cluster_checks_and_ages_what_the_policy_wrote_and_no_more():
    policy = coin()
    policy.version = 4
    matches = Matchmaker(policy, MIXED, 3).matches(1)
    episodes = play(matches)
    assert [check_episode(e, m, VOCABULARY, range(4, 5)) for e, m in zip(episodes, matches, strict=True)] == [None] * 20
    index = next(i for i, match in enumerate(matches) if match.trainable == (True, False))
    turns = list(episodes[index].turns)
    bad = dataclasses.replace(turns[0].generation, token_ids=np.array([99]))
    mine = dataclasses.replace(turns[0], generation=bad)
    wrong = dataclasses.replace(episodes[index], turns=(mine, *turns[1:]))
    assert "token id 99" in check_episode(wrong, matches[index], VOCABULARY, range(4, 5))
    theirs = dataclasses.replace(turns[1], generation=dataclasses.replace(bad, policy_version=0), prompt_ids=None)
    other = dataclasses.replace(episodes[index], turns=(turns[0], theirs, *turns[2:]))
    assert check_episode(other, matches[index], VOCABULARY, range(4, 5)) is None
    assert set(turn_ages([other], 5)) == {1}
    assert split_stale([other], 5, 1) == ([other], 0)


def test_models_are_made_once_for_all_games():
    opponents = Opponents("cpu")
    games = {spec: load_game(spec) for spec in MIXED.games}
    first, second = (opponents("nano", game) for game in games.values())
    assert first is second
    assert opponents("random", games["tictactoe"]).name == scripted_policy("random", games["tictactoe"]).name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("{ minimax = 1.0 }", "none of which plays kuhn_poker; expected another one, such as 'mirror' or 'random'"),
        ("{ mirror = 1.0, nobody-there = 1.0 }", "selfplay.opponents: .*nobody-there"),
        ("{ mirror = 1.0, random = -0.5 }", "expected none below zero"),
        ("{}", "selfplay.opponents: got {}"),
    ],
)
def test_opponents_that_cannot_be_are_refused_before_anything_starts(setting, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("nano", [f"selfplay.opponents={setting}"])
