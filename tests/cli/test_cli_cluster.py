"""What a user sees of a run on a cluster: `spiral cluster status`, and warnings among the progress."""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console
from rich.live import Live

from commands import refused, spiral, tiny_run
from spiral.cli.app import log_to_stderr
from spiral.cli.errors import Stopped
from spiral.cli.train import _stops_explained
from spiral.distributed.session import ClusterError
from spiral.distributed.status import STATUS_FILE, status_written, write_status
from spiral.training.process_group import GroupError

WORKER = {
    "number": 1, "pid": 4711, "host": "node-b", "doing": "playing 8 games of step 4", "version": 3, "games": 1216,
    "tokens": 12345, "play_seconds": 9.0, "load_seconds": 0.5,
}  # fmt: skip
ROW = {
    "step": 3, "time/collect_s": 0.5, "time/credit_s": 0.01, "time/update_s": 0.25, "time/publish_s": 0.04,
    "time/step_s": 0.8, "cluster/wall_s": 1.0, "cluster/staleness": 0.5, "cluster/staleness_max": 1.0,
    "cluster/dropped_turns": 2.0, "cluster/restarts": 1.0, "cluster/workers": 1.0,
    "cluster/worker0/tokens_per_s": 0.0, "cluster/worker0/idle": 1.0,
    "cluster/worker1/tokens_per_s": 1234.4, "cluster/worker1/idle": 0.25,
}  # fmt: skip


def written(path, age=2.0, row=ROW, workers=2, **changes):
    """A run directory whose run wrote its status `age` seconds ago."""
    path.mkdir()
    (path / "config.toml").write_text(f"[cluster]\nrollout_workers = {workers}\n")
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
    status = {
        "time": then.isoformat(), "driver": {"pid": os.getpid(), "host": socket.gethostname()}, "state": "running",
        "version": 3, "steps": 10, "schedule": "overlap", "workers": 2, "learners": [4712, 4713],
        "rollout_workers": [WORKER], "metrics": {},
    }  # fmt: skip
    (path / STATUS_FILE).write_text(json.dumps(status | changes))
    if row:
        (path / "metrics.jsonl").write_text('{"step": 1}\n' + json.dumps(row) + '\n{"step": 4, "time/col')
    return path


def status_of(path):
    """`spiral cluster status --json`."""
    result = spiral("cluster", "status", str(path), "--json")
    assert (result.status, result.err) == (0, "")
    return result.json


def gone():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_status_as_json(tmp_path):
    found = status_of(written(tmp_path / "run"))
    assert 2.0 <= found.pop("age_s") < 60.0
    assert found == {
        "run": str(tmp_path / "run"),
        "state": "running",
        "driver": {"pid": os.getpid(), "host": socket.gethostname(), "alive": True},
        "step": 3,
        "steps": 10,
        "schedule": "overlap",
        "version": 3,
        "rollout_workers": 2,
        "ready": 1,
        "workers": [{**WORKER, "tokens_per_s": 1234.4, "idle": 0.25}],
        "learners": [4712, 4713],
        "staleness": 0.5,
        "staleness_max": 1.0,
        "dropped_turns": 2.0,
        "restarts": 1.0,
        "step_s": 1.0,
        "phases_s": {
            "play": 0.5, "credit": 0.01, "update": 0.25, "publish": 0.04, "record": pytest.approx(0.2),
        },
    }  # fmt: skip


def test_status_for_people(tmp_path):
    path = written(tmp_path / "run")
    lines = spiral("cluster", "status", str(path)).out.splitlines()
    assert lines[0] == f"{path}: running, step 3 of 10 done, schedule overlap, weights after 3 updates"
    assert lines[1].startswith(f"Driver: process {os.getpid()} on {socket.gethostname()}, last status 0:0")
    rows = [" ".join(line.split()) for line in lines[3:7]]
    assert rows[0] == "worker process host state weights games tokens tokens/s idle"
    assert rows[2:] == [
        "0 starting or not responding",
        "1 4711 node-b playing 8 games of step 4 3 1,216 12,345 1,234 25%",
    ]
    assert lines[7:] == [
        "",
        "Learner processes: 4712, 4713",
        "Step 3 took 1.00 s: play 0.50 s, credit 0.01 s, update 0.25 s, publish 0.04 s, record 0.20 s",
        "Turns were 0.5 updates old when learned from (at most 1); 2 dropped as too old; workers replaced: 1",
    ]


def test_status_before_the_first_step(tmp_path):
    path = written(tmp_path / "run", row=None, learners=[])
    found = status_of(path)
    assert (found["step"], found["phases_s"], found["step_s"], found["restarts"]) == (0, {}, None, None)
    assert found["workers"][0]["tokens_per_s"] is None
    lines = spiral("cluster", "status", str(path)).out.splitlines()
    assert lines[-1] == "Learner processes: starting"
    assert lines[6].split()[-1] == "12,345"


@pytest.mark.parametrize(
    ("driver", "said", "age", "state", "alive", "words"),
    [
        ("here", "running", 2, "running", True, " ago\n"),
        ("here", "running", 900, "silent", True, "last status 15:0"),
        ("here", "running", 900, "silent", True, "it is stuck, suspended or dead"),
        ("here", "ended", 2, "ended", True, "its workers have ended, and it is finishing or restarting them"),
        ("gone", "running", 2, "killed", False, "; it was killed; to resume: spiral train --resume --run-dir"),
        ("gone", "ended", 900, "ended", False, "; it has ended; to resume: spiral train --resume --run-dir"),
        ("away", "running", 2, "running", None, " on another-machine, last status"),
        ("away", "running", 900, "silent", None, "it is stuck, suspended or dead"),
        ("away", "ended", 900, "ended", None, "; it has ended; to resume:"),
    ],
)
def test_the_state_of_a_run_whose_driver_may_be_gone(driver, said, age, state, alive, words, tmp_path):
    pid = gone() if driver == "gone" else os.getpid()
    host = "another-machine" if driver == "away" else socket.gethostname()
    path = written(tmp_path / "run", age, state=said, driver={"pid": pid, "host": host})
    found = status_of(path)
    assert (found["state"], found["driver"]["alive"]) == (state, alive)
    assert words in spiral("cluster", "status", str(path)).out


def test_a_run_at_its_end_is_not_to_be_gone_on_with(tmp_path):
    path = written(tmp_path / "run", state="ended", steps=3, driver={"pid": gone(), "host": socket.gethostname()})
    out = spiral("cluster", "status", str(path)).out
    assert out.startswith(f"{path}: ended, step 3 of 3")
    assert "to resume" not in out


def test_what_has_no_status(tmp_path):
    nothing = str(tmp_path / "nothing")
    assert refused("cluster", "status", nothing) == f"{nothing} is not a run directory: there is no config.toml in it"
    alone = str(written(tmp_path / "alone", workers=0))
    assert refused("cluster", "status", alone).startswith(f"the run in {alone} has only one process; to spread it")
    early = written(tmp_path / "early")
    (early / STATUS_FILE).unlink()
    assert refused("cluster", "status", str(early)) == (
        f"the run in {early} has not written a status yet; its workers may be starting"
    )
    (early / "config.toml").write_text("[cluster")
    assert f"{early / 'config.toml'} is damaged: " in refused("cluster", "status", str(early))
    assert refused("cluster") == "Missing command; see `spiral cluster --help`"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"time": "2026", "driver": 3}', '{"time": 5}'])
def test_a_damaged_status(text, tmp_path):
    path = written(tmp_path / "run")
    (path / STATUS_FILE).write_text(text)
    assert f"{path / STATUS_FILE} is damaged; the run writes it again" in refused("cluster", "status", str(path))


def test_a_status_is_written_at_the_start_and_at_the_end(tmp_path):
    file, said = tmp_path / STATUS_FILE, {"version": 1}
    with status_written(file, lambda: said):
        end = time.monotonic() + 20
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.01)
        first = json.loads(file.read_text())
        said["version"] = 2
    last = json.loads(file.read_text())
    assert (first["state"], first["version"], first["driver"]["pid"]) == ("running", 1, os.getpid())
    assert (last["state"], last["version"]) == ("ended", 2)
    assert "cluster status" not in [thread.name for thread in threading.enumerate()]


def test_a_run_does_not_depend_on_its_status(tmp_path):
    def ask():
        raise ClusterError("no reply")

    with status_written(tmp_path / STATUS_FILE, ask):
        pass
    with status_written(tmp_path / "nowhere" / STATUS_FILE, dict):
        pass
    assert list(tmp_path.iterdir()) == []
    write_status(tmp_path / STATUS_FILE, {})
    assert json.loads((tmp_path / STATUS_FILE).read_text()).keys() == {"time", "driver"}


def test_warnings_are_printed_once_and_only_ours(capsys):
    ours, more = logging.getLogger("spiral.distributed.pool"), logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(more)
    try:
        with log_to_stderr():
            ours.warning("rollout worker %d is stuck; its threads:\nthread play:\n  File x", 3)
            ours.debug("a detail")
            ours.info("good to know")
            ours.error("this is worse")
        assert capsys.readouterr().err.splitlines() == [
            "warning: rollout worker 3 is stuck; its threads:",
            "  thread play:",
            "    File x",
            "note: good to know",
            "error: this is worse",
        ]
    finally:
        logging.getLogger().removeHandler(more)
    assert (logging.getLogger("spiral").propagate, logging.getLogger("spiral").handlers) == (True, [])


def test_warnings_go_above_the_live_table(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = Console(stderr=True, force_terminal=True, width=100, legacy_windows=False)
    with log_to_stderr(), Live("the table", console=console, auto_refresh=False):
        logging.getLogger("spiral.launch").warning("the learner is lost")
    written = sys.stderr.getvalue()
    assert written.count("warning: the learner is lost") == 1
    assert written.rstrip("\n\x1b[?25h").endswith("the table"), "it is drawn anew below"


def test_a_warning_without_a_reader_is_no_error(monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Broken())
    monkeypatch.setattr(logging, "raiseExceptions", True)
    with log_to_stderr():
        logging.getLogger("spiral").warning("into the void")
    assert logging.getLogger("spiral").handlers == []


@pytest.mark.parametrize("kind", [ClusterError, GroupError])
def test_a_lost_cluster_says_how_to_resume(kind, tmp_path):
    (tmp_path / "checkpoints" / "step-000004").mkdir(parents=True)
    (tmp_path / "checkpoints" / "latest").symlink_to("step-000004")
    advice = r"^21 workers were lost; the last good checkpoint is step-000004; to resume: .*spiral train --resume"
    with pytest.raises(Stopped, match=advice) as caught, _stops_explained(tmp_path):
        raise kind("21 workers were lost")
    assert caught.value.status == 1


def test_training_that_diverges_ends_the_run_with_the_last_good_checkpoint(tmp_path):
    """The first optimizer step ruins the weights, and no later one has a finite gradient."""
    path = tmp_path / "my run"
    result = tiny_run(path, run__steps="9", learner__learning_rate="1e30", learner__minibatches="1")
    assert (result.status, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith("spiral: no gradient was finite in 3 updates in a row, up to update ")
    assert "Traceback" not in result.err
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    good = max(row["step"] for row in rows if row["learner/skipped_steps"] == 0)
    command = last.partition("for a new run from there: ")[2]
    assert f"the last good checkpoint is step-{good:06d}; for a new run" in last
    assert (path / "checkpoints" / f"step-{good + 1:06d}").is_dir(), "a later one exists, and is not named"
    assert command == (
        f"spiral train '{path}/config.toml' --model '{path}/checkpoints/step-{good:06d}' --set"
        " learner.learning_rate=1e+29"
    )
