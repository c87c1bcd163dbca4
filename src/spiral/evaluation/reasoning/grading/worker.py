"""The worker process of `GradingPool`: reads questions from standard input, one JSON object per line.

A question holds the arguments of `grade_with`, and its answer is a `Grade`; or it holds an answer for a generated
task's own verifier. The first output line says that the worker is ready. By then computer algebra is imported, so that
no reply pays for it. Each question is answered in a fork with limits on processor time and memory, so it cannot affect
the next one. The limit is processor time, since a busy machine must not make a right answer wrong; a wall-clock limit
only ends forks that sleep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import sys
import time
from typing import Any

from spiral.evaluation.reasoning.grading.grader import GraderError, grade_with
from spiral.evaluation.reasoning.grading.pool import READY, WAIT_FACTOR
from spiral.evaluation.reasoning.grading.symbolic import import_algebra, math_verify_grade, same_by_algebra
from spiral.evaluation.reasoning.procedural import CORRECT, generate_problems, verifier_score

MAX_MEMORY = 2**30
"""Bytes that a fork may use beyond the worker's own."""


def main() -> None:
    """Answers questions until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that a library's prints do not mix with the answers
    with contextlib.suppress(GraderError):  # raised again when it is needed
        import_algebra()
    print(json.dumps(READY), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        limit = float(question.pop("limit"))
        is_guarded = "prepare" not in question and hasattr(os, "fork")
        answer = _in_a_fork(question, limit) if is_guarded else _answer(question)
        print(json.dumps(answer), file=answers, flush=True)


def _in_a_fork(question: dict[str, Any], limit: float) -> dict[str, Any]:
    """The answer of a forked process with `limit` seconds of processor time; it contains "ended" if it was stopped."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.setitimer(signal.ITIMER_PROF, limit)  # SIGPROF ends the process
            _limit_memory()
            with os.fdopen(writing, "w", encoding="utf-8") as file:
                json.dump(_answer(question), file)
        finally:
            os._exit(0)
    os.close(writing)
    output = _read(reading, time.monotonic() + WAIT_FACTOR * limit)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    try:
        answer: dict[str, Any] = json.loads(output)
    except json.JSONDecodeError:
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        is_late = ended in (signal.SIGPROF, signal.SIGKILL)
        return {"ended": "took too long" if is_late else f"ended by signal {ended}", "timed_out": is_late}
    return answer


def _read(file: int, until: float) -> bytes:
    """All bytes before the end of the file or the deadline."""
    content = b""
    with os.fdopen(file, "rb", buffering=0) as stream:
        while select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
            block = stream.read(2**16)
            if not block:
                break
            content += block
    return content


def _answer(item: dict[str, Any]) -> dict[str, Any]:
    try:
        if "prepare" in item:
            generate_problems(**item["prepare"])
            return {"prepared": True}
        if "math_verify" in item:
            return {"right": math_verify_grade(**item["math_verify"])}
        if "verifier" in item:
            return _verified(**item["verifier"])
        return dataclasses.asdict(grade_with(same_by_algebra, **item))
    except ValueError as error:  # a missing package or an invalid question: the parent raises it
        return {"refused": str(error)}


def _verified(reply: str, task: str, items: int, seed: int, index: int, level: int) -> dict[str, Any]:
    """A verifier that raises an error counts as "wrong": each parses replies in its own way."""
    try:
        return {"right": verifier_score(task, items, seed, index, reply, level) >= CORRECT}
    except Exception as error:
        return {"right": False, "error": f"{type(error).__name__}: {error}"[:200]}


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # this system has no such limit
        import resource  # POSIX only

        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MAX_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
