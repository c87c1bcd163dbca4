"""`spiral benchmark`: a model on reasoning problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.errors import Stopped
from spiral.cli.output import endpoint_usage, print_json, print_usage, shown_path
from spiral.core.progress import Progress, progress_shown
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.evaluation.reasoning.runner import Benchmark
    from spiral.policies.registry import PolicyOptions

Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[TASK=]FILE",
        help="JSONL with question and answer, in place of the hub; also alt_answers, choices, id, category.",
    ),
]


@opt.expand_options
def benchmark(
    model: opt.LanguageModel,
    *,
    task: opt.Tasks = None,
    data: Data = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of problems, drawn by the seed; all if unset.")
    ] = None,
    protocol: opt.Protocol = "v3",
    samples: opt.Samples = None,
    shots: opt.Shots = 0,
    shots_data: opt.ShotsData = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same problems and replies.")] = 0,
    template: opt.Template = None,
    thinking: opt.Thinking = None,
    temperature: Annotated[float | None, typer.Option(help="0.6 if left out.")] = None,
    top_p: Annotated[float | None, typer.Option(help="0.95 if left out.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="8192 if left out.")] = None,
    in_flight: opt.InFlight = 64,
    engine: opt.EngineOptions,
    out: opt.Out = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make every attempt again, even those kept in files.")] = False,
    regrade: Annotated[bool, typer.Option("--regrade", help="Grade the replies that are kept in files again.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Accuracy of MODEL on reasoning benchmarks, with 95% intervals. MODEL may be endpoint:NAME.

    Every attempt is kept in a file as it is made, and the same command resumes where it was stopped. Several tasks are
    asked with one engine, and their mean is reported.
    """
    from spiral.evaluation.reasoning.runner import load_benchmark  # loads torch
    from spiral.evaluation.reasoning.shots import shots_of_tasks
    from spiral.evaluation.reasoning.tasks import load_task, task_names
    from spiral.policies.endpoint.config import ENDPOINT
    from spiral.policies.registry import PolicyOptions
    from spiral.policies.scripted import is_scripted

    if is_scripted(model):
        raise ValueError(f"got {model!r}, which plays games only; expected a language model or endpoint:NAME")
    if model.startswith(ENDPOINT) and thinking is not None:
        raise ValueError(
            "got --thinking or --no-thinking for an endpoint, which gets the question alone; put what its server takes,"
            " such as reasoning_effort, in `extra` in the endpoint's table"
        )
    if not task:
        raise ValueError("no task; add --task TASK, such as math500, or --task paper for the paper's eight")
    names = task_names(task)
    for name in names:
        load_task(name)
    files = opt.files_of_tasks(data or [], names, "--data")
    examples = shots_of_tasks(names, shots, opt.files_of_tasks(shots_data or [], names, "--shots-data"))
    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    with progress_shown(bar=not as_json) as progress:
        asked = []
        for name in names:
            progress.stage(f"loading the problems of {name}")
            how: dict[str, Any] = {"protocol": protocol, "samples": samples, **examples[name], **sampling}
            asked.append(load_benchmark(name, data=files.get(name), limit=limit, seed=seed, **how))
        options = PolicyOptions(
            **vars(engine),
            **sampling,
            template=template,
            thinking=thinking,
            reply_tokens=max(each.task.sampling.max_new_tokens for each in asked),
        )
        how = {"fresh": fresh, "regrade": regrade, "in_flight": in_flight}
        results, usage = _measured(model, asked, options, out, progress, **how)
    about = {"model": model, "seed": seed, "protocol": protocol if samples is None else None}
    _report(results, about, usage, as_json)


def _report(results: list[dict[str, Any]], about: dict[str, Any], usage: dict[str, Any], as_json: bool) -> None:
    """Prints the accuracy in one task, or those in several with their mean."""
    if len(results) == 1:
        result = {**{key: value for key, value in results[0].items() if key != "files"}, **usage}
        result["files"] = results[0]["files"]
    else:
        result = {**about, "mean": mean_accuracy(results), "tasks": results, **usage}
    if as_json:
        print_json(result)
    elif len(results) == 1:
        print_accuracy(result)
        print(f"Every attempt: {shown_path(Path(result['files']))}")
    else:
        print_accuracies(result)


def _measured(
    model: str, asked: Sequence[Benchmark], options: PolicyOptions, out: Path | None, progress: Progress, **how: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The result of every task in its JSON form with its `files`, and what an endpoint was used."""
    from spiral.evaluation.answering import UnansweredError
    from spiral.evaluation.reasoning.runner import benchmark_directory, run_benchmark
    from spiral.policies.registry import load_answerer

    progress.stage(f"loading {model}")
    policy = load_answerer(model, options)
    results = []
    for benchmark in asked:
        directory = benchmark_directory(policy, benchmark, model, out)
        progress.stage(f"{benchmark.task.name}, {model}", benchmark.attempts, "replies")
        try:
            found, _ = run_benchmark(
                policy, benchmark, model, directory=directory, math_verify=True, on_progress=progress.update, **how
            )
        except UnansweredError as error:
            raise Stopped(
                f"{error}; finished attempts are kept in {shown_path(directory.path)}, and the same command"
                " resumes from them"
            ) from error
        results.append({**found.to_json(), "files": str(directory.path)})
    return results, endpoint_usage("model", policy)


def mean_accuracy(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over tasks, each with the same weight: `accuracy` with its bounds, and the number of `tasks`."""
    from spiral.evaluation.statistics import Estimate, mean_of_estimates

    rates = [Estimate(value=row["accuracy"], low=row["accuracy_low"], high=row["accuracy_high"]) for row in results]
    mean = mean_of_estimates(rates)
    return {"accuracy": mean.value, "accuracy_low": mean.low, "accuracy_high": mean.high, "tasks": len(rates)}


def print_accuracies(result: dict[str, Any]) -> None:
    """Prints the results of several tasks and their mean as a table."""
    from spiral.runs.summary import rate_text

    console = wide_console()
    protocol = f", protocol {result['protocol']}" if result["protocol"] else ""
    console.print(f"{result['model']} on {len(result['tasks'])} tasks{protocol}", soft_wrap=True)
    graded = any(row["math_verify"] is not None for row in result["tasks"])
    columns = ("problems", "samples", "shots", "accuracy (95%)", *["math-verify"] * graded, "cut off", "no box")
    table = plain_table("task", *columns)
    for row in result["tasks"]:
        own = [] if not graded else ["" if row["math_verify"] is None else rate_text(row, "math_verify")]
        counts = [str(row[key]) for key in ("items", "samples", "shots")]
        shares = [f"{row['truncated']:.1%}", f"{row['unboxed']:.1%}"]
        table.add_row(row["task"], *counts, rate_text(row, "accuracy"), *own, *shares)
    table.add_row("mean of tasks", "", "", "", rate_text(result["mean"], "accuracy"), *[""] * (graded + 2))
    console.print(table)
    console.print(
        "The mean gives every task the same weight; its interval is over problems, from those of the tasks (Zou and"
        " Donner, 2008).",
        soft_wrap=True,
    )
    print_usage(console, result)
    for row in result["tasks"]:
        print(f"{row['task']}: every attempt in {shown_path(Path(row['files']))}")


def print_accuracy(result: dict[str, Any]) -> None:
    """Prints the JSON form of a `BenchmarkResult` as a table."""
    from spiral.runs.summary import rate_text

    samples = f"{result['samples']} sample{'s' if result['samples'] > 1 else ''}"
    heading = f"{result['model']} on {result['task']}: {result['items']} problems, {samples} of each"
    if result["shots"]:
        heading += f", {result['shots']} worked examples before each"
    console = wide_console()
    console.print(heading, soft_wrap=True)
    table = plain_table("", "share (95% interval)")
    table.add_row(f"accuracy (avg@{result['samples']})", rate_text(result, "accuracy"))
    if result["math_verify"] is not None:
        table.add_row("accuracy by math-verify's own grading", rate_text(result, "math_verify"))
    table.add_row(f"pass@{result['samples']}", rate_text(result, "pass_at_k"))
    table.add_row("replies cut off at the token limit", f"{result['truncated']:.1%}")
    table.add_row("replies without a boxed answer", f"{result['unboxed']:.1%}")
    if result["too_long"]:
        table.add_row("problems longer than the model's context", str(result["too_long"]))
    table.add_row("answers the grader gave up on", str(result["grading_timeouts"]))
    table.add_row("mean tokens of a reply", f"{result['response_length']:.0f}")
    console.print(table)
    print_usage(console, result)
