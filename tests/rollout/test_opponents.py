"""Training against opponents: their shares, who learns, and how baselines, metrics and checks treat them."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_policies import VOCABULARY, coin
from made_up import new_episode, new_turn
from spiral.core.metrics import Matchup, episode_metrics
from spiral.core.records import Seat
from spiral.distributed.checks import check_episode
from spiral.distributed.game_queue import split_stale, turn_ages
from spiral.launch import start
from spiral.rollout.collector import SelfPlay
from spiral.rollout.loop import play
from spiral.rollout.matchmaking import Matchmaker, SelfPlayConfig
from spiral.rollout.opponents.fixed import split_evenly
from spiral.runs.checks import check_run
from spiral.runs.display import Watched, not_played, player_table
from spiral.runs.recipe import load_recipe
from spiral.training.advantages import RAE, BatchMean, PlainReturns
from spiral.training.batch import samples_from_episodes
from spiral.training.loop import _check_played

MIXED = SelfPlayConfig(
    games={"tictactoe": 1.0, "kuhn_poker": 1.0},
    episodes_per_step=20,
    opponents={"mirror": 2.0, "random": 1.0, "minimax": 2.0},
)


def against(returns, learner, opponent="random", turns=(), **fields):
    """A game in which one player learned."""
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


def test_opponents_get_their_shares_and_the_policy_plays_both_sides():
    # Ten games each: two, one and two of five parts; minimax does not play poker, which leaves two and one of three.
    tictactoe = {key[1:]: count for key, count in seated(1).items() if key[0] == "tictactoe"}
    assert tictactoe == {
        ("coin", "coin", (True, True)): 4,
        ("coin", "random", (True, False)): 1,
        ("random", "coin", (False, True)): 1,
        ("coin", "minimax", (True, False)): 2,
        ("minimax", "coin", (False, True)): 2,
    }
    poker = Counter()
    for step in range(1, 61):
        counts = {key[1:]: count for key, count in seated(step).items() if key[0] == "kuhn_poker"}
        assert sum(counts.values()) == 10
        assert counts["coin", "coin", (True, True)] in (6, 7)
        poker.update(counts)
    assert poker["coin", "coin", (True, True)] == pytest.approx(400, abs=12)
    assert poker["coin", "random", (True, False)] == pytest.approx(100, abs=12)
    assert poker["random", "coin", (False, True)] == pytest.approx(100, abs=12)


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    total=st.integers(0, 50),
    offset=st.floats(0, 1, exclude_max=True),
)
def test_shares_are_rounded_up_or_down_and_add_up(weights, total, offset):
    named = {str(index): weight for index, weight in enumerate(weights)}
    counts = split_evenly(named, total, offset)
    assert sum(counts.values()) == total
    for name, weight in named.items():
        assert abs(counts[name] - total * weight / sum(weights)) < 1 + 1e-6


def test_small_shares_occur_in_some_steps():
    counts = Counter()
    for step in range(1000):
        counts.update(split_evenly({"mirror": 8.0, "random": 1.0, "minimax": 1.0}, 1, (step + 0.5) / 1000))
    assert counts == {"mirror": 800, "random": 100, "minimax": 100}


def test_mirror_games_do_not_depend_on_opponents():
    alone = SelfPlayConfig(games=MIXED.games, episodes_per_step=20)
    mine = [(m.game.spec, m.seed, m.trainable) for m in Matchmaker(coin(), alone, 3).matches(1)]
    mixed = [(m.game.spec, m.seed) for m in Matchmaker(coin(), MIXED, 3).matches(1)]
    assert [(spec, seed) for spec, seed, _ in mine] == mixed
    assert {trainable for *_, trainable in mine} == {(True, True)}


def test_opponents_turns_are_not_trained_on():
    episodes = SelfPlay(coin(), MIXED, 3).collect(1)
    samples, dropped = samples_from_episodes(episodes, RAE()(episodes), drop_zero_advantage=False)
    own = [turn for e in episodes for turn in e.turns if e.seats[turn.player].policy == "coin"]
    assert (len(samples), dropped) == (len(own), 0)
    others = [turn for e in episodes for turn in e.turns if e.seats[turn.player].policy != "coin"]
    assert len(others) > 10
    assert all(turn.generation is None and turn.action is not None for turn in others)


def test_each_opponent_has_its_own_baselines_for_the_learning_player():
    rae = RAE(decay=0.5)
    games = [
        dataclasses.replace(game, turns=(new_turn(0), new_turn(1)))
        for game in (
            new_episode((1.0, -1.0)),
            against((1.0, -1.0), 0),
            against((-1.0, 1.0), 0),
            against((1.0, -1.0), 1),
            against((0.0, 0.0), 1, "minimax"),
        )
    ]
    assert [tuple(values) for values in rae(games)] == [
        (1.0, -1.0),
        (1.0, 0.0),
        (-1.5, 0.0),
        (0.0, -1.0),
        (0.0, 0.0),
    ]
    assert rae.baseline("tictactoe", 0) == 0.5
    assert rae.baseline("tictactoe against random", 0) == -0.25
    assert rae.baseline("tictactoe against random", 1) == -0.5
    assert rae.baseline("tictactoe against minimax", 0) == 0.0
    restored = RAE()
    restored.load_state_dict(rae.state_dict())
    assert restored.baseline("tictactoe against random", 0) == -0.25
    assert [tuple(values) for values in BatchMean()(games)[1:4]] == [(1.0, 0.0), (-1.0, 0.0), (0.0, 0.0)]
    assert [tuple(values) for values in PlainReturns()(games)[:3]] == [(1.0, -1.0), (1.0, 0.0), (-1.0, 0.0)]


def test_metrics_keep_opponents_apart_and_count_the_policy_only():
    games = [
        new_episode((1.0, -1.0), [new_turn(0, tokens=range(4)), new_turn(1, tokens=range(2))]),
        against((-1.0, 1.0), 0, "endpoint:x", [new_turn(0, tokens=range(6)), new_turn(1, tokens=range(50))]),
        against((0.5, -1.5), 1, "endpoint:x", [new_turn(0, tokens=range(50)), new_turn(1, tokens=(), action=None)]),
    ]
    metrics = episode_metrics(games, {})
    assert metrics["rollout/response_tokens"] == 4 + 2 + 6
    assert metrics["rollout/illegal"] == pytest.approx(1 / 4)
    assert metrics["selfplay/tictactoe/player0/return"] == 1.0
    assert metrics["against/tictactoe/endpoint.x/player0/return"] == -1.0
    assert metrics["against/tictactoe/endpoint.x/player1/return"] == -1.5
    assert metrics["against/tictactoe/endpoint.x/player0/response_length"] == 6.0
    assert metrics["against/tictactoe/endpoint.x/player1/illegal"] == 1.0
    alone = episode_metrics(games[:2], {})
    assert "against/tictactoe/endpoint.x/player1/return" not in alone
    watched = Watched(trained=tuple(Matchup(game="tictactoe", opponent=name) for name in ("", "endpoint:x")))
    assert player_table(alone, watched).row_count == 3
    assert player_table(metrics, watched).row_count == 4


def test_a_cluster_checks_only_the_policys_turns():
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


def test_a_cluster_refuses_wrong_players_and_faults():
    matches = Matchmaker(coin(), MIXED, 3).matches(1)
    episodes = play(matches)
    index = next(i for i, match in enumerate(matches) if match.trainable == (True, False))
    match, episode = matches[index], episodes[index]

    def fault(**fields):
        fields |= {"rewards": fields["returns"]} if "returns" in fields else {}
        return check_episode(dataclasses.replace(episode, **fields), match, VOCABULARY, range(5))

    assert fault() is None
    assert "the players that learn are not" in fault(seats=episode.seats[::-1])
    assert "the players that learn are not" in fault(seats=(episode.seats[0],) * 2)
    first = dataclasses.replace(episode.turns[0], action=None)
    assert fault(turns=(first,), actions=(), outcome="illegal_move", returns=(-1.5, 0.5)) is None
    assert "whose policy always answers" in fault(
        turns=(first,), actions=(), outcome="not_played", returns=(0.0, 0.0), fault="tired"
    )
    wrong = dataclasses.replace(first, player=1)
    assert "not to move" in fault(turns=(wrong,), actions=(), outcome="illegal_move", returns=(0.5, -1.5))
    theirs = dataclasses.replace(episode.turns[1], action=None)
    unanswered = {"turns": (episode.turns[0], theirs), "actions": episode.actions[:1], "returns": (0.0, 0.0)}
    assert fault(**unanswered, outcome="not_played", fault="no network") is None


def test_a_step_without_played_games_ends_the_run():
    lost = [against((0.0, 0.0), 0, outcome="not_played", fault="no network") for _ in range(3)]
    played = new_episode((1.0, -1.0), [new_turn(0)])
    metrics = episode_metrics([played, *lost], {})
    assert (metrics["rollout/games"], metrics["rollout/not_played"]) == (1.0, 3.0)
    assert not_played(metrics) == "3 games of this step could not be played"
    _check_played([played, *lost], 4)
    with pytest.raises(RuntimeError, match="none of the 3 games of step 4 could be played: no network"):
        _check_played(lost, 4)


class Distant:
    """Answers like a coin, a fixed number of local polls later."""

    def __init__(self, polls):
        self.inner, self.name, self.waits, self.blocked = coin(), "distant", polls, 0
        self.asked = []

    def submit(self, requests):
        self.asked += [(self.waits, request) for request in requests]

    def ready(self):
        self.asked = [(left - 1, request) for left, request in self.asked]
        return any(left <= 0 for left, _ in self.asked)

    def poll(self):
        if self.asked and not any(left <= 0 for left, _ in self.asked):
            self.blocked += 1
            self.asked = [(0, request) for _, request in self.asked]
        done = [request for left, request in self.asked if left <= 0]
        self.asked = [(left, request) for left, request in self.asked if left > 0]
        return [self.inner.reply(request, garbage=False) for request in done]

    def cancel(self):
        self.asked.clear()


def test_a_remote_policy_is_waited_for_only_when_no_local_turn_is_pending():
    distant = Distant(3)
    config = SelfPlayConfig(games={"tictactoe": 1.0}, episodes_per_step=40, opponents={"mirror": 3.0, "random": 1.0})
    matches = Matchmaker(coin(), config, 3, load_opponent=lambda _name, _game: distant).matches(1)
    far = sum(match.trainable != (True, True) for match in matches)
    assert far == 10
    episodes = play(matches)
    assert {episode.outcome for episode in episodes} == {"finished"}
    assert distant.blocked <= 10  # at the end, with only its own games left, and never for each of its 40 turns


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("{ mirror = 1.0, nobody-there = 1.0 }", "selfplay.opponents: .*nobody-there"),
        ("{ mirror = 1.0, random = -0.5 }", "expected none below zero"),
        ("{}", "selfplay.opponents: got {}"),
    ],
)
def test_invalid_opponents_are_refused_in_the_recipe(setting, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("nano", [f"selfplay.opponents={setting}"])


def test_a_recipe_is_read_without_playing_and_tried_at_launch(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr("spiral.theory.minimax.Minimax.optimal_actions", lambda *_: pytest.fail("a game was searched"))
        recipe = load_recipe("nano", ["selfplay.opponents={ minimax = 1.0 }", "evaluation.opponents=['minimax']"])
    words = "selfplay.opponents: none of the opponents .* can play kuhn_poker; add one that can, such as 'mirror'"
    with pytest.raises(ValueError, match=words):
        check_run(recipe)
    with pytest.raises(ValueError, match=words):
        start(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
