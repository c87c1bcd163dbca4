"""Runs the jobs of experiments, each as the command that a user would type, in a process of its own.

A job that fails leaves its log, those that need it are left out, and the others run. Ctrl-C and SIGTERM are passed on
once: a training run finishes its step and writes a checkpoint. If this process is killed, the command under way
runs on; the next call waits until it has ended and then resumes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from spiral.core.files import remove, write_text_atomically
from spiral.core.locks import HeldError, Lock, acquire, process_start
from spiral.core.printable import one_line
from spiral.core.stopping import stop_requests
from spiral.evaluation.results import RESULTS_VARIABLE
from spiral.experiments.jobs import Prepared

Status = Literal["done", "failed", "stopped", "left out", "waiting"]
Notify = Callable[[str], object]
PROGRAM = (sys.executable, "-m", "spiral")
POLL_SECONDS = 0.1
THREADS = "OMP_NUM_THREADS"
LOG_END = 4000
"""Bytes at the end of a log in which its last line is looked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended."""

    status: Status
    seconds: float = 0.0
    """Of all attempts."""
    message: str = ""
    """Why it is not done."""


@dataclasses.dataclass(kw_only=True)
class _Attempt:
    """A command under way."""

    one: Prepared
    lock: Lock
    process: subprocess.Popen[bytes]
    began: float
    before: float
    """Seconds of earlier attempts."""


def run_jobs(
    jobs: Sequence[Prepared], at_once: int, notify: Notify, changed: Callable[[], object]
) -> dict[str, Outcome]:
    """Runs what is not done yet.

    Args:
        jobs: In an order in which each follows what it needs; those with the same key are run once.
        at_once: Number of commands at once. With several, each gets its share of the cores (`OMP_NUM_THREADS`).
        notify: Called with a line when a command begins, ends, or must be waited for.
        changed: Called when a job has ended.

    Returns:
        The outcome of every job, by key. After Ctrl-C those that were not begun are "waiting".
    """
    waiting = {one.key: one for one in jobs}
    names = {key: f"[{number}/{len(waiting)}] {_label(one)}" for number, (key, one) in enumerate(waiting.items(), 1)}
    outcomes: dict[str, Outcome] = {}
    running: dict[str, _Attempt] = {}
    notified: set[str] = set()

    def end(key: str, outcome: Outcome) -> None:
        outcomes[key] = outcome
        waiting.pop(key, None)
        if outcome.status == "done":
            notify(f"{names[key]}: done in {outcome.seconds:.0f} s")
        else:
            notify(f"{names[key]}: {outcome.status}: {outcome.message}")
        changed()

    with stop_requests() as stop_requested, _ended(running):
        while waiting or running:
            if stop_requested() and "stop" not in notified:
                notified.add("stop")
                waiting.clear()
                for attempt in running.values():
                    _signal(attempt, signal.SIGINT)
            for key, one in [*waiting.items()]:
                missing = [need for need in one.needs if need in outcomes and outcomes[need].status != "done"]
                if missing:
                    end(key, Outcome(status="left out", message=f"it needs {names[missing[0]]}, which is not done"))
                elif len(running) < at_once and all(need in outcomes for need in one.needs):
                    held = _locked_or_holder(one)
                    if isinstance(held, Lock):
                        if one.done():
                            held.release()
                            outcomes[key] = Outcome(status="done", seconds=one.state().get("seconds", 0.0))
                            del waiting[key]
                            continue
                        notify(f"{names[key]}: {one.command}\n    log: {one.log_file}")
                        running[key] = _begin(one, held, at_once)
                        del waiting[key]
                    elif key not in notified:
                        notify(f"{names[key]}: {held} is running it; waiting until it has ended")
                        notified.add(key)
            for key, attempt in [*running.items()]:
                if attempt.process.poll() is not None:
                    del running[key]
                    end(key, _finish(attempt))
            time.sleep(POLL_SECONDS)
    return {one.key: outcomes.get(one.key, Outcome(status="waiting", message="not begun")) for one in jobs}


def _label(one: Prepared) -> str:
    return f"{one.job.label}, seed {one.job.seed}" if one.job.is_run else one.job.label


def _locked_or_holder(one: Prepared) -> Lock | str:
    """The lock of a job's directory, or what holds it: another process like this, or a command that outlived one."""
    one.directory.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire(one.directory / ".lock")
    except HeldError as error:
        return str(error.strerror)
    state = one.state()
    pid = state.get("pid")
    if isinstance(pid, int) and state.get("status") == "running" and process_start(pid) == state.get("started"):
        lock.release()
        return f"process {pid}"
    return lock


def _begin(one: Prepared, lock: Lock, at_once: int) -> _Attempt:
    """Starts a command in a process group of its own, so that a terminal's Ctrl-C reaches this process only."""
    before = float(one.state().get("seconds", 0.0))
    environment = dict(os.environ)
    if at_once > 1:
        environment.setdefault(THREADS, str(max(1, (os.cpu_count() or 1) // at_once)))
    if not (one.job.is_run or one.output.name == "data"):
        environment[RESULTS_VARIABLE] = str(one.output)
    with _printed(one).open("wb") as out, one.log_file.open("ab") as log:
        process = subprocess.Popen(
            [*PROGRAM, *one.words],
            stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment, process_group=0,
        )  # fmt: skip
    attempt = _Attempt(one=one, lock=lock, process=process, began=time.monotonic(), before=before)
    _save(attempt, "running", before)
    return attempt


def _finish(attempt: _Attempt) -> Outcome:
    """Keeps what a command has printed, or says why it failed."""
    one, status = attempt.one, attempt.process.returncode
    seconds = attempt.before + time.monotonic() - attempt.began
    text = _printed(one).read_text(encoding="utf-8", errors="replace")
    outcome = Outcome(status="done", seconds=seconds)
    if status != 0:
        ended: Status = "stopped" if status in (130, -signal.SIGINT, -signal.SIGTERM) else "failed"
        last = _last_line(one) or f"exit status {status}"
        outcome = Outcome(status=ended, seconds=seconds, message=f"{last} (log: {one.log_file})")
    elif not _is_object(text):
        outcome = Outcome(status="failed", seconds=seconds, message="it printed no JSON object")
    else:
        write_text_atomically(one.result_file, text)
    _save(attempt, outcome.status, seconds)
    remove(_printed(one))
    attempt.lock.release()
    return outcome


def _save(attempt: _Attempt, status: str, seconds: float) -> None:
    """Writes `job.json`."""
    one, pid = attempt.one, attempt.process.pid
    values: dict[str, Any] = {"command": one.command, "status": status, "seconds": round(seconds, 3)}
    if status == "running":
        values |= {"pid": pid, "started": process_start(pid)}
    write_text_atomically(one.job_file, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def _ended(running: dict[str, _Attempt]) -> Iterator[None]:
    """After an error here or a second Ctrl-C, ends the commands under way and waits for them."""
    try:
        yield
    finally:
        for attempt in running.values():
            _signal(attempt, signal.SIGTERM)
        for attempt in running.values():
            attempt.process.wait()
            _finish(attempt)


def _signal(attempt: _Attempt, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(attempt.process.pid, number)


def _printed(one: Prepared) -> Any:
    return one.directory / "printed.json"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _last_line(one: Prepared) -> str:
    """The last line of the log that says something, without spiral's name before it."""
    lines = one.log_file.read_bytes()[-LOG_END:].decode("utf-8", "replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    return one_line(last).removeprefix("spiral: ")
