"""A run that goes on against other opponents, and one that ends before its last step."""

from __future__ import annotations

import json
import tomllib

import pytest
import tomli_w

from spiral.core.steps import step_name
from spiral.launch import execute, resume, saved_recipe, start
from spiral.launch.saved import continued_as
from spiral.runs.directory import read_evaluations, read_metrics
from spiral.runs.recipe import load_recipe

SMALL = (
    "run.trackers=[]",
    "run.guards=[]",
    "run.checkpoint_every=10",
    "selfplay.games={kuhn_poker=1}",
    "selfplay.opening_plies={}",
    "selfplay.episodes_per_step=8",
    "learner.epochs=1",
    "learner.minibatches=1",
    "evaluation.games=[]",
    "evaluation.exploitability=[]",
    "evaluation.episodes=2",
    "evaluation.every=0",
)
OTHERS = (
    "selfplay.opponents={mirror=1, random=1}",
    "evaluation.games=['kuhn_poker']",
    "evaluation.opponents=['random']",
)


def recipe(*more):
    return load_recipe("nano", [*SMALL, *more])


def done(run, **options):
    run = execute(run, lambda _step, _metrics: None, **options)
    run.close()
    return run


def checkpoint(path, step, file):
    return (path / "checkpoints" / step_name(step) / file).read_bytes()


def test_a_run_goes_on_against_other_opponents(tmp_path):
    done(start(recipe("run.steps=2"), tmp_path))
    optimizer = checkpoint(tmp_path, 2, "training/optimizer.safetensors")
    other = recipe(*OTHERS, "run.steps=3")
    run = resume(tmp_path, 3, changed_recipe=other)
    kept = json.loads(checkpoint(tmp_path, 2, "state.json"))["recipe"]
    assert kept["selfplay"]["opponents"] == {"mirror": 1.0, "random": 1.0}
    assert checkpoint(tmp_path, 2, "training/optimizer.safetensors") == optimizer
    assert saved_recipe(tmp_path).evaluation.games == ["kuhn_poker"]
    done(run)
    rows = read_metrics(tmp_path)
    assert [row.get("against/kuhn_poker/random/games") for row in rows] == [None, None, 4]
    (row,) = dict(read_evaluations(tmp_path))[3].arena
    assert (row["opponent"], row["played"]) == ("random", 2)


def test_what_may_change_of_a_run_changes_and_the_rest_stays():
    """A league whose guard has stopped a run goes on without it; its steps are its own."""
    saved = recipe("run.steps=2", "run.guards=['collapse']", "answer.guards={collapse='stop'}")
    other = recipe(*OTHERS, "run.steps=9", "run.snapshots=[1]", "learner.epochs=2")
    found = continued_as(saved, other)
    assert (found.run.guards, found.answer.guards, found.run.snapshots) == ([], {}, [1])
    assert found.selfplay.opponents == other.selfplay.opponents
    assert (found.run.steps, found.learner.epochs) == (2, 1)


def test_a_run_killed_between_its_new_recipe_and_the_checkpoint_goes_on(tmp_path):
    done(start(recipe("run.steps=1"), tmp_path))
    values = tomllib.loads((tmp_path / "config.toml").read_text())
    values["selfplay"]["opponents"] = {"mirror": 1.0, "random": 1.0}
    (tmp_path / "config.toml").write_text(tomli_w.dumps(values))
    with pytest.raises(ValueError, match=r"config\.toml was changed: selfplay\.opponents is .* in the last checkpoint"):
        resume(tmp_path)
    other = recipe("selfplay.opponents={mirror=1, random=1}")
    resume(tmp_path, changed_recipe=other).close()
    assert saved_recipe(tmp_path).selfplay.opponents == {"mirror": 1.0, "random": 1.0}

    values["learner"]["epochs"] = 5
    (tmp_path / "config.toml").write_text(tomli_w.dumps(values))
    with pytest.raises(ValueError, match=r"config\.toml was changed: learner\.epochs is 5 in it and 1 in the last"):
        resume(tmp_path, changed_recipe=other)


def test_new_opponents_have_to_fit(tmp_path):
    done(start(recipe("run.steps=1"), tmp_path))
    with pytest.raises(ValueError, match=r"none of the opponents \{'minimax': 1\.0\} can play kuhn_poker"):
        resume(tmp_path, 2, changed_recipe=recipe("selfplay.opponents={minimax=1}"))
    assert saved_recipe(tmp_path).selfplay.opponents == {"mirror": 1.0}


def test_a_run_may_end_before_its_last_step(tmp_path):
    seen = []

    def ends(step, metrics):
        seen.append((step, metrics["rollout/games"]))
        return step == 2

    run = done(start(recipe("run.steps=4"), tmp_path), ends=ends)
    assert run.learner.version == 2
    assert seen == [(1, 8), (2, 8)]
    assert json.loads(checkpoint(tmp_path, 2, "state.json"))["version"] == 2
    assert [*dict(read_evaluations(tmp_path))] == [0]
    done(resume(tmp_path, 2))
    assert [*dict(read_evaluations(tmp_path))] == [0, 2], "a run shortened to what it has done is evaluated"
