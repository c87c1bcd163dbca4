"""Grading with a hard time limit, in any thread and any process.

Replies that exact arithmetic can decide are graded at once. The others, on which a computer algebra system might never
finish, go to one worker process, which starts with the first such reply and limits the processor time and memory of
each (`worker`). A worker that does not answer is killed and the reply counts as timed out; the next reply gets a new
worker. The pool uses no signals, so it works outside the main thread, and no fork, so it works in any process.
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
from spiral.text.thinking import split_reply

TIME_LIMIT = 1.5
"""Seconds of processor time for one reply."""
WAIT_FACTOR = 10
"""Wall-clock limit as a multiple of `TIME_LIMIT`, since the machine may be busy."""
START_LIMIT = 120.0
"""Seconds that a worker may take to start; it imports sympy."""
READY = "ready"
"""The first line of a worker's output."""
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
    """A reply to a generated problem (`procedural`), for that task's own verifier."""

    reply: str
    task: str
    items: int
    seed: int
    index: int
    level: int = 0


class GradingPool:
    """Grades items one after another, with at most one worker process; safe to share between threads."""

    def __init__(self, time_limit: float = TIME_LIMIT, worker: Sequence[str] = WORKER) -> None:
        """`time_limit` is in seconds of processor time per item; `worker` is the command that runs a worker."""
        if not time_limit > 0:
            raise ValueError(f"time_limit is {time_limit}; expected a positive number of seconds")
        self.time_limit = time_limit
        self._command = tuple(worker)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._prepared: set[tuple[Any, ...]] = set()
        """The generated tasks whose problems the current worker has in memory."""

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
        """The grade by the task's own verifier, which runs in the worker."""
        extracted, boxed = find_answer(item.reply)
        if not extracted:
            return Grade(correct=False, extracted=extracted, boxed=boxed)
        problems = {"task": item.task, "items": item.items, "seed": item.seed, "level": item.level}
        if tuple(problems.values()) not in self._prepared:  # generating the problems does not count towards the limit
            if "ended" in self._ask({"prepare": problems}, START_LIMIT):
                raise RuntimeError(f"the grading worker did not generate {item.task} within {START_LIMIT:g} s")
            self._prepared.add(tuple(problems.values()))
        answer = self._ask({"verifier": {**problems, "index": item.index, "reply": extracted}})
        if "ended" in answer:
            return self._failed(item.reply, answer)
        return Grade(correct=bool(answer["right"]), extracted=extracted, boxed=boxed, error=answer.get("error"))

    def math_verify(self, item: GradingItem) -> bool:
        """math-verify's own grade of a reply, for comparison with other papers; False beyond the time limit.

        Thoughts are removed first; choices and tolerance are ignored. Raises `GraderError` if math-verify is not
        installed.
        """
        reply = split_reply(item.reply)
        question = {
            "reply": reply.answer if reply.delimited else item.reply,
            "answers": [item.answer, *item.alt_answers],
        }
        return bool(self._ask({"math_verify": question}).get("right", False))

    def close(self) -> None:
        """Stops the worker, if there is one."""
        with self._lock:
            self._stop()

    def _failed(self, reply: str, answer: dict[str, Any]) -> Grade:
        extracted, boxed = find_answer(reply)
        late = bool(answer["timed_out"])
        return Grade(
            correct=False, extracted=extracted, boxed=boxed, timed_out=late, error=None if late else answer["ended"]
        )

    def _ask(self, question: dict[str, Any], wait: float | None = None) -> dict[str, Any]:
        """The worker's answer; it contains "ended" if the reply took too long or the worker died."""
        if wait is None:
            wait = (WAIT_FACTOR + 1) * self.time_limit  # the worker itself waits less
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
            stderr=subprocess.DEVNULL,  # sympy's own messages
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
            raise RuntimeError(f"the grading worker did not start: {' '.join(self._command)} printed {first[:200]!r}")

    def _stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        self._prepared.clear()
        if self._owner != os.getpid():  # a fork: the parent still needs its worker
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # unwritten data has no reader any more
                    stream.close()


def _arguments(item: GradingItem) -> dict[str, Any]:
    arguments = dataclasses.asdict(item)
    return arguments | {"alt_answers": list(item.alt_answers), "choices": item.choices and list(item.choices)}


def _undecided(expected: str, given: str) -> bool:
    """The fallback of the caller's process: leaves tractable expressions to the worker."""
    if not is_tractable(expected, given):
        return False
    raise AskElsewhereError


def _forward(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Queues the worker's output lines, and an empty line when it has ended."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError):  # stopping the worker closes the stream under this thread
        for line in process.stdout:
            lines.put(line)
    lines.put("")
