"""`spiral experiment`: the plan, the run and what is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import TINY, refused, spiral

SWEEP = """
summary = "Wins against random play"
source = "v3, table 4"

[models]
base = { full = "Qwen/Qwen3-4B-Base", laptop = "random" }

[arms.kuhn]
full = "train kuhn-qwen3-4b"
gpu_hours = 200
hours_from = "v3: 25 hours on 8 H100"

[evaluations.games]
each = ["base"]
full = "evaluate {each} --game kuhn_poker --opponent {kuhn}"
laptop = "evaluate {each} --game tictactoe --opponent random --episodes 20"
gpu_hours = 0.5
hours_from = "estimate"
"""
TABLE = """
from spiral.experiments.tables import Results, Table

def tables(results):
    entry = results.entry("random play", "draws", "games", "base", key="draw", n="episodes", paper=0.1)
    return [Table(name="draws", title="Draws", entries=[entry])]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    (tmp_path / "mine" / "table.py").write_text(TABLE, encoding="utf-8")
    return tmp_path / "mine"


def test_the_plan_has_every_command_and_its_hours(folder):
    plan = spiral("experiment", "mine", "--seeds", "3", "--dry-run")
    assert plan.status == 0
    lines = plan.out.splitlines()
    assert lines.count("# kuhn, seed 42: 200.0 GPU hours (v3: 25 hours on 8 H100)") == 1
    assert (
        sum(line.startswith("spiral train kuhn-qwen3-4b --run-dir runs/experiments/train-kuhn-") for line in lines) == 3
    )
    assert lines[-1] == "# In all: 6 commands, 0 of them done; 602 GPU hours, 2 of them estimated"
    assert not (folder.parent / "runs").exists()
    assert not (folder / "results").exists()


def test_a_shared_command_counts_once(folder):
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "sweep.toml").write_text(SWEEP.replace("kuhn]", "poker]").replace("{kuhn}", "{poker}"))
    (folder.parent / "other" / "table.py").write_text(TABLE)
    plan = spiral("experiment", "mine", "other", "--dry-run", "--json").json
    assert plan["total"] == {"commands": 2, "done": 0, "gpu_hours": 200.5, "estimated": 0.5}
    assert [row["shared"] for row in plan["jobs"]] == [False, False, True, True]


def test_to_the_table_and_not_again(folder):
    first = spiral("experiment", "mine", "--scale", "laptop")
    assert first.status == 0, first.err
    assert "1 commands, 0 of them done before" in first.err
    (row,) = [line for line in first.out.splitlines() if line.startswith("| random play")]
    assert row.endswith("| 10.0% |")
    results = folder / "results" / "laptop"
    assert sorted(file.name for file in results.iterdir()) == ["draws.csv", "draws.md", "draws.png", "state.json"]
    (job,) = json.loads((results / "state.json").read_text())["jobs"]
    assert (job["job"], job["status"]) == ("games, base", "done")
    assert job["command"] == "spiral evaluate random --game tictactoe --opponent random --episodes 20 --json"

    again = spiral("experiment", "mine", "--scale", "laptop", "--json")
    (experiment,) = again.json["experiments"]
    assert "1 commands, 1 of them done before" in again.err
    assert experiment["jobs"] == [job]
    assert experiment["tables"][0]["entries"][0]["n"] == 20
    plan = spiral("experiment", "mine", "--scale", "laptop", "--dry-run").out
    assert "s when it was last run, done" in plan
    assert "# In all: 1 commands, 1 of them done; " in plan


def test_what_fails_is_named_and_the_table_says_so(folder):
    broken = SWEEP.replace("--episodes 20", "--episodes 21")
    (folder / "sweep.toml").write_text(broken, encoding="utf-8")
    result = spiral("experiment", "mine", "--scale", "laptop")
    assert result.status == 1
    assert "| random play | not done | 10.0% |" in result.out
    last = result.err.splitlines()[-1]
    assert last.startswith(
        "spiral: 1 of 1 commands are not done; the first that failed is games, base: got --episodes 21; expected"
    )
    assert "log.txt); the same command tries them again" in last
    (job,) = json.loads((folder / "results" / "laptop" / "state.json").read_text())["jobs"]
    assert job["status"] == "failed"


def test_wrong_use(folder):
    assert refused("experiment", "mine", "--scale", "tiny") == "got --scale tiny; expected full or laptop"
    assert refused("experiment", "nowhere").startswith("nowhere is not an experiment: it has no sweep.toml")
    (folder / "table.py").unlink()
    assert "mine has no table.py" in refused("experiment", "mine", "--dry-run")


@pytest.mark.slow
def test_a_killed_arm_goes_on_to_the_same_numbers(folder):
    """The experiment and its training run are killed; the next call ends with the metrics of a run without a stop."""
    settings = " ".join(f'--set "{key}={value}"' for key, value in (TINY | {"run.steps": "6"}).items())
    arm = f'[arms.tiny]\nlaptop = """train nano {settings}"""\n\n[evaluations.games]'
    (folder / "sweep.toml").write_text(SWEEP.replace("[evaluations.games]", arm, 1), encoding="utf-8")
    command = [sys.executable, "-m", "spiral", "experiment", "mine", "--scale", "laptop", "--runs"]
    assert subprocess.run([*command, "whole"], check=False, capture_output=True).returncode == 0
    experiment = subprocess.Popen([*command, "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not any(file.read_text().count("\n") >= 2 for file in Path("killed").glob("train-*/run/metrics.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.05)
    (job,) = Path("killed").glob("train-*/job.json")
    experiment.kill()
    os.kill(json.loads(job.read_text())["pid"], signal.SIGKILL)
    experiment.wait()
    assert json.loads(job.read_text())["status"] == "running"
    assert subprocess.run([*command, "killed"], check=False, capture_output=True).returncode == 0
    rows = [[json.loads(line) for line in file.read_text().splitlines()]
            for root in ("whole", "killed") for file in Path(root).glob("train-*/run/metrics.jsonl")]  # fmt: skip
    numbers = [[{key: row[key] for key in row if not key.startswith("time/")} for row in run] for run in rows]
    assert len(numbers[0]) == 6
    assert numbers[0] == numbers[1]
