"""What the guards of a run found and did, as its file keeps it and as it is shown."""

from __future__ import annotations

import json
import tomllib

import pytest
import tomli_w

from commands import spiral
from made_up_run import made_run
from spiral.runs.answers import AnswerConfig, Answers
from spiral.runs.findings import Finding
from spiral.runs.guard_record import GuardRecord, read_guard_record, take_back_guard_record
from spiral.runs.guard_states import guard_states, undone_steps
from spiral.runs.guards import Guards, GuardWatch

FIRST = Finding(level="warning", about="player 0", message="it sinks to 1")
LATER = Finding(level="warning", about="player 0", message="it sinks to 2")
BAD = Finding(level="collapsed", about="player 0", message="it fell")
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"


def test_a_line_for_every_change_and_every_answer(tmp_path):
    record = GuardRecord(tmp_path)
    assert read_guard_record(tmp_path) == []
    for step, found, answers in (
        (1, [], {}), (2, [FIRST], {}), (3, [LATER], {}), (4, [BAD, FIRST], {"a": "pull"}), (5, [BAD, FIRST], {}),
        (6, [BAD, FIRST], {"a": "pull"}), (7, [], {}),
    ):  # fmt: skip
        record.add(step, {"a": found, "b": []}, answers)
    lines = read_guard_record(tmp_path)
    assert [(line["step"], line["state"], line["answer"]) for line in lines] == [
        (2, "warning", None), (4, "collapsed", "pull"), (6, "collapsed", "pull"), (7, "fine", None)
    ]  # fmt: skip
    assert lines[0]["findings"] == [{"level": "warning", "about": "player 0", "message": "it sinks to 1"}]

    take_back_guard_record(tmp_path, 4)
    assert [line["step"] for line in read_guard_record(tmp_path)] == [2, 4]
    resumed = GuardRecord(tmp_path)
    resumed.add(5, {"a": [BAD, FIRST], "b": []}, {})
    assert len(read_guard_record(tmp_path)) == 2, "nothing has changed since step 4"
    resumed.add(6, {"a": [BAD], "b": []}, {})
    assert len(read_guard_record(tmp_path)) == 3
    take_back_guard_record(tmp_path, 0)
    assert not (tmp_path / "guards.jsonl").exists()


def test_damaged_lines_are_left_out(tmp_path):
    good = {"step": 1, "guard": "a", "state": "fine", "findings": [], "answer": None}
    damaged = [
        "", "{", "[]", "7", json.dumps({**good, "step": "1"}), json.dumps({**good, "state": "well"}),
        json.dumps({**good, "findings": [3]}), json.dumps({**good, "findings": "abc"}), "1" + "0" * 400, "[" * 50_000,
        json.dumps({**good, "answer": 3}), json.dumps({**good, "guard": None}),
    ]  # fmt: skip
    text = "\n".join([*damaged, json.dumps(good), json.dumps(good)[:20]])
    (tmp_path / "guards.jsonl").write_text(text)
    assert read_guard_record(tmp_path) == [good]


def test_states_and_what_was_done():
    line = {"step": 4, "guard": "entropy", "state": "warning", "findings": [], "answer": None}
    found = [{"level": "collapsed", "about": "x", "message": "it fell"}]
    record = [
        line,
        {**line, "step": 6, "state": "collapsed", "findings": found, "answer": "rollback"},
        {**line, "step": 9, "state": "collapsed", "findings": found, "answer": "pull"},
        {**line, "guard": "seats", "findings": found},
    ]
    settings = {
        "run": {"guards": ["entropy", "seats", "module:Own", "gap"], "guard_options": {"entropy": {"limit": 0.1}}},
        "answer": {"guards": {"entropy": "rollback"}, "rollback_rate": 0.3, "pull_factor": 10.0, "steps": 5},
    }
    rows = [{"step": 9, "guard/entropy": 2.0, "guard/seats": 0.0, "guard/gap": float("nan")}]
    entropy, seats, own, gap = guard_states(rows, settings, record, [[2, 6]])
    assert (entropy.state, entropy.since, entropy.answer) == ("collapsed", 6, "rollback")
    assert entropy.rule.startswith("A player's replies are nearly determined")
    assert entropy.rule.endswith("Warning at 0.2, collapsed at 0.1.")
    assert [change["effect"] for change in entropy.changes] == [
        "",
        "the weights of step 2 again, and the learning rate times 0.3",
        "loss.kl_coefficient times 10 in steps 10 to 14",
    ]
    assert (seats.state, seats.since, seats.findings, seats.answer) == ("fine", None, (), "log")
    assert (own.state, own.rule, gap.state) == ("unknown", "", "unknown")
    assert gap.rule == "Finds steps at which the engine and the learner gave the same tokens different probabilities."


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"run": 3}, {"run": {"guards": "gap"}}, {"run": {"guards": [3]}}, {"run": {"guards": ["gap"]}, "answer": 1},
        {"run": {"guards": ["entropy"], "guard_options": {"entropy": {"warn": "x", "y": 1}}}, "answer": {"guards": []}},
        {"run": {"guards": ["seats"], "guard_options": 7}, "answer": {"steps": "x", "anchor_share": None}},
    ],
)  # fmt: skip
def test_settings_that_anybody_wrote(settings):
    line = {"step": 4, "guard": "seats", "state": "collapsed", "findings": [], "answer": "anchor"}
    found = guard_states([{"step": 4, "guard/seats": 2.0}], settings, [line])
    assert [guard.name for guard in found] in ([], ["gap"], ["entropy"], ["seats"])
    for guard in found:
        assert [change["effect"] for change in guard.changes] in (
            [],
            ["a share of the games against an anchor for some steps"],
        )


def test_the_watch_puts_findings_and_answers_on_record(tmp_path):
    def guard(rows, trained):
        return [BAD] if rows[-1]["step"] >= 2 else []

    answers = Answers(AnswerConfig(guards={"own": "pull"}, steps=2), steps=9)
    watch = GuardWatch(Guards({"own": guard}), [], answers=answers, record=GuardRecord(tmp_path))
    for step in range(1, 6):
        watch(step, {})
    lines = read_guard_record(tmp_path)
    assert [(line["step"], line["guard"], line["answer"]) for line in lines] == [(2, "own", "pull"), (4, "own", "pull")]


def test_a_run_s_guards_in_the_terminal(tmp_path, monkeypatch):
    run = made_run(tmp_path / "mine")
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    config["run"]["guards"] = ["entropy", "seats", "gradient", "health"]
    config["answer"]["guards"] = {"entropy": "pull"}
    (run / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"guard/entropy": 2.0, "guard/seats": 1.0, "guard/gradient": 0.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finding = {"level": "collapsed", "about": f"player 1 {HOSTILE}", "message": f"it fell {HOSTILE}"}
    line = {"step": 8, "guard": "entropy", "state": "collapsed", "findings": [finding] * 6, "answer": "pull"}
    (run / "guards.jsonl").write_text(json.dumps(line) + "\n")
    for columns in ("200", "50"):
        monkeypatch.setenv("COLUMNS", columns)
        out = " ".join(spiral("show", str(run)).out.split())
        assert not set(out) & set("\x1b\u202e")
        assert "guards that are fine: gradient" in out
        assert "guards that are not known (not judged yet, or disabled): health" in out
        assert "answer of the guard entropy after step 8, for player 1 <script>" in out
        assert ": pull (loss.kl_coefficient times 10 in steps 9 to 28)" in out
        assert "why is not on record" in out
        assert "and 2 more" in out
    found = {guard["name"]: guard for guard in spiral("show", str(run), "--json").json["guards"]}
    assert (found["entropy"]["state"], found["entropy"]["since"], found["seats"]["state"]) == (
        "collapsed",
        8,
        "warning",
    )
    assert found["entropy"]["findings"][0]["message"] == f"it fell {HOSTILE}"


def test_what_a_rollback_undid_is_in_the_checkpoint(tmp_path):
    assert undone_steps(tmp_path) == []
    checkpoint = tmp_path / "checkpoints" / "step-000004"
    checkpoint.mkdir(parents=True)
    for state, expected in (("{", []), ('{"answers": {"undone": [[2, 4]]}}', [[2, 4]]), ('{"answers": 3}', [])):
        (checkpoint / "state.json").write_text(state)
        assert undone_steps(tmp_path) == expected
