"""One benchmark measured and kept: attempts as they are made, the result at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spiral.core.policy import Answerer, SamplingConfig
from spiral.core.settings import checked
from spiral.evaluation.reasoning.grader import Grader
from spiral.evaluation.reasoning.problems import Problem, load_problems
from spiral.evaluation.reasoning.runner import (
    Attempt,
    BenchmarkResult,
    Key,
    graded_again,
    run_benchmark,
    summarise_attempts,
)
from spiral.evaluation.reasoning.tasks import Task, load_task
from spiral.evaluation.results import ResultDirectory, asked_of, describe_player, result_directory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is asked, how often, and by which seed."""

    task: Task
    """Its sampling and number of samples count."""
    problems: Sequence[Problem]
    seed: int

    @property
    def attempts(self) -> int:
        """Replies in all."""
        return len(self.problems) * self.task.samples


def load_benchmark(
    name: str,
    *,
    data: Path | None = None,
    limit: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """The task of a name with its problems, from the hub or the file `data`; None leaves what the task says.

    Raises `ValueError` for unknown tasks, values out of range, and problems that cannot be had.
    """
    known = load_task(name)
    asked = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    given = {option: value for option, value in asked.items() if value is not None}
    sampling = checked(SamplingConfig, {**known.sampling.model_dump(), **given})
    task = dataclasses.replace(known, samples=samples or known.samples, sampling=sampling)
    return Benchmark(task=task, problems=load_problems(task, data, limit, seed), seed=seed)


def benchmark_directory(policy: Answerer, benchmark: Benchmark, model: str, out: Path | None = None) -> ResultDirectory:
    """Where the benchmark of a model is kept; the same for the same weights, prompt, problems, sampling and seed."""
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
    }
    return result_directory("benchmark", f"{task.name}-{Path(model).name}", settings, model=model, out=out)


def measure_benchmark(
    policy: Answerer,
    benchmark: Benchmark,
    model: str,
    *,
    place: ResultDirectory | None = None,
    fresh: bool = False,
    regrade: bool = False,
    in_flight: int = 256,
    tell: Callable[[int], None] = lambda _: None,
) -> tuple[BenchmarkResult, list[Attempt]]:
    """Makes the attempts that `place` does not hold yet, or all if `fresh`; `tell(done)` reports progress.

    With `regrade`, replies that are kept are graded again. Raises `ValueError` when another process measures there,
    and `UnansweredError` when an endpoint did not answer everything.
    """
    task = benchmark.task
    with contextlib.nullcontext() if place is None else place.measuring():
        made = _kept(place, fresh)

        def record(attempt: Attempt) -> None:
            if place is not None:
                place.append_item(dataclasses.asdict(attempt))
            made[attempt.key] = attempt
            tell(len(made))

        tell(len(made))
        with Grader(task) as grader, policy.sampled_with(task.sampling):
            if regrade:
                again = graded_again(list(made.values()), benchmark.problems, grader.grade)
                made = {attempt.key: attempt for attempt in again}
            attempts = run_benchmark(
                policy,
                task,
                benchmark.problems,
                seed=benchmark.seed,
                grade=grader.grade,
                record=record,
                made=dict(made),
                in_flight=in_flight,
            )
        result = summarise_attempts(attempts, task, model, benchmark.seed)
        if place is not None:
            place.write(result.to_json(), items=map(dataclasses.asdict, attempts), endpoints=asked_of(policy))
    return result, attempts


def read_attempts(place: ResultDirectory) -> list[Attempt]:
    """The attempts that a result directory holds. Raises `ValueError` for records of another kind."""
    try:
        return [_attempt(record) for record in place.read_items()]
    except TypeError as error:
        raise ValueError(
            f"{place.items_file} holds records that are no attempts; measure again with --fresh"
        ) from error


def _attempt(record: dict[str, Any]) -> Attempt:
    choices = record.get("choices")
    values = {**record, "alt_answers": tuple(record.get("alt_answers", ())), "choices": choices and tuple(choices)}
    return Attempt(**values)


def _kept(place: ResultDirectory | None, fresh: bool) -> dict[Key, Attempt]:
    """What earlier runs of the same measurement left."""
    if place is None:
        return {}
    if fresh:
        place.result_file.unlink(missing_ok=True)  # first: it says that the attempts are complete
        place.items_file.unlink(missing_ok=True)
    return {attempt.key: attempt for attempt in read_attempts(place)}


def _fingerprint(problems: Sequence[Problem]) -> str:
    """One hash over what is asked and what is right."""
    asked: list[Any] = [
        (p.id, p.question, p.answer, p.alt_answers, p.choices, *(() if p.tolerance is None else (p.tolerance,)))
        for p in problems
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
