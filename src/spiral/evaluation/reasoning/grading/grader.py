r"""Grades one reply: `extraction` finds its answer, `choices` or `equality` compares it.

With choices the answer is a letter; otherwise an expression, a list, an interval or a text. Exact arithmetic decides
nearly all replies in well under a millisecond. Those that only a computer algebra system could decide go to a fallback
that the caller provides, such as `symbolic` in a separate process. A reply never raises an error: if it cannot be
parsed, or takes too much work, it is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from spiral.evaluation.reasoning.grading.choices import check_choices, chosen, letter_of
from spiral.evaluation.reasoning.grading.equality import Fallback, equal
from spiral.evaluation.reasoning.grading.extraction import find_answer
from spiral.evaluation.reasoning.grading.normalise import clean
from spiral.evaluation.reasoning.grading.work_limit import bounded_work

MAX_ANSWER_LENGTH = 2_000
"""Characters; a longer answer is only compared as text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grade:
    """The grade of one reply."""

    correct: bool
    extracted: str | None
    """The answer as the reply states it, or None."""
    boxed: bool
    """Whether the answer is boxed."""
    timed_out: bool = False
    """Whether grading ran into its time limit; the reply then counts as wrong."""
    error: str | None = None
    """Why grading failed, if it did; the reply then counts as wrong."""


class AskElsewhereError(Exception):
    """Raised by a fallback to have the reply graded in another process."""


class GraderError(ValueError):
    """A problem with the grader or the question rather than the reply: a missing package, too many choices."""


def grade_with(
    fallback: Fallback,
    reply: str,
    answer: str,
    alt_answers: Sequence[str] = (),
    choices: Sequence[str] | None = None,
    tolerance: float | None = None,
) -> Grade:
    """The grade of a reply; `fallback` compares expressions that exact arithmetic cannot decide."""
    extracted, boxed = find_answer(reply)
    if not extracted:
        return Grade(correct=False, extracted=extracted, boxed=boxed)
    if choices:
        check_choices(choices)
    try:
        with bounded_work():
            correct = _is_right(extracted, (answer, *alt_answers), choices, tolerance, fallback)
    except (AskElsewhereError, GraderError):
        raise
    except Exception as error:  # a reply is never an error, whatever is in it
        return Grade(correct=False, extracted=extracted, boxed=boxed, error=f"{type(error).__name__}: {error}"[:200])
    return Grade(correct=correct, extracted=extracted, boxed=boxed)


def _is_right(
    extracted: str, answers: Sequence[str], choices: Sequence[str] | None, tolerance: float | None, fallback: Fallback
) -> bool:
    if len(extracted) > MAX_ANSWER_LENGTH:
        return extracted in answers
    if choices:
        letter = chosen(extracted, choices)
        return letter is not None and letter in [letter_of(answer) for answer in answers]
    return any(_matches(extracted, answer, tolerance, fallback) for answer in answers)


def _matches(extracted: str, answer: str, tolerance: float | None, fallback: Fallback) -> bool:
    """Compares with one expected answer; a letter in parentheses is a choice that the question lists."""
    if clean(answer).startswith(r"\text{(") and letter_of(answer) is not None:
        return letter_of(extracted) == letter_of(answer)
    return equal(answer, extracted, tolerance, fallback)
