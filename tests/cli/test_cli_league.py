"""`spiral league`: a league of a tiny recipe, stopped and continued, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from commands import refused, spiral
from killed_runs import contents
from lock_holder import held_elsewhere
from spiral.launch import exploiter as training

SMALL = (
    "--set", "run.steps=2", "--set", "run.checkpoint_every=2", "--set", "selfplay.episodes_per_step=16",
    "--set", "learner.epochs=1", "--set", "learner.minibatches=1", "--set", "selfplay.attempts=2",
    "--set", "evaluation.episodes=8", "--set", "selfplay.opponent_options={save_every=2, window=2}",
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def agents(result):
    """The lines on each agent; a slow machine writes some on its progress too."""
    return [line for line in result.err.splitlines() if not line.endswith(("elapsed", "left"))]


def test_a_league_is_trained_and_goes_on(here, monkeypatch):
    monkeypatch.setattr(training, "WINDOW", 1)
    command = (
        "league", "league-nano", "--run-dir", "one", *SMALL, "--exploiter-steps", "6", "--win-rate", "0.51",
        "--exploiter-start", "main",
    )  # fmt: skip
    first = spiral(*command, "--rounds", "1", "--json")
    assert first.status == 0, first.err
    found = first.json
    lines = agents(first)
    assert lines[0].startswith("main agent at step 2: exploitable by 0.")
    assert [entry["step"] for entry in found["main"]] == [2, 4]
    (exploiter,) = found["exploiters"]
    assert exploiter["against"] == "one/main@2"
    assert exploiter["won"]
    assert exploiter["step"] < 6, "an exploiter that wins its share is frozen before its steps are over"
    assert f"exploiter-001 frozen when it won its share, after {exploiter['step']} step" in lines[1]
    config = tomllib.loads((here / "one/exploiter-001/config.toml").read_text())
    assert (config["run"]["steps"], config["model"]["path"]) == (exploiter["step"], "one/main@2")
    then, now = exploiter["results"]["kuhn_poker"], found["main"][1]["exploiters"]["exploiter-001"]["kuhn_poker"]
    assert then["games"] == now["games"] == 8
    assert {*found["main"][1]["exploitability"]} == {"kuhn_poker"}
    rows = [json.loads(line) for line in (here / "one/main/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4], "the main agent is one run"
    assert [row.get("against/kuhn_poker/exploiter-001/games", 0) for row in rows] == [0, 0, 4, 4]

    saved = (here / "one" / "league.json").read_bytes()
    again = spiral(*command, "--rounds", "1", "--resume", "--json")
    assert (again.json, agents(again)) == (found, lines)
    assert (here / "one" / "league.json").read_bytes() == saved

    shown = spiral("show", "one")
    assert "one: a league in kuhn_poker; exploiters begin as the main agent and are frozen when they win 51%" in (
        shown.out
    )
    assert lines[2] in shown.out
    assert f"{then['win_rate']:.1%}" in shown.out
    assert f"{now['return']:+.3f} (" in shown.out
    assert spiral("show", "one", "--json").json["exploiters"] == found["exploiters"]
    assert "one holds a league; give one of its runs, such as one/main" in refused("show", "one", "--step", "1")

    assert "already holds a league; continue it with --resume" in refused(*command)
    changed = refused(*command, "--resume", "--share", "0.5", "--set", "run.steps=3")
    assert "league.json was made with other settings: run.steps is 2 in it and 3 here; --share is 0.25 in it" in changed
    (here / "one" / "league.json").write_text("{}")
    assert "league.json is damaged: parts of it are missing" in refused(*command, "--resume")
    (here / "one" / "league.json").write_text(
        '{"recipe": {}, "options": {}, "games": [], "main": [], "exploiters": [3]}'
    )
    assert "league.json is damaged: options.win_rate is missing; put a good copy back" in refused("show", "one")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("league-nano", "--exploiter-start", "best"), "got --exploiter-start 'best'; expected 'initial' or 'main'"),
        (("league-nano", "--win-rate", "0.4"), "got a win rate of 0.4; expected one above 0.5"),
        (
            ("league-nano", "--set", "selfplay.games={prisoners_dilemma=1}"),
            "prisoners_dilemma has returns that do not sum to zero; an exploiter can be trained in zero-sum",
        ),
    ],
)
def test_what_has_no_league_is_refused(arguments, message, here):
    assert message in refused("league", *arguments, "--run-dir", "two")
    assert not (here / "two").exists()


@pytest.mark.parametrize(("command", "what"), [("league", "league"), ("psro", "population")])
def test_two_processes_do_not_share_a_directory(here, command, what):
    (here / "one").mkdir()
    with held_elsewhere(here / "one" / ".lock"):
        for again in ((), ("--resume",)):
            line = refused(command, f"{command}-nano", "--run-dir", "one", *again)
            assert f"uses the {what} in one since 20" in line
            assert "wait until it ends, or stop it there (kill" in line
    assert sorted(file.name for file in (here / "one").iterdir()) == [".lock", ".lock.owner"]


def league_process(path, **options):
    command = [
        sys.executable, "-m", "spiral", "league", "league-nano", "--run-dir", "one", "--rounds", "2", "--resume",
        "--exploiter-steps", "6", "--win-rate", "0.51", *SMALL,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=path, env=environment, stdout=subprocess.DEVNULL, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    assert league_process(path).wait() == 0
    return path / "one"


@pytest.mark.slow
@pytest.mark.parametrize(
    "sight",
    [
        "one/main/checkpoints/step-000002",
        "one/exploiter-001/checkpoints/step-000004",
        "one/main/checkpoints/step-000002/state.json: exploiter-001",
        "one/main/past_selves/step-000004",
        "one/exploiter-002/checkpoints/step-000005",
    ],
)
def test_a_killed_league_goes_on_as_if_it_had_not_been(here, whole, sight):
    """Killed as soon as a file is there, or has a text, and continued by the same command."""
    file, _, text = sight.partition(": ")
    process = league_process(here)
    end = time.monotonic() + 300
    while not ((here / file).exists() and (not text or text in (here / file).read_text())):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = json.loads((here / "one" / "league.json").read_text())
    assert len(before["main"]) < 3
    assert league_process(here).wait() == 0
    assert (here / "one" / "league.json").read_bytes() == (whole / "league.json").read_bytes()
    for agent in ("main", "exploiter-001", "exploiter-002"):
        ours, theirs = contents(here / "one" / agent), contents(whole / agent)
        assert sorted(ours) == sorted(theirs)
        assert [name for name in ours if ours[name] != theirs[name]] == []
