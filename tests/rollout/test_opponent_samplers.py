"""A sampler of one's own: it chooses, observes, and its state is enough to go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.numpy

from spiral.core.steps import latest_checkpoint
from spiral.core.storage import read_episodes
from spiral.games.failures import UserCodeError
from spiral.launch import execute, resume, start
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import play
from spiral.rollout.matchmaking import Matchmaker, SelfPlayConfig
from spiral.rollout.opponents.base import OpponentSampler
from spiral.rollout.opponents.fixed import FixedOpponents
from spiral.rollout.opponents.loading import make_sampler
from spiral.runs.recipe import load_recipe

HERE = "tests.rollout.test_opponent_samplers"


class LeastBeaten(OpponentSampler):
    """Plays the opponent that has lost the fewest games, and itself for a share of them."""

    def __init__(self, opponents, *, mirror=0.5):
        self.lost = dict.fromkeys(opponents, 0)
        self.mirror = mirror

    def sample(self, step, game, count, rng):
        opponent = min(self.lost, key=lambda name: (self.lost[name], name))
        return ["mirror" if rng.random() < self.mirror else opponent for _ in range(count)]

    def observe(self, step, episodes):
        for episode in episodes:
            for player, seat in enumerate(episode.seats):
                if seat.policy in self.lost and episode.returns[player] < 0:
                    self.lost[seat.policy] += 1

    def state_dict(self):
        return {"lost": self.lost}

    def load_state_dict(self, state):
        self.lost = dict(state["lost"])


class Failing(LeastBeaten):
    def sample(self, step, game, count, rng):
        raise KeyError("my sampler")


class Short(LeastBeaten):
    def sample(self, step, game, count, rng):
        return ["mirror"]


class NoArguments(OpponentSampler):
    def sample(self, step, game, count, rng):
        return ["mirror"] * count


class OnlyOptions(NoArguments):
    def __init__(self, *, period=3):
        self.period = period


class Blind(LeastBeaten):
    def observe(self, step, episodes):
        raise ZeroDivisionError("no games")


def config(sampler="LeastBeaten", **fields):
    return SelfPlayConfig(
        games={"tictactoe": 1.0},
        episodes_per_step=12,
        opponents={"random": 1.0, "minimax": 1.0},
        opponent_sampler=f"{HERE}:{sampler}",
        **fields,
    )


def facts(matches):
    return [(match.seed, tuple(policy.name for policy in match.policies)) for match in matches]


def test_the_built_in_sampler_is_the_fixed_mixture():
    sampler = make_sampler(SelfPlayConfig(opponents={"mirror": 1.0, "random": 1.0}))
    assert isinstance(sampler, FixedOpponents)
    assert sampler.state_dict() == {}


def test_a_sampler_chooses_by_what_it_has_seen_and_goes_on_from_its_state():
    learner = RandomPolicy()
    learner.name = "learner"
    whole = Matchmaker(learner, config(opponent_options={"mirror": 0.25}), 3)
    steps, states = [], []
    for step in range(1, 5):
        matches = whole.matches(step)
        steps.append(facts(matches))
        whole.observe(step, play(matches))
        states.append(whole.sampler.state_dict() | {})
    opponents = [{name for _, names in step for name in names} - {"learner"} for step in steps]
    assert all(len(names) == 1 for names in opponents)
    resumed = Matchmaker(learner, config(opponent_options={"mirror": 0.25}), 3)
    resumed.sampler.load_state_dict(states[2])
    assert facts(resumed.matches(4)) == steps[3]


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("Failing", "failed at step 2 for tictactoe: KeyError: 'my sampler'"),
        ("Short", r"failed at step 2 for tictactoe: ValueError: it gave \['mirror'\]; expected a list of 12 names"),
    ],
)
def test_a_sampler_that_fails_is_named(sampler, message):
    with pytest.raises(UserCodeError, match=f"the opponent sampler '{HERE}:{sampler}' {message}"):
        Matchmaker(RandomPolicy(), config(sampler), 3).matches(2)


def test_a_sampler_that_fails_to_observe_is_named():
    with pytest.raises(UserCodeError, match="failed to observe the episodes of step 1: ZeroDivisionError"):
        Matchmaker(RandomPolicy(), config("Blind"), 3).observe(1, [])


@pytest.mark.parametrize(
    "names",
    [dict.fromkeys(map(str, range(12))), set(map(str, range(12))), "a" * 12, None],
    ids=["dict", "set", "text", "None"],
)
def test_names_that_are_no_list_are_refused(names, monkeypatch):
    monkeypatch.setattr(LeastBeaten, "sample", lambda *_: names)
    with pytest.raises(UserCodeError, match=r"LeastBeaten' failed at step 1 for .* it gave .* expected a list of 12"):
        Matchmaker(RandomPolicy(), config(), 3).pairings(1)


class ByNumber(LeastBeaten):
    def observe(self, step, episodes):
        self.lost[step] = 1.0


class Forgetful(LeastBeaten):
    def load_state_dict(self, state):
        self.lost = state["losses"]


def test_a_sampler_whose_state_json_would_change_is_refused_at_once():
    matchmaker = Matchmaker(RandomPolicy(), config("ByNumber"), 3)
    with pytest.raises(
        UserCodeError, match=r"has a state that cannot be saved: the dictionary at \['lost'\] has the key"
    ):
        matchmaker.observe(1, [])
    assert matchmaker.state_dict() == {"opponents": {"lost": {"random": 0, "minimax": 0}}}
    matchmaker.sampler.lost = {"random": float("nan")}
    with pytest.raises(UserCodeError, match=r"\['lost'\]\['random'\] is nan; expected a finite number"):
        matchmaker.add_checkpoint(1, Path("step-000001"))


def test_a_sampler_that_does_not_load_its_state_is_named():
    with pytest.raises(UserCodeError, match=r"Forgetful' cannot load its state from step-000001: KeyError: 'losses'"):
        Matchmaker(RandomPolicy(), config("Forgetful"), 3).load_state_dict({"opponents": {"lost": {}}}, "step-000001")


def test_recipes_refuse_samplers_that_cannot_be():
    for sampler, message in (
        ("strongest", "there is no 'strongest' among the opponents.* Known opponents: fixed, past_selves, pfsp"),
        ("builtins:dict", "which gives a dict; expected a subclass of"),
        (f"{HERE}:Missing", "cannot be imported"),
    ):
        with pytest.raises(ValueError, match=message):
            load_recipe("nano", [f"selfplay.opponent_sampler={sampler}"])
    with pytest.raises(ValueError, match="has no option 'share'; its options: mirror"):
        load_recipe(
            "nano", [f"selfplay.opponent_sampler={HERE}:LeastBeaten", "selfplay.opponent_options={ share = 0.5 }"]
        )


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        ("NoArguments", "{}", "but takes \\(\\); give it the argument opponents"),
        ("OnlyOptions", "{}", "but takes \\(\\*, period=3\\); give it the argument opponents"),
        ("OnlyOptions", "{ period = 5 }", "but takes \\(\\*, period=3\\); give it the argument opponents"),
    ],
)
def test_a_sampler_that_does_not_take_the_opponents_is_refused_with_its_call(sampler, options, message):
    settings = [f"selfplay.opponent_sampler={HERE}:{sampler}", f"selfplay.opponent_options={options}"]
    call = rf"is called as {sampler}\(opponents, \*\*options\), "
    with pytest.raises(ValueError, match=call + message):
        load_recipe("nano", settings)


def quietly(step, metrics):
    """Show nothing."""


def names_by_step(path):
    """Who played in each step, with the run's own directory left out of the names."""
    return {
        file.stem: [
            tuple(seat.policy.replace(str(path), "RUN") for seat in episode.seats) for episode in read_episodes(file)
        ]
        for file in sorted((path / "episodes").glob("*.parquet"))
    }


def test_a_run_plays_its_own_checkpoints_and_goes_on_where_it_stopped(tmp_path):
    settings = (
        "run.checkpoint_every=2",
        "run.episodes_every=1",
        "selfplay.games={ tictactoe = 1.0 }",
        "selfplay.episodes_per_step=6",
        "selfplay.opponents={ random = 1.0 }",
        "selfplay.opponent_sampler=tests.past_self:PastSelf",
        "learner.warmup_steps=0",
        "learner.final_learning_rate_share=1.0",
        "evaluation.games=[]",
        "evaluation.exploitability=[]",
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    execute(start(load_recipe("nano", [*settings, "run.steps=4"]), whole), quietly).close()
    execute(start(load_recipe("nano", [*settings, "run.steps=2"]), stopped), quietly).close()
    execute(resume(stopped, steps=4), quietly).close()
    names = names_by_step(whole)
    assert names == names_by_step(stopped)
    assert {name for pair in names["step-000001"] for name in pair} > {"policy", "random"}
    assert {name for pair in names["step-000004"] for name in pair} >= {"policy", "RUN/checkpoints/step-000002"}
    last = [latest_checkpoint(path / "checkpoints") for path in (whole, stopped)]
    first, second = (safetensors.numpy.load_file(path / "model.safetensors") for path in last)
    assert all((first[name] == second[name]).all() for name in first)
