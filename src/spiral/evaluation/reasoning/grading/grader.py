r"""The verdict on one reply: its answer found by `answers`, compared by `choices` or `equality`.

Where letters are offered the answer is a letter; elsewhere an expression, a list, an interval, a text. Nearly all is
decided by exact arithmetic in well under a millisecond. What only a computer algebra system could decide is put to a
fallback, which the caller brings: `symbolic` in a process of its own. A reply is never an error: what cannot be read,
or would take too much to compute, is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from spiral.evaluation.reasoning.grading.choices import check_choices, chosen, letter_of
from spiral.evaluation.reasoning.grading.equality import Fallback, equal
from spiral.evaluation.reasoning.grading.extraction import find_answer
from spiral.evaluation.reasoning.grading.normalise import clean
from spiral.evaluation.reasoning.grading.work_limit import bounded_work

LONGEST_ANSWER = 2_000
"""Characters; a longer answer is only compared as it stands."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grade:
    """What became of a reply."""

    correct: bool
    extracted: str | None
    """The answer as the reply states it, None where it states none."""
    boxed: bool
    """Whether it stands in a box."""
    timed_out: bool = False
    """Whether grading was cut off; the reply then counts as wrong."""
    error: str | None = None
    """Why the reply could not be graded, in which case it counts as wrong."""


class AskElsewhereError(Exception):
    """Raised by a fallback that leaves the reply to another process."""


class GraderError(ValueError):
    """A fault of the grader or of the question, and not of the reply: a missing package, too many choices."""


def grade_with(
    fallback: Fallback,
    reply: str,
    answer: str,
    alt_answers: Sequence[str] = (),
    choices: Sequence[str] | None = None,
    tolerance: float | None = None,
) -> Grade:
    """The grade of a reply; `fallback` judges what exact arithmetic cannot decide."""
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
    if len(extracted) > LONGEST_ANSWER:
        return extracted in answers
    if choices:
        letter = chosen(extracted, choices)
        return letter is not None and letter in [letter_of(answer) for answer in answers]
    return any(_matches(extracted, answer, tolerance, fallback) for answer in answers)


def _matches(extracted: str, answer: str, tolerance: float | None, fallback: Fallback) -> bool:
    """One expected answer; a letter in parentheses is a choice that the question lists."""
    if clean(answer).startswith(r"\text{(") and letter_of(answer) is not None:
        return letter_of(extracted) == letter_of(answer)
    return equal(answer, extracted, tolerance, fallback)
