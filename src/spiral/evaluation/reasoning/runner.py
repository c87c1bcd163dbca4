"""A model on a benchmark: sampled replies, graded one by one, and accuracy with its interval.

Accuracy is avg@k, the mean over problems of the share of k samples that are right. Samples of one problem are not
independent, so the interval is Wilson's for the number of independent problems that would vary as much (the design
effect; Kish, 1965). pass@k is the share of problems that at least one of the k samples gets right.

Every attempt is handed on as soon as it is graded, and attempts made before are taken as they are, so a benchmark that
is stopped goes on where it was. A reply depends on the seed, the problem and the number of the sample alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spiral.core.policy import Answerer, Question, TurnReply
from spiral.core.seeds import derive_seed
from spiral.evaluation.reasoning.grading.grade import Grade
from spiral.evaluation.reasoning.problems import Problem
from spiral.evaluation.reasoning.tasks import Task
from spiral.evaluation.statistics import Rate, clustered_rate, wilson

MAX_REASONS = 3


class UnansweredError(RuntimeError):
    """Some questions got no reply at all, so that there is no result yet; the attempts made are kept."""


Key = tuple[str, int]
"""A problem's id and the number of the sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One reply to one problem and its grade."""

    id: str
    sample: int
    prompt: str
    """The text asked, without the template around it."""
    reply: str
    """With the thinking tag in front where the prompt opened it, so that it can be graded by itself."""
    answer: str
    """The gold answer, in the order of choices that was shown."""
    alt_answers: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    extracted: str | None
    correct: bool
    boxed: bool
    timed_out: bool
    error: str | None = None
    """Why the reply could not be graded."""
    truncated: bool
    """Whether the reply ran into its budget."""
    tokens: int
    thinking_tokens: int

    @property
    def key(self) -> Key:
        """What tells attempts apart."""
        return self.id, self.sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """What a model scored."""

    task: str
    model: str
    seed: int
    items: int
    samples: int
    accuracy: Rate
    """avg@k"""
    pass_at_k: Rate
    truncated: float
    """Share of the replies that ran into their budget, or had none."""
    unboxed: float
    """Share of the replies without a boxed answer."""
    too_long: int
    """Problems whose prompt alone fills the model's context."""
    grading_timeouts: int
    response_length: float
    """Mean tokens of a reply."""

    def to_json(self) -> dict[str, Any]:
        """Flat keys: each rate with `_low` and `_high`."""
        flat: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Rate):
                flat |= {field.name: value.value, f"{field.name}_low": value.low, f"{field.name}_high": value.high}
            else:
                flat[field.name] = value
        return flat


GradeReplies = Callable[[Sequence[tuple[Problem, str]]], Sequence[Grade]]


def run_benchmark(
    policy: Answerer,
    task: Task,
    problems: Sequence[Problem],
    *,
    seed: int,
    grade: GradeReplies,
    record: Callable[[Attempt], None] = lambda _: None,
    made: Mapping[Key, Attempt] | None = None,
    in_flight: int = 256,
) -> list[Attempt]:
    """Samples and grades `task.samples` replies to every problem; returns all attempts in the problems' order.

    `made` holds attempts of earlier; they are not made again. `record` gets each new one when it is graded. A problem
    whose prompt fills the model's context gets an empty reply, which is wrong and counts as cut off.

    Raises `UnansweredError` when an endpoint did not answer everything; all it answered was given to `record`.
    """
    attempts: dict[Key, Attempt] = dict(made or {})
    samples = task.samples
    keys = [(index, sample) for index in range(len(problems)) for sample in range(samples)]
    todo = [key for key in keys if (problems[key[0]].id, key[1]) not in attempts]
    waiting = (_question(task, problems, seed, key) for key in todo)
    pending, faults = 0, Counter[str]()
    try:
        while True:
            asked = [request for _, request in zip(range(in_flight - pending), waiting, strict=False)]
            policy.submit_questions(asked)
            pending += len(asked)
            if not pending:
                break
            replies = policy.poll()
            pending -= len(replies)
            faults.update(reply.fault for reply in replies if reply.fault is not None)
            answered = [reply for reply in replies if reply.fault is None]
            for attempt in _graded(task, problems, answered, grade, policy.opening):
                attempts[attempt.key] = attempt
                record(attempt)
    finally:
        policy.cancel()
    if faults:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in faults.most_common(MAX_REASONS))
        raise UnansweredError(f"{faults.total()} of {len(keys)} attempts got no reply: {reasons}")
    return [attempts[problems[index].id, sample] for index, sample in keys]


def graded_again(attempts: Sequence[Attempt], problems: Sequence[Problem], grade: GradeReplies) -> list[Attempt]:
    """The same replies, graded anew."""
    known = {problem.id: problem for problem in problems}
    grades = grade([(known[attempt.id], attempt.reply) for attempt in attempts])
    return [
        dataclasses.replace(attempt, **dataclasses.asdict(given))
        for attempt, given in zip(attempts, grades, strict=True)
    ]


def summarise_attempts(attempts: Sequence[Attempt], task: Task, model: str, seed: int) -> BenchmarkResult:
    """The figures of a benchmark; `attempts` holds the attempts at each problem one after the other."""
    samples = task.samples
    correct = np.array([attempt.correct for attempt in attempts], dtype=float).reshape(-1, samples)
    return BenchmarkResult(
        task=task.name,
        model=model,
        seed=seed,
        items=len(correct),
        samples=samples,
        accuracy=clustered_rate(correct.mean(axis=1), samples),
        pass_at_k=wilson(int(correct.any(axis=1).sum()), len(correct)),
        truncated=float(np.mean([attempt.truncated for attempt in attempts])),
        unboxed=float(np.mean([not attempt.boxed for attempt in attempts])),
        too_long=len({attempt.id for attempt in attempts if attempt.tokens == 0 and attempt.truncated}),
        grading_timeouts=sum(attempt.timed_out for attempt in attempts),
        response_length=float(np.mean([attempt.tokens for attempt in attempts])),
    )


def _question(task: Task, problems: Sequence[Problem], seed: int, key: tuple[int, int]) -> Question:
    index, sample = key
    problem = problems[index]
    return Question(
        key=index * task.samples + sample,
        text=problem.asked(task.prompt),
        seed=derive_seed(seed, "benchmark", task.name, problem.id, sample),
    )


def _graded(
    task: Task, problems: Sequence[Problem], replies: Sequence[TurnReply], grade: GradeReplies, opening: str
) -> list[Attempt]:
    """The replies as attempts; `opening` is the thinking tag where the prompt ends with it."""
    asked = [problems[reply.key // task.samples] for reply in replies]
    texts = [opening + reply.reply for reply in replies]
    grades = grade(list(zip(asked, texts, strict=True)))
    return [
        _attempt(task, problem, reply, text, given)
        for problem, reply, text, given in zip(asked, replies, texts, grades, strict=True)
    ]


def _attempt(task: Task, problem: Problem, reply: TurnReply, text: str, grade: Grade) -> Attempt:
    length = reply.length
    assert length is not None
    return Attempt(
        id=problem.id,
        sample=reply.key % task.samples,
        prompt=problem.asked(task.prompt),
        reply=text,
        answer=problem.answer,
        alt_answers=problem.alt_answers,
        choices=problem.choices,
        extracted=grade.extracted,
        correct=grade.correct,
        boxed=grade.boxed,
        timed_out=grade.timed_out,
        error=grade.error,
        truncated=length.truncated,
        tokens=length.tokens,
        thinking_tokens=length.thinking_tokens,
    )
