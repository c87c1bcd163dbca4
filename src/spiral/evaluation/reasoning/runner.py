"""A model on a benchmark: sampled replies, graded one by one, and accuracy with its interval.

Accuracy is avg@k, the mean over problems of the share of k samples that are right. Samples of one problem are not
independent, so the interval is Wilson's for the number of independent problems that would vary as much (the design
effect; Kish, 1965). pass@k is the share of problems that at least one of the k samples gets right.

Every attempt is written as soon as it is graded, so a benchmark that was stopped continues where it was. A reply
depends only on the seed, the problem and the number of the sample.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from spiral.core.policy import Answerer, Question, SamplingConfig, TurnReply
from spiral.core.seeds import derive_seed
from spiral.core.settings import checked
from spiral.evaluation.answering import UnansweredError, replies_to
from spiral.evaluation.reasoning.grading import Grade, shared_pool
from spiral.evaluation.reasoning.grading.pool import GradingItem, VerifierItem
from spiral.evaluation.reasoning.problems import Problem, load_problems
from spiral.evaluation.reasoning.shots import with_shots
from spiral.evaluation.reasoning.tasks import Task, load_task, samples_of
from spiral.evaluation.results import ResultDirectory, describe_player, endpoint_usage, result_directory
from spiral.evaluation.statistics import Rate, clustered_rate, flat_rates, wilson

MAX_REASONS = 3
"""Reasons for missing replies that an error lists."""
Key = tuple[str, int]
"""A problem's id and the number of the sample."""
OnAttempt = Callable[["Attempt"], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task with its problems and the seed of the replies; `task` holds the sampling and the number of samples."""

    task: Task
    problems: Sequence[Problem]
    shots: int = 0
    """Worked examples before each question."""
    seed: int

    @property
    def attempts(self) -> int:
        """Number of replies in all."""
        return len(self.problems) * self.task.samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One reply to one problem and its grade."""

    id: str
    sample: int
    prompt: str
    """The question, without the chat template around it."""
    reply: str
    """Begins with the thinking tag if the prompt opened it, so that the reply can be graded by itself."""
    answer: str
    """The right answer; a letter refers to the order of choices that the model saw."""
    alt_answers: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    extracted: str | None
    correct: bool
    boxed: bool
    timed_out: bool
    error: str | None = None
    """Why grading failed, if it did."""
    math_verify: bool | None = None
    """math-verify's own grade, if it was requested."""
    truncated: bool
    """Whether the reply ran into its budget."""
    tokens: int
    thinking_tokens: int

    @property
    def key(self) -> Key:
        """Identifies the attempt within a benchmark."""
        return self.id, self.sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """The scores of a model on a task."""

    task: str
    model: str
    seed: int
    items: int
    samples: int
    shots: int = 0
    """Worked examples before each question."""
    accuracy: Rate
    """avg@k"""
    math_verify: Rate | None
    """avg@k by math-verify's own grades, as other papers report it; None unless every attempt has one."""
    pass_at_k: Rate
    truncated: float
    """Share of the replies that ran into their budget, or had none."""
    unboxed: float
    """Share of the replies without a boxed answer."""
    too_long: int
    """Number of problems whose prompt alone fills the model's context."""
    grading_timeouts: int
    response_length: float
    """Mean tokens per reply."""

    def to_json(self) -> dict[str, Any]:
        """Flat keys: each rate with `_low` and `_high`."""
        return flat_rates(self)


def load_benchmark(
    name: str,
    *,
    data: Path | None = None,
    limit: int | None = None,
    samples: int | None = None,
    protocol: str = "v3",
    shots: int = 0,
    shots_data: Path | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """The task called `name` with its problems, from the hub or the file `data`; None keeps the task's own setting.

    Args:
        name: Of the task.
        data: A file of problems in place of the hub's.
        limit: Draw that many problems by the seed.
        samples: Replies to each problem; None takes those of `protocol`, the version of the paper.
        protocol: "v3" or "v1".
        shots: Worked examples before each question (`spiral.evaluation.reasoning.shots`).
        shots_data: A file of such examples in place of the hub's.
        temperature: Of the replies; so `top_p` and `max_new_tokens`.
        top_p: See there.
        max_new_tokens: See there.
        seed: Draws problems, choices and replies.

    Raises:
        ValueError: The task is unknown, a value is out of range, or problems or examples cannot be loaded.
    """
    task = load_task(name)
    options = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    given = {option: value for option, value in options.items() if value is not None}
    sampling = checked(SamplingConfig, {**task.sampling.model_dump(), **given})
    usual = samples_of(task, protocol)
    task = dataclasses.replace(task, samples=samples or usual, sampling=sampling)

    def prepare(problems: list[Problem]) -> list[Problem]:
        return with_shots(problems, task, shots, shots_data) if shots else problems

    if shots and task.kind == "gym":
        raise ValueError(f"{task.name} generates its problems, and has no worked examples")
    problems = load_problems(task, data, limit, seed, prepare)
    return Benchmark(task=task, problems=problems, shots=shots, seed=seed)


def benchmark_directory(policy: Answerer, benchmark: Benchmark, model: str, out: Path | None = None) -> ResultDirectory:
    """The result directory; it is the same for the same weights, prompt, problems, sampling and seed."""
    task = benchmark.task
    with policy.sampled_with(task.sampling):
        player = describe_player(model, policy)
    settings = {
        "model": player,
        "task": task.name,
        "prompt": task.prompt,
        "samples": task.samples,
        "seed": benchmark.seed,
        "problems": len(benchmark.problems),
        "problems_sha256": _fingerprint(benchmark.problems),
        "source": None if task.source is None else dataclasses.asdict(task.source),
        **({"shots": benchmark.shots} if benchmark.shots else {}),
    }
    return result_directory("benchmark", f"{task.name}-{Path(model).name}", settings, model=model, out=out)


def run_benchmark(
    policy: Answerer,
    benchmark: Benchmark,
    model: str,
    *,
    directory: ResultDirectory | None = None,
    fresh: bool = False,
    regrade: bool = False,
    math_verify: bool = False,
    in_flight: int = 256,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[BenchmarkResult, list[Attempt]]:
    """Makes the attempts that `directory` does not hold yet, and computes the result.

    Args:
        policy: The model.
        benchmark: The problems, their sampling and the seed.
        model: The model's name in the result.
        directory: Where attempts and result are written; None writes nothing.
        fresh: Make every attempt again.
        regrade: Grade the kept replies again.
        math_verify: Also have math-verify grade the replies, if it is installed and the answers are not letters.
        in_flight: Upper bound on the replies being generated at once.
        on_progress: Called with the number of attempts that are done.

    Raises:
        ValueError: Another process writes to `directory`.
        UnansweredError: An endpoint left questions unanswered.
    """
    task = benchmark.task
    with contextlib.nullcontext() if directory is None else directory.locked():
        kept = _kept_attempts(directory, fresh)

        def record(attempt: Attempt) -> None:
            if directory is not None:
                directory.append_item(dataclasses.asdict(attempt))
            kept[attempt.key] = attempt
            on_progress(len(kept))

        on_progress(len(kept))
        problems = {problem.id: problem for problem in benchmark.problems}
        kept = {
            key: _regraded(task, problems[attempt.id], attempt, regrade=regrade, math_verify=math_verify)
            for key, attempt in kept.items()
        }
        with policy.sampled_with(task.sampling):
            attempts = _sample(policy, benchmark, record, kept, math_verify, in_flight)
        result = dataclasses.replace(summarise_attempts(attempts, task, model, benchmark.seed), shots=benchmark.shots)
        if directory is not None:
            directory.write(result.to_json(), items=map(dataclasses.asdict, attempts), endpoints=endpoint_usage(policy))
    return result, attempts


def read_attempts(directory: ResultDirectory) -> list[Attempt]:
    """The attempts that a result directory holds. Raises `ValueError` if its records are of another kind."""
    try:
        return [_read_attempt(record) for record in directory.read_items()]
    except TypeError as error:
        raise ValueError(
            f"{directory.items_file} holds records that are not attempts; run the benchmark again with --fresh"
        ) from error


def summarise_attempts(attempts: Sequence[Attempt], task: Task, model: str, seed: int) -> BenchmarkResult:
    """The result of `attempts`, which are ordered by problem, all samples of a problem together."""
    samples = task.samples
    correct = np.array([attempt.correct for attempt in attempts], dtype=float).reshape(-1, samples)
    return BenchmarkResult(
        task=task.name,
        model=model,
        seed=seed,
        items=len(correct),
        samples=samples,
        accuracy=clustered_rate(correct.mean(axis=1), samples),
        math_verify=_math_verify_rate(attempts, samples),
        pass_at_k=wilson(int(correct.any(axis=1).sum()), len(correct)),
        truncated=float(np.mean([attempt.truncated for attempt in attempts])),
        unboxed=float(np.mean([not attempt.boxed for attempt in attempts])),
        too_long=len({attempt.id for attempt in attempts if attempt.tokens == 0 and attempt.truncated}),
        grading_timeouts=sum(attempt.timed_out for attempt in attempts),
        response_length=float(np.mean([attempt.tokens for attempt in attempts])),
    )


def grade_problem(task: Task, problem: Problem, reply: str) -> Grade:
    """The grade of a reply to a problem of the task, in this process's shared grading pool.

    Answers and letters are graded by `grading`, generated problems by reasoning-gym's verifiers.
    """
    if problem.generated is not None:
        items, seed, index = problem.generated
        return shared_pool().verify(VerifierItem(reply=reply, task=task.name, items=items, seed=seed, index=index))
    return shared_pool().grade_one(_grading_item(problem, reply))


def _math_verify(task: Task, problem: Problem, reply: str) -> bool | None:
    """math-verify's own grade; None if it is not installed, and for letters and generated problems."""
    if task.kind != "answer" or find_spec("math_verify") is None:
        return None
    return shared_pool().math_verify(_grading_item(problem, reply))


def _grading_item(problem: Problem, reply: str) -> GradingItem:
    return GradingItem(
        reply=reply,
        answer=problem.answer,
        alt_answers=problem.alt_answers,
        choices=problem.choices,
        tolerance=problem.tolerance,
    )


def _sample(
    policy: Answerer,
    benchmark: Benchmark,
    on_attempt: OnAttempt,
    kept: Mapping[Key, Attempt],
    math_verify: bool,
    in_flight: int,
) -> list[Attempt]:
    """All attempts in the problems' order; those in `kept` are not made again.

    A problem whose prompt fills the model's context gets an empty reply, which is wrong and counts as truncated.
    """
    problems, samples = benchmark.problems, benchmark.task.samples
    keys = [(index, sample) for index in range(len(problems)) for sample in range(samples)]
    attempts = dict(kept)
    waiting = (_question(benchmark, key) for key in keys if (problems[key[0]].id, key[1]) not in attempts)
    faults = Counter[str]()
    with contextlib.closing(replies_to(policy, waiting, in_flight)) as replies:
        for reply in replies:
            if reply.fault is not None:
                faults[reply.fault] += 1
                continue
            attempt = _attempt(benchmark, reply, policy.opening, math_verify)
            attempts[attempt.key] = attempt
            on_attempt(attempt)
    if faults:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in faults.most_common(MAX_REASONS))
        raise UnansweredError(f"{faults.total()} of {len(keys)} attempts got no reply: {reasons}")
    return [attempts[problems[index].id, sample] for index, sample in keys]


def _question(benchmark: Benchmark, key: tuple[int, int]) -> Question:
    index, sample = key
    task, problem = benchmark.task, benchmark.problems[index]
    return Question(
        key=index * task.samples + sample,
        text=problem.prompt(task.prompt),
        seed=derive_seed(benchmark.seed, "benchmark", task.name, problem.id, sample),
    )


def _attempt(benchmark: Benchmark, reply: TurnReply, opening: str, math_verify: bool) -> Attempt:
    """A reply as a graded attempt; `opening` is the thinking tag if the prompt ends with it."""
    task = benchmark.task
    index, sample = divmod(reply.key, task.samples)
    problem, text, length = benchmark.problems[index], opening + reply.reply, reply.length
    assert length is not None
    return Attempt(
        id=problem.id,
        sample=sample,
        prompt=problem.prompt(task.prompt),
        reply=text,
        answer=problem.answer,
        alt_answers=problem.alt_answers,
        choices=problem.choices,
        **dataclasses.asdict(grade_problem(task, problem, text)),
        math_verify=_math_verify(task, problem, text) if math_verify else None,
        truncated=length.truncated,
        tokens=length.tokens,
        thinking_tokens=length.thinking_tokens,
    )


def _regraded(task: Task, problem: Problem, attempt: Attempt, *, regrade: bool, math_verify: bool) -> Attempt:
    """A kept attempt, graded again if `regrade`, and with math-verify's grade if that is wanted and missing."""
    if regrade:
        grade = grade_problem(task, problem, attempt.reply)
        attempt = dataclasses.replace(attempt, **dataclasses.asdict(grade), math_verify=None)
    if math_verify and attempt.math_verify is None:
        return dataclasses.replace(attempt, math_verify=_math_verify(task, problem, attempt.reply))
    return attempt


def _math_verify_rate(attempts: Sequence[Attempt], samples: int) -> Rate | None:
    grades = [attempt.math_verify for attempt in attempts]
    if any(grade is None for grade in grades):
        return None
    return clustered_rate(np.array(grades, dtype=float).reshape(-1, samples).mean(axis=1), samples)


def _kept_attempts(directory: ResultDirectory | None, fresh: bool) -> dict[Key, Attempt]:
    """The attempts that earlier runs of the same benchmark left in `directory`; with `fresh` they are deleted."""
    if directory is None:
        return {}
    if fresh:
        directory.result_file.unlink(missing_ok=True)  # first, since it says that the attempts are complete
        directory.items_file.unlink(missing_ok=True)
    return {attempt.key: attempt for attempt in read_attempts(directory)}


def _read_attempt(record: dict[str, Any]) -> Attempt:
    choices = record.get("choices")
    values = {**record, "alt_answers": tuple(record.get("alt_answers", ())), "choices": choices and tuple(choices)}
    return Attempt(**values)


def _fingerprint(problems: Sequence[Problem]) -> str:
    """One hash over all questions, with their worked examples, and right answers."""
    content: list[Any] = [
        (
            *(p.id, p.question, p.answer, p.alt_answers, p.choices),
            *(() if p.tolerance is None else (p.tolerance,)),
            *((p.shots,) if p.shots else ()),
        )
        for p in problems
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
