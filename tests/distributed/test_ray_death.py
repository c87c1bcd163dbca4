"""When a process of Ray's own dies, the driver says so and how to go on; SIGTERM there is the first Ctrl-C too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import TINY
from spiral.distributed.ray_watch import _agents, watched
from spiral.runs.directory import read_metrics


def command(path, steps):
    """A run with one rollout worker."""
    settings = TINY | {"run.steps": str(steps), "run.checkpoint_every": "2", "cluster.rollout_workers": "1"}
    parts = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "spiral", "train", "nano", "--run-dir", str(path), *parts, "--resume"]


def processes():
    """Every process by id: its parent and its command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                found[int(entry.name)] = (int(parent), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def of_ray(driver, mark):
    """The process below `driver` whose command line has `mark` in it."""
    found = processes()

    def below(pid):
        while pid in found and pid != driver:
            pid = found[pid][0]
        return pid == driver

    (pid,) = [pid for pid, (_, line) in found.items() if mark in line.split(" --")[0] and below(pid)]
    return pid


def started(path, steps=500):
    """A run that has done a step and has a checkpoint to go back to."""
    process = subprocess.Popen(command(path, steps), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 240
    while not (path / "checkpoints" / "step-000002").is_dir():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mark", "name"),
    [
        ("raylet/raylet", "raylet"),
        ("gcs/gcs_server", "gcs_server"),
        ("ray::RuntimeEnvAgent", "runtime environment agent"),
        ("ray::DashboardAgent", "dashboard agent"),
    ],
)
def test_the_death_of_a_ray_process_is_reported(mark, name, tmp_path):
    process = started(tmp_path / "run")
    os.kill(of_ray(process.pid, mark), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    lines = [line for line in err.splitlines() if line.startswith("spiral: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("spiral: Ray has ended: its ")
    assert name in lines[0]
    assert lines[0].endswith(f"to resume: spiral train --resume --run-dir {tmp_path / 'run'}")


@pytest.mark.slow
def test_sigterm_on_a_cluster_writes_a_checkpoint(tmp_path):
    process = started(tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "with a checkpoint; to resume: " in err.splitlines()[-1]
    state = json.loads((tmp_path / "run" / "checkpoints" / "latest" / "state.json").read_text())
    assert state["step"] == read_metrics(tmp_path / "run")[-1]["step"]


DRIVER = """
import os, sys, time
from spiral.distributed.ray_watch import _agents, watched
with watched({pid: "raylet" for pid in map(int, sys.argv[2:])}, "to resume: this"):
    print("watched", flush=True)
    sys.stdin.read()
    if sys.argv[1] == "vanish":
        os._exit(1)
    if sys.argv[1] == "stay":
        time.sleep(60)
"""


def ended(how, pids, kill=()):
    """How a watched process ends, and what is said."""
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", DRIVER, how, *map(str, pids)]
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "watched\n"
        for other in kill:
            other.kill()
        _, err = process.communicate("", timeout=40)
    return process.returncode, err


@pytest.fixture
def other():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_that_ends_by_itself_is_not_explained(other):
    assert ended("end", [other.pid]) == (0, "")
    assert ended("vanish", [other.pid]) == (1, "")


@pytest.mark.parametrize("how", ["vanish", "stay"])
def test_a_process_that_ray_has_ended_is_explained(how, other):
    line = "spiral: Ray has ended: its raylet died, and the run with it; to resume: this\n"
    assert ended(how, [other.pid], kill=[other]) == (1, line)


def test_a_process_that_has_joined_a_ray_is_explained(other):
    line = "spiral: this process was killed, or ended by the Ray that it had joined; to resume: this\n"
    assert ended("vanish", []) == (1, line)
    assert ended("end", []) == (0, "")


def test_the_watcher_ends_with_its_block(other):
    before = set(processes())
    with watched({other.pid: "raylet"}, "go on"):
        (watcher,) = [pid for pid, (_, line) in processes().items() if pid not in before and "ray_watch" in line]
    assert watcher not in {pid for pid, (_, line) in processes().items() if "ray_watch" in line}


RAYLET = """
import os, subprocess, sys, time
worker = os.fork()
if not worker:
    time.sleep(60)
agent = subprocess.Popen(
    [sys.executable, "-c", "print(flush=True); input()", sys.argv[2], "--port=1"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
)
agent.stdout.readline()  # until it runs, Linux may show no command line for it
print(worker, agent.pid, flush=True)
sys.stdin.read()
os.kill(worker, 9)
agent.kill()
"""


@pytest.mark.parametrize(
    ("agent", "name"),
    [("dashboard/agent.py", "dashboard agent"), ("runtime_env/agent/main.py", "runtime environment agent")],
)
def test_a_worker_that_is_being_started_is_no_agent(agent, name):
    """It still has the raylet's command line, and its end must not end the run."""
    line = [sys.executable, "-c", RAYLET, "--agent_command", agent]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as raylet:
        worker, started_agent = map(int, raylet.stdout.readline().split())
        found = _agents(raylet.pid)
        assert processes()[worker][1] == processes()[raylet.pid][1]
        raylet.communicate("")
    assert found == {started_agent: name}
