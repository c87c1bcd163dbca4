"""`spiral benchmark`: a model on reasoning problems."""

from __future__ import annotations

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


Task = Annotated[
    str,
    typer.Option(
        help="math500, aime24, aime25, amc23, olympiadbench, minerva_math, gsm8k, gpqa_diamond, mmlu_pro, or"
        " reasoning_gym/NAME."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        parser=opt.path_argument,
        metavar="PATH",
        help="JSONL with question and answer, in place of the hub; also alt_answers, choices, id.",
    ),
]


@opt.expand_options
def benchmark(
    model: opt.LanguageModel,
    *,
    task: Task,
    data: Data = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of problems, drawn by the seed; all if unset.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Replies to each problem; 4 if left out.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same problems and replies.")] = 0,
    template: opt.Template = None,
    thinking: opt.Thinking = None,
    temperature: Annotated[float | None, typer.Option(help="0.6 if left out, as in the paper.")] = None,
    top_p: Annotated[float | None, typer.Option(help="0.95 if left out, as in the paper.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="8192 if left out, as in the paper.")] = None,
    in_flight: opt.InFlight = 64,
    engine: opt.EngineOptions,
    out: opt.Out = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make every attempt again, even those kept in files.")] = False,
    regrade: Annotated[bool, typer.Option("--regrade", help="Grade the replies that are kept in files again.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Accuracy of MODEL on a reasoning benchmark, with a 95% interval. MODEL may be endpoint:NAME.

    Every attempt is kept in a file as it is made, and the same command resumes where it was stopped.
    """
    from spiral.evaluation.reasoning.runner import load_benchmark  # loads torch
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
    with progress_shown(bar=not as_json) as progress:
        progress.stage(f"loading the problems of {task}")
        asked = load_benchmark(
            task,
            data=data,
            limit=limit,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
        options = PolicyOptions(
            **vars(engine),
            template=template,
            thinking=thinking,
            reply_tokens=asked.task.sampling.max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
        )
        how = {"fresh": fresh, "regrade": regrade, "in_flight": in_flight}
        result, files = _measured(model, asked, options, out, progress, **how)
    if as_json:
        print_json({**result, "files": str(files)})
        return
    print_accuracy(result)
    print(f"Every attempt: {shown_path(files)}")


def _measured(
    model: str, asked: Benchmark, options: PolicyOptions, out: Path | None, progress: Progress, **how: Any
) -> tuple[dict[str, Any], Path]:
    """The result in its JSON form, and the directory of its files."""
    from spiral.evaluation.reasoning.runner import UnansweredError, benchmark_directory, run_benchmark
    from spiral.policies.registry import load_answerer

    progress.stage(f"loading {model}")
    policy = load_answerer(model, options)
    directory = benchmark_directory(policy, asked, model, out)
    progress.stage(f"{asked.task.name}, {model}", asked.attempts, "replies")
    try:
        found, _ = run_benchmark(
            policy, asked, model, directory=directory, math_verify=True, on_progress=progress.update, **how
        )
    except UnansweredError as error:
        raise Stopped(
            f"{error}; finished attempts are kept in {shown_path(directory.path)}, and the same command"
            " resumes from them"
        ) from error
    return found.to_json() | endpoint_usage("model", policy), directory.path


def print_accuracy(result: dict[str, Any]) -> None:
    """Prints the JSON form of a `BenchmarkResult` as a table."""
    from spiral.runs.summary import rate_text

    heading = f"{result['model']} on {result['task']}: {result['items']} problems, {result['samples']} samples of each"
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
