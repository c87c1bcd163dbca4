r"""Right or wrong: one model's reply against the answer expected.

`grade` and `grade_reply` are the whole interface. They share one `GradingPool`, whose worker process starts when an
answer first needs computer algebra; so no reply can hang its caller, in whatever thread, and sympy is not imported
here. Those who grade thousands of replies own a pool themselves.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Sequence

from spiral.evaluation.reasoning.grading.grader import Grade
from spiral.evaluation.reasoning.grading.pool import GradingItem, GradingPool

__all__ = ["Grade", "grade", "grade_reply"]


def grade(
    reply: str,
    answer: str,
    alt_answers: Sequence[str] = (),
    choices: Sequence[str] | None = None,
    *,
    tolerance: float | None = None,
) -> bool:
    """Whether `reply` gives `answer`, or one of `alt_answers`; with `choices`, `answer` is a letter.

    `tolerance` is the absolute difference that the question allows. Raises `ValueError` when math-verify is needed
    and not installed.
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
    """The same with what was found on the way."""
    item = GradingItem(reply=reply, answer=answer, alt_answers=alt_answers, choices=choices, tolerance=tolerance)
    return _shared_pool(os.getpid()).grade_one(item)


@functools.lru_cache(maxsize=1)
def _shared_pool(_process: int) -> GradingPool:
    """The pool of one process; a forked one must not talk to its parent's worker."""
    pool = GradingPool()
    atexit.register(pool.close)
    return pool
