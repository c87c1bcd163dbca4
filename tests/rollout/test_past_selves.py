"""The samplers of past selves: who plays, whose weights are kept, win rates, ratings, and state."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from spiral.core.records import Episode, Seat, past_self, past_step
from spiral.games import load_game
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.matchmaking import Matchmaker, SelfPlayConfig
from spiral.rollout.opponents.loading import make_sampler, plays_past_selves
from spiral.rollout.opponents.past_selves import PastSelves
from spiral.rollout.opponents.pfsp import Pfsp
from spiral.rollout.opponents.results import MAX_ROWS, NOW, Results

KUHN = load_game("kuhn_poker")
HALF = {"mirror": 1.0, "past": 1.0}


def episode(step, *returns, learner=0, outcome="finished", opponent=""):
    seats = [Seat(policy=opponent or past_self(step), trainable=False)] * len(returns)
    seats[learner] = Seat(policy="policy", trainable=True)
    return Episode(game="kuhn_poker", seed=0, seats=tuple(seats), turns=(), returns=returns, outcome=outcome)


def kept(sampler, *steps):
    for step in steps:
        sampler.add_past_self(step, past_self(step))
    return sampler


def test_names_of_past_selves():
    assert past_step(past_self(120)) == 120
    others = ("past", "past@", "past@-1", "past@x", "past@\uff11", "runs/past@3")
    assert [past_step(name) for name in others] == [None] * 6


def test_all_past_selves_are_one_matchup():
    games = [episode(step, 1.0, -1.0) for step in (0, 30)]
    assert {game.matchup for game in games} == {"kuhn_poker against past"}
    assert games[1].seats[1].policy == "past@30"


def test_past_selves_are_kept_drawn_and_swapped_as_the_settings_say():
    sampler = PastSelves(HALF, save_every=4, window=2, swap_every=3)
    assert [step for step in range(13) if sampler.keeps(step)] == [0, 4, 8, 12]
    kept(sampler, 0)
    drawn = []
    for step in range(1, 13):
        names = Counter(sampler.sample(step, KUHN, 100, random.Random(step)))
        assert names["mirror"] == 50
        (past,) = names.keys() - {"mirror"}
        drawn.append(past_step(past))
        if sampler.keeps(step):
            kept(sampler, step)
    assert [len(set(drawn[at : at + 3])) for at in (0, 3, 6, 9)] == [1, 1, 1, 1]
    assert set(drawn[:3]) == {0}
    assert set(drawn[9:]) <= {4, 8}, "step 0 has left the window, and 12 was not there yet"
    assert set(sampler.past_selves()) == {"past@8", "past@12", past_self(drawn[-1])}


def test_prioritised_fictitious_self_play_weighs_by_win_rate():
    hard = kept(Pfsp(HALF, weighting="hard", power=2.0, prior=2.0, decay=1.0), 0, 10)
    balanced = kept(Pfsp(HALF, weighting="balanced", prior=2.0, decay=1.0), 0, 10)
    games = [episode(0, 1.0, -1.0)] * 6 + [episode(10, -1.0, 1.0), episode(10, 2.0, -2.0, learner=1)]
    for sampler in (hard, balanced):
        sampler.observe(1, games)
    # wins: 6 of 6 against step 0, 0 of 2 against step 10; two drawn games are added to each
    assert hard.weights("kuhn_poker") == pytest.approx({"past@0": (1 / 8) ** 2, "past@10": (3 / 4) ** 2})
    assert balanced.weights("kuhn_poker") == pytest.approx({"past@0": 7 / 64, "past@10": 3 / 16})
    names = Counter(hard.sample(2, KUHN, 740, random.Random(0)))
    assert names["mirror"] == 370
    assert names["past@10"] == pytest.approx(370 * 36 / 37, abs=1)


def test_prioritised_opponents_share_their_weights_by_win_rate():
    weights = {"mirror": 1.0, "past": 1.0, "random": 0.5, "first": 1.0, "second": 1.0}
    sampler = kept(Pfsp(weights, prioritised=["first", "second"], power=1.0, prior=2.0, decay=1.0), 0)
    assert sampler.opponent_weights(KUHN) == weights, "before any game all are alike"
    games = [episode(0, 1.0, -1.0, opponent="first")] * 6 + [episode(0, 1.0, -1.0, learner=1, opponent="second")] * 2
    beaten = episode(0, 1.0, -1.0, opponent="random")
    sampler.observe(1, [*games, beaten, episode(0, 0.0, 0.0, opponent="second", outcome="not_played")])
    # wins: 6 of 6 against the first, 0 of 2 against the second; two drawn games are added to each
    expected = {"first": 2 * (1 / 8) / (1 / 8 + 3 / 4), "second": 2 * (3 / 4) / (1 / 8 + 3 / 4)}
    assert sampler.opponent_weights(KUHN) == pytest.approx(weights | expected)
    names = Counter(sampler.sample(2, KUHN, 450, random.Random(0)))
    assert names["mirror"] == 100
    assert names["second"] == pytest.approx(200 * 6 / 7, abs=1)
    assert sampler.opponent_weights(load_game("leduc_poker")) == weights, "win rates are counted by game"

    more = weights | {"third": 1.0}
    later = Pfsp(more, prioritised=["first", "second", "third"], power=1.0, prior=2.0, decay=1.0)
    later.load_state_dict(sampler.state_dict())
    scale = 3 / (1 / 8 + 3 / 4 + 1 / 2)
    new = {"first": scale / 8, "second": scale * 3 / 4, "third": scale / 2}
    assert later.opponent_weights(KUHN) == pytest.approx(more | new), "a new opponent begins without games"


def test_old_games_count_for_less():
    results = Results(prior=1.0, decay=0.5)
    for wins in (1.0, 0.0, 0.0):
        results.add(0, wins, 0.0)
    assert results.win_rate(0) == pytest.approx((0.25 + 0.5) / (1.75 + 1.0))
    assert results.win_rate(7) == 0.5


def test_games_without_a_result_and_other_games_do_not_count():
    sampler = kept(PastSelves(HALF), 0)
    mirror = Episode(
        game="kuhn_poker", seed=0, seats=(Seat(policy="policy", trainable=True),) * 2, turns=(), returns=(1.0, -1.0),
        outcome="finished",
    )  # fmt: skip
    sampler.observe(1, [mirror, episode(0, 0.0, 0.0, outcome="not_played")])
    assert sampler.state_dict()["results"] == {}
    sampler.observe(1, [episode(0, 0.0, -1.0, -1.0)])  # a game of three, with a draw
    assert sampler._results["kuhn_poker"].table() == [{"row": NOW, "column": "0", "games": 1, "wins": 0.5, "payoff": 0}]


def test_ratings_are_those_of_bradley_and_terry():
    results = Results(prior=2.0, decay=1.0)
    results.close_row(0)
    for wins in [1.0] * 9_000 + [0.0] * 1_000:
        results.add(0, wins, 0.0)
    ratings = results.ratings()
    assert ratings["0"] == 0
    assert ratings[NOW] == pytest.approx(400 * math.log10(9), abs=1)
    results.close_row(5)
    assert results.ratings()["5"] == pytest.approx(ratings[NOW], abs=1)


def test_ratings_stay_where_they_are_when_rows_leave_the_table():
    results = Results(prior=2.0, decay=1.0)
    results.close_row(0)
    for row in range(1, MAX_ROWS + 3):
        if row == MAX_ROWS:
            before = results.ratings()
        for number in range(300):
            results.add(row - 1, float(number % 4 > 0), 1.0)
        results.close_row(row)
    after = results.ratings()
    assert len(results.state_dict()["rows"]) == MAX_ROWS
    assert before["90"] > 5_000
    assert after["90"] == pytest.approx(before["90"], rel=0.02)


def test_state_is_all_that_a_sampler_needs():
    config = SelfPlayConfig(
        games={"kuhn_poker": 1.0}, episodes_per_step=40, opponents=HALF, opponent_sampler="pfsp",
        opponent_options={"save_every": 1, "window": 3},
    )  # fmt: skip
    load = {}

    def opponent(name, game):
        player = load.setdefault(name, RandomPolicy())
        player.name = name
        return player

    def go_on(matchmaker, steps):
        played = []
        for step in steps:
            matches = matchmaker.matches(step)
            played.append([match.policies[1].name for match in matches])
            past = [name for names in played[-1:] for name in names if past_step(name) is not None]
            matchmaker.observe(step, [episode(past_step(name), float(past_step(name) % 2), 0.5) for name in past])
            assert matchmaker.keeps(step)
            matchmaker.add_past_self(step)
        return played

    whole = Matchmaker(RandomPolicy(), config, 3, load_opponent=opponent)
    whole.add_past_self(0)
    go_on(whole, range(1, 4))
    state = whole.state_dict()
    resumed = Matchmaker(RandomPolicy(), config, 3, load_opponent=opponent)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert resumed.past_selves() == ["past@1", "past@2", "past@3"]
    assert go_on(resumed, range(4, 7)) == go_on(whole, range(4, 7))
    assert resumed.state_dict() == whole.state_dict()
    assert {"opponents/past_selves", "opponents/kuhn_poker/elo", "opponents/kuhn_poker/win_lowest"} <= {
        *whole.metrics()
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"opponent_sampler": "past_selves"}, r"'past' has in selfplay.opponents, and it has none; for half"),
        (
            {"opponents": HALF},
            r"opponent sampler 'fixed' cannot choose; set selfplay.opponent_sampler to 'past_selves'",
        ),
        (
            {"opponents": HALF, "opponent_sampler": "past_selves", "opponent_options": {"window": 0}},
            "window is 0; expected a whole number of at least 1",
        ),
        (
            {"opponents": HALF, "opponent_sampler": "pfsp", "opponent_options": {"weighting": "soft"}},
            "weighting is 'soft'; expected 'hard' or 'balanced'",
        ),
        (
            {"opponents": HALF, "opponent_sampler": "pfsp", "opponent_options": {"prior": 0}},
            "prior is 0; expected a number above 0",
        ),
        (
            {"opponents": HALF, "opponent_sampler": "pfsp", "opponent_options": {"prioritised": "random"}},
            r"prioritised is 'random'; expected a list of opponents, such as \['random'\]",
        ),
        (
            {"opponents": HALF, "opponent_sampler": "pfsp", "opponent_options": {"prioritised": ["past"]}},
            "prioritised has 'past'; expected opponents of selfplay.opponents other than mirror and past",
        ),
        (
            {"opponents": HALF, "opponent_sampler": "pfsp", "opponent_options": {"prioritised": ["random"]}},
            "prioritised has 'random'; expected opponents",
        ),
        (
            {"opponents": HALF, "opponent_sampler": "pfsp", "opponent_options": {"decay": 1.5}},
            "decay is 1.5; expected a number above 0, and at most 1",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(SelfPlayConfig(games={"kuhn_poker": 1.0}, **fields))


def test_who_plays_past_selves():
    assert plays_past_selves(SelfPlayConfig(opponents=HALF, opponent_sampler="pfsp"))
    assert not plays_past_selves(SelfPlayConfig())
