"""Grading with a hard limit on time, in any thread and any process.

What exact arithmetic decides is graded at once. The rest, for which a computer algebra system might take for ever, goes
to one worker process, which is started when the first such reply comes. It gives each reply so much processor time and
memory (`grading_worker`). A worker that does not answer at all is killed and the reply counts as timed out; the next
one gets a new worker. No signals here, so nothing depends on the main thread, and no fork, so nothing depends on what
else the process holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from spiral.evaluation.reasoning.grading.extraction import find_answer
from spiral.evaluation.reasoning.grading.grader import AskElsewhereError, Grade, GraderError, grade_with
from spiral.evaluation.reasoning.grading.symbolic import is_tractable

TIME_LIMIT = 1.5
"""Seconds of processor time for one reply."""
WAIT = 10
"""How many times as long, by the clock, a reply is waited for: the machine may be busy."""
START_LIMIT = 120.0
"""Seconds that a worker may take to start; it imports the package first."""
READY = "ready"
"""What a worker says first."""
WORKER = (sys.executable, "-m", "spiral.evaluation.reasoning.grading.worker")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradingItem:
    """The arguments of `grade_reply`."""

    reply: str
    answer: str
    alt_answers: Sequence[str] = ()
    choices: Sequence[str] | None = None
    tolerance: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifierItem:
    """A reply to a problem that was made from a seed (`procedural`), for that task's own verifier."""

    reply: str
    task: str
    items: int
    seed: int
    index: int


class GradingPool:
    """Grades items one after another; owns at most one worker process. Threads take turns."""

    def __init__(self, time_limit: float = TIME_LIMIT, worker: Sequence[str] = WORKER) -> None:
        """`time_limit` in seconds for one item; `worker` is the command that runs a worker."""
        if not time_limit > 0:
            raise ValueError(f"time_limit is {time_limit}; expected a positive number of seconds")
        self.time_limit = time_limit
        self._command = tuple(worker)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._prepared: set[tuple[Any, ...]] = set()
        """What the present worker has made the problems of."""

    def __enter__(self) -> GradingPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def grade(self, items: Iterable[GradingItem]) -> list[Grade]:
        """The grade of every item, in order."""
        return [self.grade_one(item) for item in items]

    def grade_one(self, item: GradingItem) -> Grade:
        """The grade of one item."""
        try:
            return grade_with(_undecided, **_arguments(item))
        except AskElsewhereError:
            answer = self._ask(_arguments(item))
            return self._failed(item.reply, answer) if "ended" in answer else Grade(**answer)

    def verify(self, item: VerifierItem) -> Grade:
        """The grade that the task's verifier gives; all of its work is done by the worker."""
        extracted, boxed = find_answer(item.reply)
        if not extracted:
            return Grade(correct=False, extracted=extracted, boxed=boxed)
        made = {"task": item.task, "items": item.items, "seed": item.seed}
        if tuple(made.values()) not in self._prepared:  # making the problems is not the reply's fault
            if "ended" in self._ask({"prepare": made}, START_LIMIT):
                raise RuntimeError(f"the grading worker did not make the problems of {item.task} in {START_LIMIT:g} s")
            self._prepared.add(tuple(made.values()))
        answer = self._ask({"verifier": {**made, "index": item.index, "reply": extracted}})
        if "ended" in answer:
            return self._failed(item.reply, answer)
        return Grade(correct=bool(answer["right"]), extracted=extracted, boxed=boxed, error=answer.get("error"))

    def close(self) -> None:
        """Ends the worker, if there is one."""
        with self._lock:
            self._stop()

    def _failed(self, reply: str, answer: dict[str, Any]) -> Grade:
        extracted, boxed = find_answer(reply)
        late = bool(answer["timed_out"])
        return Grade(
            correct=False, extracted=extracted, boxed=boxed, timed_out=late, error=None if late else answer["ended"]
        )

    def _ask(self, question: dict[str, Any], wait: float | None = None) -> dict[str, Any]:
        """What the worker says; with "ended" in it when the reply takes too long or the worker dies."""
        if wait is None:
            wait = (WAIT + 1) * self.time_limit  # the worker itself waits less
        with self._lock:
            try:
                self._start()
                assert self._process is not None
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps({**question, "limit": self.time_limit}) + "\n")
                self._process.stdin.flush()
                answer: dict[str, Any] = json.loads(self._lines.get(timeout=wait))
            except (queue.Empty, OSError, json.JSONDecodeError):
                self._stop()
                return {"ended": "the grading worker did not answer", "timed_out": True}
        if "refused" in answer:
            raise GraderError(answer["refused"])
        return answer

    def _start(self) -> None:
        """Starts a worker unless one is running, and waits until it is ready."""
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        self._lines = queue.Queue()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what sympy prints belongs to no one
            encoding="utf-8",
            errors="replace",
        )
        threading.Thread(target=_forward, args=(self._process, self._lines), daemon=True).start()
        try:
            first = self._lines.get(timeout=START_LIMIT)
        except queue.Empty:
            first = ""
        if first.strip() != json.dumps(READY):
            self._stop()
            raise RuntimeError(f"the grading worker did not start: {' '.join(self._command)} said {first[:200]!r}")

    def _stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        self._prepared.clear()
        if self._owner != os.getpid():  # a fork of the owner, which still needs its worker
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was left to be written has no reader any more
                    stream.close()


def _arguments(item: GradingItem) -> dict[str, Any]:
    arguments = dataclasses.asdict(item)
    return arguments | {"alt_answers": list(item.alt_answers), "choices": item.choices and list(item.choices)}


def _undecided(expected: str, given: str) -> bool:
    """Leaves to a worker what is worth trying."""
    if not is_tractable(expected, given):
        return False
    raise AskElsewhereError


def _forward(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Hands on what a worker says; an empty line when it is gone."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError):  # the stream is closed under the thread when the worker is stopped
        for line in process.stdout:
            lines.put(line)
    lines.put("")
