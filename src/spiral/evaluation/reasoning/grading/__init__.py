r"""Grades a model's reply against the expected answer: right or wrong.

`grade` and `grade_reply` are the interface. They share one `GradingPool`, whose worker process starts when an answer
first needs computer algebra. So no reply can hang its caller, in any thread, and sympy is not imported here.

A reply passes through `extraction` (where is the answer?), then `choices` (for letters) or `equality` (is it the
expected answer?), which uses `normalise` (one spelling), `structure` (lists, intervals, ...), `units`, and `identity`
(expressions by value, read by `expressions`). `symbolic` is the computer algebra in the worker. See docs/grading.md.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Sequence

from spiral.evaluation.reasoning.grading.grader import Grade
from spiral.evaluation.reasoning.grading.pool import GradingItem, GradingPool

__all__ = ["Grade", "grade", "grade_reply", "shared_pool"]


def grade(
    reply: str,
    answer: str,
    alt_answers: Sequence[str] = (),
    choices: Sequence[str] | None = None,
    *,
    tolerance: float | None = None,
) -> bool:
    """Whether `reply` gives the right answer.

    Args:
        reply: The model's whole reply.
        answer: The right answer; with `choices`, a letter.
        alt_answers: Other right answers.
        choices: The texts of the choices A, B, C, ...
        tolerance: The absolute error that the question allows.

    Raises:
        ValueError: math-verify is needed and not installed, or there are more choices than letters.
    """
    return grade_reply(reply, answer, alt_answers, choices, tolerance=tolerance).correct


def grade_reply(
    reply: str,
    answer: str,
    alt_answers: Sequence[str] = (),
    choices: Sequence[str] | None = None,
    *,
    tolerance: float | None = None,
) -> Grade:
    """`grade` with details, such as the answer that was extracted."""
    item = GradingItem(reply=reply, answer=answer, alt_answers=alt_answers, choices=choices, tolerance=tolerance)
    return shared_pool().grade_one(item)


def shared_pool() -> GradingPool:
    """The pool of this process; a forked process gets its own, since it must not use its parent's worker."""
    return _pool_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _pool_of(_process: int) -> GradingPool:
    pool = GradingPool()
    atexit.register(pool.close)
    return pool
