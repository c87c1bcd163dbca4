"""The grader of a task: answers and letters by `grading`, problems made from a seed by their own verifiers."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from spiral.evaluation.reasoning.grading.grade import Grade
from spiral.evaluation.reasoning.grading.pool import GradingItem, GradingPool, VerifierItem
from spiral.evaluation.reasoning.problems import Problem
from spiral.evaluation.reasoning.tasks import Task


class Grader:
    """Grades replies to a task's problems; a context, since it owns a process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._pool = GradingPool()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.close()

    def grade(self, replies: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """The grade of each `(problem, reply)`, in order."""
        return [self._grade(problem, reply) for problem, reply in replies]

    def _grade(self, problem: Problem, reply: str) -> Grade:
        if problem.made is not None:
            items, seed, index = problem.made
            return self._pool.verify(
                VerifierItem(reply=reply, task=self._task.name, items=items, seed=seed, index=index)
            )
        return self._pool.grade_one(
            GradingItem(
                reply=reply,
                answer=problem.answer,
                alt_answers=problem.alt_answers,
                choices=problem.choices,
                tolerance=problem.tolerance,
            )
        )
