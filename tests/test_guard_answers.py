"""The answers of guards: each is given, does what it says, and is the same after a stop and a resume."""

from __future__ import annotations

import json

import pytest

from commands import spiral, tiny_settings
from killed_runs import contents, metrics_rows
from spiral.core.metrics import Matchup
from spiral.launch import RunStopped, execute, resume, start
from spiral.runs.answers import AnswerConfig, Answers
from spiral.runs.findings import Finding
from spiral.runs.recipe import load_recipe

BAD = Finding(level="collapsed", about="x", message="it fell")
SLIGHT = Finding(level="warning", about="x", message="it sinks")


class At:
    """Finds a collapse in some steps."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, rows, trained):
        return [BAD] if rows and rows[-1]["step"] in self.steps else []


GUARD = f"{__name__}:At"


def settings(answer, steps="[2]", **changed):
    return {
        "run__steps": "6",
        "run__checkpoint_every": "2",
        "run__trackers": "[]",
        "run__guards": f"['{GUARD}']",
        "run__guard_options": f"{{'{GUARD}' = {{steps = {steps}}}}}",
        "answer__guards": f"{{'{GUARD}' = '{answer}'}}",
        "answer__steps": "2",
        "answer__anchor_share": "0.5",
        "evaluation__games": "[]",
        "evaluation__exploitability": "[]",
        "learner__learning_rate": "1e-3",
        "learner__minibatches": "1",
        "loss__kl_coefficient": "0.1",
        **changed,
    }


def recipe(answer, **changed):
    given = tiny_settings(**settings(answer, **changed))
    return load_recipe("nano", [value for value in given if value != "--set"])


def finished(run):
    done = execute(run, lambda _step, _metrics: None)
    done.close()
    return done


def rows_of(path):
    return [json.loads(line) for line in metrics_rows(path)]


def test_when_a_guard_answers():
    answers = Answers(AnswerConfig(steps=3, guards={"a": "anchor", "b": "log"}), steps=100)
    assert answers.observe(1, {"a": [SLIGHT], "b": [BAD]})["guard/answers"] == 0.0
    given = {step: answers.observe(step, {"a": [BAD]}) for step in range(2, 6)}
    assert [row["guard/answers"] for row in given.values()] == [1.0, 0.0, 0.0, 1.0]
    assert [answers.anchor_share(step) for step in (2, 5, 8, 9)] == [0.25, 0.25, 0.25, 0.0]
    early = Answers(AnswerConfig(level="warning", guards={"a": "pull"}), 9)
    assert early.observe(1, {"a": [SLIGHT]})["guard/pull"] == 10.0
    last = Answers(AnswerConfig(guards={"a": "stop"}), steps=4)
    last.observe(4, {"a": [BAD]})
    assert not last.stop_reason, "nothing follows the last step"
    assert Answers(AnswerConfig(guards={"a": "log"}), 4).observe(1, {"a": [BAD]}) == {}


def test_which_checkpoint_a_rollback_goes_back_to():
    answers = Answers(AnswerConfig(steps=1, guards={"a": "rollback"}), steps=100)
    for step in range(1, 31):
        answers.observe(step, {"a": [SLIGHT] if step > 22 else []})
    assert answers.rollback_to([0, 10, 15, 20, 25, 30]) == 15, "five steps before the last healthy one, 22"
    answers.rolled_back(15, 30)
    assert answers.rate == pytest.approx(0.3)
    rows = [{"step": float(step)} for step in range(1, 33)]
    assert [row["step"] for row in answers.judged(rows)][-4:] == [14, 15, 31, 32]
    for step in range(31, 38):
        answers.observe(step, {})
    assert answers.rollback_to([0, 15, 20, 30, 32]) == 32
    assert Answers(AnswerConfig(guards={"a": "rollback"}), 9).rollback_to([0, 5]) == 0
    other = Answers(AnswerConfig(steps=1, guards={"a": "rollback"}), steps=100)
    other.load_state_dict(json.loads(json.dumps(answers.state_dict())))
    assert other.state_dict() == answers.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    ["anchor", "pull", "rollback"],
)
def test_an_answer_is_the_same_after_a_resume(answer, tmp_path):
    """The run that is stopped and resumed has step 2's answer in its checkpoint, and ends as the other one."""
    finished(start(recipe(answer), tmp_path / "whole"))
    run = start(recipe(answer), tmp_path / "parts")
    run.answers.observe, observe = (lambda step, found: _stop_after(run, observe, step, found)), run.answers.observe
    with pytest.raises(RunStopped):
        execute(run, lambda _step, _metrics: None)
    run.close()
    finished(resume(tmp_path / "parts"))
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert [name for name in whole if whole[name] != parts.get(name)] == []
    assert metrics_rows(tmp_path / "whole") == metrics_rows(tmp_path / "parts")
    rows = rows_of(tmp_path / "whole")
    assert [row["guard/answers"] for row in rows] == [0, 1, 0, 0, 0, 0]
    key = Matchup(game="tictactoe", opponent="random").key("games")
    if answer == "anchor":
        assert [row.get(key, 0.0) for row in rows] == [0, 0, 4, 4, 0, 0]
    elif answer == "pull":
        assert [row["guard/pull"] for row in rows] == [1, 10, 10, 1, 1, 1]
        assert rows[2]["loss/policy"] != 0
    else:
        rate = [row["learner/learning_rate"] for row in rows]
        assert rate[2] < 0.31 * rate[1]
        assert [row["loss/kl_reference"] < 1e-9 for row in rows[:3]] == [True, False, True], "as at the start again"


def _stop_after(run, observe, step, found):
    metrics = observe(step, found)
    if step == 2:
        run.answers.stop_reason = "a test"
    return metrics


def test_a_guard_that_stops_the_run(tmp_path):
    result = spiral("train", "nano", "--run-dir", str(tmp_path / "run"), *tiny_settings(**settings("stop")))
    assert result.status == 1
    last = result.err.strip().splitlines()[-1]
    assert f"stopped after step 2: the guard {GUARD!r} stopped the run: it fell; there is a checkpoint" in last
    assert (tmp_path / "run" / "checkpoints" / "latest").readlink().name == "step-000002"
    again = spiral("train", "--resume", "--run-dir", str(tmp_path / "run"))
    assert again.status == 0, again.err
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["answer.guards={seats = 'stop'}"], "answer.guards has 'seats', which run.guards does not name"),
        (["answer.guards={health = 'halt'}"], "answer.guards.health: got 'halt'"),
        (["answer.guards={health = 'pull'}", "loss.kl_coefficient=0"], "there is no reference to pull to; set it"),
        (["answer.guards={health = 'rollback'}", "cluster.rollout_workers=1"], "or cluster.rollout_workers to 0"),
        (["answer.guards={health = 'anchor'}", "answer.anchor='minimax'"], "'minimax' cannot play 'kuhn_poker'"),
    ],
)
def test_what_is_refused(changed, words):
    with pytest.raises(ValueError, match=r"answer.guards|anchor") as refused:
        load_recipe("nano", changed)
    assert words in str(refused.value)
