"""Running jobs: what is done stays done, failures are reported, and nothing is lost when it is stopped or killed.

The commands are those of a stand-in that takes no second to start.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from spiral.experiments import runner
from spiral.experiments.jobs import Prepared
from spiral.experiments.sweep import Job

PROGRAM = """
import json, os, pathlib, signal, sys, time
verb, directory = sys.argv[1], pathlib.Path(sys.argv[2])
with (directory / "calls.txt").open("a") as file:
    print(os.getpid(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("SPIRAL_RESULTS"), file=file)
if verb == "fail":
    sys.exit("spiral: there is no such thing")
if verb == "silent":
    sys.exit(0)
if verb == "train":
    (directory / "run").mkdir(exist_ok=True)
    checkpoint = directory / "run" / "checkpoint"
    def stop(*_):
        checkpoint.write_text("here")
        sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, lambda *_: None)
    (directory / "ready").touch()
    while not (checkpoint.exists() or (directory / "go").exists()):
        time.sleep(0.01)
print(json.dumps({"verb": verb}))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    file = tmp_path / "stand_in.py"
    file.write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setattr(runner, "PROGRAM", (sys.executable, "-S", str(file)))
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    for name in ("OMP_NUM_THREADS", "SPIRAL_RESULTS"):
        monkeypatch.delenv(name, raising=False)


def job(root: Path, name: str, verb: str, needs: tuple[str, ...] = ()) -> Prepared:
    directory = root / name
    one = Job(name=name, item="", seed=14, words=(verb,), gpu_hours=0.0, hours_from="")
    return Prepared(job=one, key=name, directory=directory, words=(verb, str(directory)), needs=needs)


def run(jobs, at_once=1):
    lines: list[str] = []
    outcomes = runner.run_jobs(jobs, at_once, lines.append, lambda: None)
    return {key: outcome.status for key, outcome in outcomes.items()}, lines


def calls(one: Prepared) -> list[str]:
    return (one.directory / "calls.txt").read_text().splitlines()


def test_a_failure_is_reported_and_the_others_go_on(tmp_path, program):
    first, second = job(tmp_path, "first", "fail"), job(tmp_path, "second", "evaluate", ("first",))
    third, fourth = job(tmp_path, "third", "evaluate"), job(tmp_path, "fourth", "silent")
    jobs = [first, second, third, fourth]
    statuses, lines = run(jobs)
    assert statuses == {"first": "failed", "second": "left out", "third": "done", "fourth": "failed"}
    log = first.log_file
    assert f"[1/4] first: failed: there is no such thing (log: {log})" in lines
    assert log.read_text() == "spiral: there is no such thing\n"
    assert "[2/4] second: left out: it needs [1/4] first, which is not done" in lines
    assert any("it printed no JSON object" in line for line in lines)
    assert third.result() == {"verb": "evaluate"}
    assert third.state()["command"] == f"spiral evaluate {third.directory}"
    assert calls(third)[0].split()[1:] == ["None", str(third.output)]

    (tmp_path / "stand_in.py").write_text(PROGRAM.replace('"fail"', '"nothing"'))  # what was wrong is mended
    statuses, _ = run(jobs)
    assert [statuses[name] for name in ("first", "second", "third")] == ["done"] * 3
    assert [len(calls(one)) for one in (first, second, third)] == [2, 1, 1]
    assert first.state()["seconds"] > 0


def test_several_at_once_share_the_cores_and_wait_for_what_they_need(tmp_path, program, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    jobs = [job(tmp_path, "a", "evaluate"), job(tmp_path, "b", "evaluate"), job(tmp_path, "c", "collect", ("a", "b"))]
    statuses, lines = run(jobs, at_once=2)
    assert set(statuses.values()) == {"done"}
    assert [line.split(":")[0] for line in lines if "spiral " in line] == ["[1/3] a", "[2/3] b", "[3/3] c"]
    assert [calls(one)[0].split()[1] for one in jobs] == ["3"] * 3
    assert calls(jobs[2])[0].split()[2] == "None"  # data has a directory of its own


def test_what_an_arm_made_and_somebody_removed_is_made_again(tmp_path, program):
    arm = job(tmp_path, "arm", "train")
    arm.directory.mkdir()
    (arm.directory / "go").touch()
    assert run([arm])[0] == {"arm": "done"}
    assert arm.done()
    arm.output.rmdir()
    assert not arm.done()
    run([arm])
    assert len(calls(arm)) == 2


def _experiment(root: Path, pipe) -> None:
    """Another process that runs an arm, and what came of it."""
    runner.PROGRAM = (sys.executable, "-S", str(root / "stand_in.py"))
    runner.POLL_SECONDS = 0.01
    pipe.send(run([job(root, "arm", "train"), job(root, "after", "evaluate", ("arm",))])[0])


@pytest.fixture
def other(tmp_path, program):
    """A process that has begun to run the arm."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_experiment, args=(tmp_path, theirs))
    process.start()
    while not (tmp_path / "arm" / "ready").exists():
        time.sleep(0.01)
    yield process, ours
    process.kill()
    process.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_passed_on_and_the_next_call_goes_on(tmp_path, other, number):
    process, pipe = other
    os.kill(process.pid, number)
    assert pipe.recv() == {"arm": "stopped", "after": "waiting"}
    assert json.loads((tmp_path / "arm" / "job.json").read_text())["status"] == "stopped"
    assert (tmp_path / "arm" / "run" / "checkpoint").read_text() == "here"
    statuses, _ = run([job(tmp_path, "arm", "train"), job(tmp_path, "after", "evaluate", ("arm",))])
    assert statuses == {"arm": "done", "after": "done"}


def test_a_command_that_outlives_a_killed_experiment_is_waited_for(tmp_path, other):
    process, _ = other
    arm = job(tmp_path, "arm", "train")
    pid = arm.state()["pid"]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lines: list[str] = []

    def notify(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            assert runner.process_start(pid) is not None  # it lives, and is told nothing
            (arm.directory / "go").touch()

    outcomes = runner.run_jobs([arm], 1, notify, lambda: None)
    assert lines[0] == f"[1/1] arm, seed 14: process {pid} is running it; waiting until it has ended"
    assert outcomes["arm"].status == "done"
    assert len(calls(arm)) == 2


def test_two_experiments_at_once_run_a_shared_arm_once(tmp_path, other):
    process, pipe = other
    arm = job(tmp_path, "arm", "train")
    lines: list[str] = []

    def notify(line: str) -> None:
        lines.append(line)
        (arm.directory / "go").touch()

    assert runner.run_jobs([arm], 1, notify, lambda: None)["arm"].status == "done"
    assert lines == [lines[0]]
    assert f"process {process.pid} on " in lines[0]
    assert pipe.recv() == {"arm": "done", "after": "done"}
    assert len(calls(arm)) == 1
