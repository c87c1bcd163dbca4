"""`spiral train` on a cluster of its own while its processes are killed: nothing is lost, doubled or left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from distributed_session import facts
from spiral.core.storage import read_episodes
from spiral.runs.directory import read_metrics

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the processes of a run in /proc"),
]

SETTINGS = (
    "run.episodes_every=1",
    "run.checkpoint_every=5",
    "selfplay.episodes_per_step=32",
    "selfplay.in_flight=32",
    "evaluation.games=['tictactoe']",
    "evaluation.opponents=['random']",
    "evaluation.episodes=4",
    "evaluation.exploitability=[]",
    "cluster.cpus_per_worker=0.5",
    "cluster.object_store_gib=0.2",
)
OURS = (
    "run directory: ",
    "Ctrl-C stops ",
    "preparing ",
    "evaluating ",
    "evaluated after ",
    "step ",
    "the first step took ",
    "warning: ",
    "spiral: ",
)
"""How lines of ours begin."""
SECONDS = 300.0
ELSEWHERE = ("time/", "cluster/")
"""Metrics of how long something took and who did it."""


@dataclasses.dataclass
class Train:
    """A `spiral train` in a session of its own."""

    process: subprocess.Popen[str]
    output: Path

    @property
    def lines(self):
        """Standard error so far."""
        return self.output.read_text().splitlines()

    def alive(self, name=""):
        """The processes of the session but the first, by what Ray calls them."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdecimal():
                    continue
                state, _parent, _group, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(session) == self.process.pid != int(entry.name) and state not in "ZX" and name in title:
                found.append(int(entry.name))
        return sorted(found)

    def kill(self, name, which=0):
        """SIGKILL for one of the processes of that name, if there is one."""
        found = self.alive(name)
        if found:
            os.kill(found[which % len(found)], signal.SIGKILL)
        return bool(found)

    def end(self, status, *, agents=False):
        """Waits for the end, after which no process is left and only ours has printed anything.

        Where Ray could not end its `agents` itself, they look for its other processes for a minute, and go.
        """
        assert self.process.wait(SECONDS) == status, self.output.read_text()
        wait_for(lambda: not self.alive("Worker" if agents else ""), 30.0)
        assert [line for line in self.lines if not line.startswith((*OURS, "  "))] == []


def train(path, *arguments, settings=()):
    given = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    command = [sys.executable, "-m", "spiral", "train", "--run-dir", str(path), *arguments]
    output = path.with_suffix(f".{time.monotonic_ns()}.log")
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, *given] if "--resume" not in arguments else command,
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_memory_monitor_refresh_ms": "0"},
        )
    return Train(process, output)


@pytest.fixture
def started() -> Iterator[list[Train]]:
    """Runs to be ended whatever becomes of the test."""
    runs: list[Train] = []
    yield runs
    for run in runs:
        run.process.kill()
        for pid in run.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_for(condition, seconds=SECONDS):
    """Waits until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def step_of(path):
    """The last step that is written down."""
    rows = read_metrics(path) if (path / "metrics.jsonl").is_file() else []
    return rows[-1]["step"] if rows else 0


def played(path):
    """Everything in every episode, step by step."""
    return {file.name: [facts(e) for e in read_episodes(file)] for file in sorted((path / "episodes").iterdir())}


def compared_metrics(path):
    return [{key: value for key, value in row.items() if not key.startswith(ELSEWHERE)} for row in read_metrics(path)]


def assert_same_run(path, other, steps):
    """Bit for bit, with every step once and every game once."""
    assert [row["step"] for row in read_metrics(path)] == list(range(1, steps + 1))
    ours, theirs = played(path), played(other)
    assert list(ours) == [f"step-{step:06d}.parquet" for step in range(1, steps + 1)]
    for name, episodes in ours.items():
        assert episodes == theirs[name], name
    seeds = [episode[1] for episodes in ours.values() for episode in episodes]
    assert len(seeds) == len(set(seeds)) == 32 * steps
    assert compared_metrics(path) == compared_metrics(other)
    weights, expected = (load_file(run / "checkpoints" / "latest" / "model.safetensors") for run in (path, other))
    assert all(weights[name].equal(expected[name]) for name in expected)


def test_thirty_steps_while_every_kind_of_process_is_killed(tmp_path, started):
    """Rollout workers every few steps, at any moment of a step; the learner once; this process's child once."""
    rng, steps = random.Random(5), 30
    alone = train(tmp_path / "alone", "nano", settings=[f"run.steps={steps}"])
    started.append(alone)
    alone.end(0)
    path = tmp_path / "run"
    run = train(path, "nano", settings=[f"run.steps={steps}", "cluster.rollout_workers=2"])
    started.append(run)
    learner, driver = 13, 22
    due = sorted({learner, driver, *(step + rng.randrange(3) for step in range(1, steps - 3, 3))})
    killed = {"rollout": 0, "learner": 0, "driver": 0}
    for step in due:
        wait_for(lambda step=step, run=run: step_of(path) >= step or run.process.poll() is not None)
        assert run.process.poll() is None
        time.sleep(rng.uniform(0.0, 0.5))
        if step == driver:
            run.process.kill()
            run.end(-signal.SIGKILL, agents=True)
            killed["driver"] += 1
            run = train(path, "--resume")
            started.append(run)
        else:
            name = "LearnerWorker" if step == learner else "RolloutWorker"
            killed["learner" if step == learner else "rollout"] += run.kill(f"ray::{name}", rng.randrange(2))
    run.end(0)
    assert_same_run(path, tmp_path / "alone", steps)
    assert (killed["learner"], killed["driver"]) == (1, 1)
    assert killed["rollout"] >= 5
    said = [line for run in started for line in run.lines if line.startswith("warning: ")]
    assert 1 <= sum("It is replaced" in line for line in said) <= killed["rollout"]
    wait_for(lambda: not any(run.alive() for run in started))
    assert sum("resuming from the last checkpoint" in line for line in said) == 1
    print(f"killed: {killed}; {len(said)} warnings")


def test_one_of_two_learners_is_killed(tmp_path, started):
    """Of one rank nothing can be left to use; both are made anew from the checkpoint."""
    settings = ["run.steps=8", "cluster.rollout_workers=1", "cluster.learner_workers=2"]
    whole = train(tmp_path / "whole", "nano", settings=settings)
    started.append(whole)
    whole.end(0)
    run = train(tmp_path / "run", "nano", settings=settings)
    started.append(run)
    wait_for(lambda: step_of(tmp_path / "run") >= 6)
    assert len(run.alive("ray::LearnerWorker")) == 2
    assert run.kill("ray::LearnerWorker", which=1)
    run.end(0)
    assert_same_run(tmp_path / "run", tmp_path / "whole", 8)
    (said,) = [line for line in run.lines if line.startswith("warning: ")]
    assert said.startswith("warning: learner worker ")
    assert said.endswith("; resuming from the last checkpoint (1 times so far)")


def interrupted(run):
    """Ctrl-C as a terminal sends it: to everybody in the foreground."""
    os.killpg(run.process.pid, signal.SIGINT)


def test_ctrl_c_ends_the_step_and_all_processes(tmp_path, started):
    path = tmp_path / "run"
    run = train(path, "nano", settings=["run.steps=30", "cluster.rollout_workers=2"])
    started.append(run)
    wait_for(lambda: step_of(path) >= 2)
    interrupted(run)
    run.end(130)
    stopped = step_of(path)
    assert 2 <= stopped < 30
    assert run.lines[-1].startswith(f"spiral: stopped after step {stopped}, with a checkpoint; to resume: ")
    assert os.readlink(path / "checkpoints" / "latest") == f"step-{stopped:06d}"
    assert [line for line in run.lines if line.startswith("warning")] == []
    # On from there, and a second Ctrl-C right after the first.
    run = train(path, "--resume")
    started.append(run)
    wait_for(lambda: step_of(path) >= stopped + 1)
    interrupted(run)
    time.sleep(0.02)
    interrupted(run)
    run.end(130)
    assert run.lines[-1].startswith(
        ("spiral: interrupted at once; the last good checkpoint is step-", "spiral: stopped")
    )


@pytest.mark.parametrize("seconds", [3.0, 8.0, 14.0])
def test_ctrl_c_while_the_workers_start(tmp_path, started, seconds):
    """Wherever it comes; on a slow machine Python itself may still be starting."""
    run = train(tmp_path / "run", "nano", settings=["run.steps=300", "cluster.rollout_workers=2"])
    started.append(run)
    time.sleep(seconds)
    interrupted(run)
    run.end(130, agents=True)
    assert run.lines[-1].startswith(("spiral: interrupted", "spiral: stopped"))
    wait_for(lambda: not run.alive())
