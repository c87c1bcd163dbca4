r"""Whether the right answers of a data file can be right at all: a reply with just the answer in its box has to be.

Where it is not, every reply would count as wrong, and the file is refused. An answer that looks like a worked solution
passes that test and no other reply would: of those there is a warning, with the lines.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spiral.evaluation.reasoning.grading.pool import GradingItem, GradingPool

if TYPE_CHECKING:
    from spiral.evaluation.reasoning.problems import Problem

logger = logging.getLogger(__name__)

MAX_WORDS = 12
"""Of an answer; more are a sentence."""
MAX_NAMED = 3
MAX_SHOWN = 80


def check_golds(problems: Sequence[Problem], numbers: Sequence[int], source: str) -> None:
    """Raises `ValueError` for answers that do not count as right themselves; warns of those that look like solutions.

    Args:
        problems: Of a data file.
        numbers: The line of each.
        source: What messages call the file.
    """
    with GradingPool() as pool:
        wrong = [
            (number, problem.answer)
            for number, problem in zip(numbers, problems, strict=True)
            if not pool.grade_one(_itself(problem)).correct
        ]
    if wrong:
        raise ValueError(
            f"{source}: {len(wrong)} of {len(problems)} answers would count as wrong if a reply gave just them in a"
            f" box: {_named(wrong)}; expected the final answer alone, such as 18 or \\frac{{1}}{{2}}"
        )
    worked = [
        (number, problem.answer)
        for number, problem in zip(numbers, problems, strict=True)
        if problem.choices is None and _is_worked(problem.answer)
    ]
    if worked:
        logger.warning(
            "%s: %d of %d answers look like worked solutions, and a reply with the final answer alone will count as"
            " wrong: %s; expected the final answer alone, or after ####, or in a \\boxed{} of a field solution",
            source,
            len(worked),
            len(problems),
            _named(worked),
        )


def _itself(problem: Problem) -> GradingItem:
    """The reply that gives the right answer in a box, and nothing else."""
    return GradingItem(
        reply=f"\\boxed{{{problem.answer}}}",
        answer=problem.answer,
        choices=problem.choices,
        tolerance=problem.tolerance,
    )


def _is_worked(answer: str) -> bool:
    """Whether an answer is more than a final one: several lines that are no matrix, or a sentence."""
    lines = [line for line in answer.splitlines() if line.strip()]
    words = [word for word in answer.split() if word.strip(".,;:!?()").isalpha()]
    in_lines = len(lines) > 1 and "\\begin" not in answer
    return "<<" in answer or in_lines or len(words) > MAX_WORDS


def _named(answers: Sequence[tuple[int, str]]) -> str:
    """The first few lines and what they hold, shortened."""
    shown = [
        f"line {number}: {answer if len(answer) <= MAX_SHOWN else answer[:MAX_SHOWN] + '...'!r}"
        for number, answer in answers[:MAX_NAMED]
    ]
    return ", ".join([*shown, *(["..."] if len(answers) > MAX_NAMED else [])])
