"""Steps that are counted in turns: which games are in them, however many are played at once."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_policies import coin
from distributed_session import facts
from made_up import new_episode, new_turn
from spiral.core.policy import NotPlayedError
from spiral.launch import execute, resume, start
from spiral.plan.tokens import survey_games, token_budget
from spiral.rollout.collector import SelfPlay
from spiral.rollout.loop import play
from spiral.rollout.matchmaking import Matchmaker, SelfPlayConfig, alternating
from spiral.rollout.sampled_step import SampledStep
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe

THREE = SelfPlayConfig(
    games={"tictactoe": 1.0, "kuhn_poker": 1.0, "kuhn_poker(hands=2)": 2.0},
    samples_per_step=60,
    opponents={"mirror": 3.0, "random": 1.0},
)


def game_of(turns, **fields):
    return new_episode((0.0, 0.0), [new_turn(index % 2) for index in range(turns)], **fields)


def test_the_step_is_the_shortest_beginning_with_the_turns():
    step = SampledStep(1, 10, 40)
    games = [game_of(turns) for turns in (3, 4, 2, 5, 6)]
    for index in (4, 1, 3, 0):
        step.add(index, games[index])
        assert not step.complete
    step.add(2, games[2])
    assert step.complete
    assert step.episodes == games[:4]
    assert (step.reached, step.turns_per_game) == (14, 3.5)


def test_a_step_has_all_attempts_at_its_last_deal():
    step = SampledStep(1, 10, 40, attempts=3)
    games = [game_of(turns) for turns in (3, 4, 2, 5, 6, 1)]
    assert step.wanted() % 3 == 0
    for index in (0, 1, 2, 3, 5):
        step.add(index, games[index])
        assert not step.complete
    step.add(4, games[4])
    assert (step.episodes, step.reached) == (games, 21)
    collected = SelfPlay(coin(), THREE.model_copy(update={"attempts": 4}), 3).collect(1)
    deals = Counter((episode.game, episode.seed) for episode in collected)
    assert set(deals.values()) == {4}
    assert sum(episode.learned_turns for episode in collected[:-4]) < 60


def test_turns_that_are_not_learned_from_do_not_count():
    step = SampledStep(1, 3, 12)
    step.add(0, game_of(2, outcome="not_played", fault="HTTP 500"))
    step.add(1, game_of(4, trainable=(True, False)))
    step.add(2, new_episode((0.0, 0.0), [new_turn(0, tokens=())]))
    assert (step.reached, step.complete) == (2, False)
    step.add(3, game_of(1))
    assert (step.reached, len(step.episodes)) == (3, 4)


@given(lengths=st.lists(st.integers(0, 9), min_size=80, max_size=80), data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_order_in_which_games_end_does_not_matter_and_few_are_begun(lengths, data):
    """Games that are wanted end in any order; the step is what counting by hand gives."""
    samples, lengths = 20, [*lengths, *[1] * 20]
    expected = next(n for n in range(101) if sum(lengths[:n]) >= samples)
    step, begun, under_way = SampledStep(1, samples, 100, turns_per_game=4.5), 0, []
    while not step.complete:
        under_way += range(begun, wanted := max(begun, step.wanted()))
        begun = wanted
        assert under_way, "no game would ever end"
        index = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        step.add(index, game_of(lengths[index]))
    assert len(step.episodes) == expected
    assert step.wanted() <= begun


def test_a_step_that_never_gets_its_turns_ends_with_the_numbers():
    silent = SelfPlayConfig(samples_per_step=3, opponents={"random": 1.0})
    step = SampledStep(2, 3, silent.max_games)
    for index in range(12):
        assert step.wanted() > index
        step.add(index, game_of(0, outcome="not_played", fault="HTTP 500"))
    with pytest.raises(NotPlayedError, match=r"step 2 needs 3 turns .* 12 games have 0; 12 were not .* HTTP 500"):
        step.wanted()


def test_names_alternate_by_weight():
    names = alternating({"a": 60, "b": 20, "c": 20}, random.Random(0))
    assert Counter(names) == {"a": 60, "b": 20, "c": 20}
    for first in range(0, 100, 10):
        assert 5 <= names[first : first + 10].count("a") <= 7
        assert 1 <= names[first : first + 10].count("b") <= 3
    beginnings = [alternating({"a": 60, "b": 20, "c": 20}, random.Random(seed))[:7] for seed in range(400)]
    assert sum(names.count("b") for names in beginnings) / 400 == pytest.approx(1.4, abs=0.1)


@pytest.mark.parametrize("in_flight", [1, 5, 256])
def test_the_collector_plays_the_same_step_whatever_is_under_way(in_flight):
    matches = Matchmaker(coin(), THREE, 3).matches(1)
    episodes, turns, expected = play(matches[:120]), 0, []
    while turns < 60:
        expected.append(episodes[len(expected)])
        turns += expected[-1].learned_turns
    collector = SelfPlay(coin(), THREE.model_copy(update={"in_flight": in_flight}), 3)
    collected = collector.collect(1)
    assert [facts(episode) for episode in collected] == [facts(episode) for episode in expected]
    games = Counter(episode.game for episode in collected)
    assert games["kuhn_poker(hands=2)"] == pytest.approx(len(collected) / 2, abs=1.5)
    assert Counter(episode.opponent for episode in collected)["random"] == pytest.approx(len(collected) / 4, abs=3)
    dropped = collector.metrics()["selfplay/dropped_turns"]
    assert (dropped == 0) if in_flight == 1 else dropped < 120


def test_steps_play_other_games_and_remember_how_long_they_are():
    collector = SelfPlay(coin(), THREE, 3)
    first, second = collector.collect(1), collector.collect(2)
    assert {episode.seed for episode in first}.isdisjoint(episode.seed for episode in second)
    state = collector.state_dict()
    learned = sum(episode.learned_turns for episode in second)
    assert state["turns_per_game"] == learned / len(second)
    other = SelfPlay(coin(), THREE, 3)
    other.load_state_dict(state)
    assert [facts(e) for e in other.collect(3)] == [facts(e) for e in collector.collect(3)]
    assert other.metrics() == collector.metrics()


def test_a_step_is_counted_in_one_way():
    with pytest.raises(ValueError, match=r"samples_per_step is 128 and selfplay.episodes_per_step is 768; a step is"):
        load_recipe("nano", ["selfplay.samples_per_step=128"])
    recipe = load_recipe("nano", ["selfplay.samples_per_step=128", "selfplay.episodes_per_step=128"])
    assert recipe.selfplay.samples_per_step == 128
    assert recipe.selfplay.max_games == 512


def test_the_plan_counts_turns():
    games = "selfplay.games={ tictactoe = 1 }"
    recipe = load_recipe("nano", ["selfplay.samples_per_step=128", "selfplay.episodes_per_step=128", games])
    budget = token_budget(recipe, survey_games(recipe, None), 512)
    (game,) = budget.games
    assert (game.episodes - 1) * game.turns < 128 <= game.episodes * game.turns
    assert budget.max_turns == 128 - 1 + 9
    assert budget.max_tokens == budget.max_turns * budget.max_sample


def quietly(step, metrics):
    """Show nothing."""


@pytest.mark.slow
def test_a_resumed_run_goes_on_to_the_bit(tmp_path):
    overrides = (
        "run.checkpoint_every=1",
        "selfplay.samples_per_step=40",
        "selfplay.episodes_per_step=128",
        "learner.warmup_steps=0",
        "learner.final_learning_rate_share=1.0",
        "evaluation.games=[]",
        "evaluation.exploitability=[]",
    )
    rows = []
    for path, stops in ((tmp_path / "whole", [3]), (tmp_path / "stopped", [1, 3])):
        execute(start(load_recipe("nano", [*overrides, f"run.steps={stops[0]}"]), path), quietly).close()
        for steps in stops[1:]:
            execute(resume(path, steps=steps), quietly).close()
        rows.append([{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(path)])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3
    for row in rows[0]:
        assert 40 <= row["credit/samples"] + row["credit/dropped"] < 40 + 9
        assert row["selfplay/dropped_turns"] >= 0


def test_short_games_that_end_first_do_not_make_a_step_begin_many_more():
    """Games of two lengths, all under way at once: a tenth more than needed, and not twice as many."""
    rng, dropped, length = random.Random(0), [], None
    for number in range(20):
        step, lengths, ends, begun = SampledStep(number, 128, 512, length), [], [], 0
        while not step.complete:
            now = ends[0][0] if ends else 0
            for index in range(begun, step.wanted()):
                lengths.append(rng.choice([2, 2, 3, 8]))
                ends.append((now + lengths[index], index))
            begun = len(lengths)
            ends.sort()
            _, index = ends.pop(0)
            step.add(index, game_of(lengths[index]))
        dropped.append(sum(lengths) - step.reached)
        length = step.turns_per_game
    assert sum(dropped[1:]) / (19 * 128) < 0.25
