"""`spiral patterns`: which patterns of reasoning games and solutions show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from spiral.cli import options as opt
from spiral.cli.errors import Stopped
from spiral.cli.output import endpoint_usage, print_json, print_usage, shown_path
from spiral.core.progress import Progress, progress_shown
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.core.policy import Answerer
    from spiral.evaluation.patterns.run import PatternsConfig
    from spiral.evaluation.patterns.traces import TraceFile

_JUDGE = "The judge"
DEFAULT_TOKENS = 4096
"""Response budget of a local judge."""
Sources = Annotated[
    list[Path],
    typer.Argument(
        parser=opt.path_argument,
        metavar="RUN|RESULTS...",
        help="Run directories, results of `spiral evaluate` and `spiral benchmark`, or directories of results.",
    ),
]


@opt.expand_options
def patterns(
    sources: Sources,
    *,
    judge: Annotated[
        str,
        typer.Option(
            rich_help_panel=_JUDGE,
            help="lexical (cues; offline, weak), a language model as in `spiral benchmark`, or endpoint:NAME.",
        ),
    ] = "lexical",
    discover: Annotated[
        bool, typer.Option("--discover", rich_help_panel=_JUDGE, help="Let the judge look for further patterns first.")
    ] = False,
    votes: Annotated[
        int, typer.Option(min=1, rich_help_panel=_JUDGE, help="How often each trace is judged, an odd number.")
    ] = 1,
    group: Annotated[int, typer.Option(min=1, rich_help_panel=_JUDGE, help="Traces in one question to the judge.")] = 5,
    max_characters: Annotated[
        int,
        typer.Option(
            min=200,
            rich_help_panel=_JUDGE,
            help="Most characters of a trace that the judge sees; the middle is left out.",
        ),
    ] = 8000,
    temperature: Annotated[
        float | None, typer.Option(min=0, rich_help_panel=_JUDGE, help="Left out: 0, or 0.6 with several votes.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_JUDGE,
            help="Most tokens of a reply, thoughts included. Left out: what the endpoint's table says, or 4096.",
        ),
    ] = None,
    in_flight: opt.InFlight = 16,
    per_checkpoint: Annotated[
        int, typer.Option(min=1, help="Traces drawn from a checkpoint: games, and right and wrong solutions each.")
    ] = 50,
    step: Annotated[
        list[int] | None, typer.Option(min=0, help="A step to analyse; may be repeated. Left out: at most six.")
    ] = None,
    agreement: Annotated[
        bool,
        typer.Option("--agreement/--no-agreement", help="Compare with the labelled traces that come with spiral."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same traces.")] = 0,
    engine: opt.EngineOptions,
    out: opt.Out = None,
    as_json: opt.Json = False,
) -> None:
    """How often games and solutions show case analysis, expected values and recognised patterns, and what transfers.

    With a judge every reply is kept in a file as it comes, and the same command resumes where it was stopped.
    """
    from spiral.core.policy import SamplingConfig
    from spiral.evaluation.patterns.run import PatternsConfig

    chosen = temperature if temperature is not None else 0.0 if votes == 1 else 0.6
    config = PatternsConfig(
        judge=judge,
        discover=discover,
        agreement=agreement,
        per_checkpoint=per_checkpoint,
        votes=votes,
        group=group,
        max_characters=max_characters,
        sampling=SamplingConfig(temperature=chosen, max_new_tokens=max_new_tokens or DEFAULT_TOKENS),
        seed=seed,
    )
    with progress_shown(bar=not as_json) as progress:
        given = {**vars(engine), "temperature": temperature, "max_new_tokens": max_new_tokens}
        values, directory = _analysed(config, sources, step or [], given, out, in_flight, progress)
    if as_json:
        print_json(values)
    else:
        _print_tables(values, shown_path(directory))


def _analysed(
    config: PatternsConfig,
    sources: Sequence[Path],
    wanted: Sequence[int],
    judged_with: dict[str, Any],
    out: Path | None,
    in_flight: int,
    progress: Progress,
) -> tuple[dict[str, Any], Path]:
    """Reads the traces, classifies those of the wanted steps, and writes the files: the result and their directory."""
    from spiral.evaluation.answering import UnansweredError
    from spiral.evaluation.patterns.asking import UnusableError
    from spiral.evaluation.patterns.files import write_patterns
    from spiral.evaluation.patterns.run import patterns_directory, run_patterns
    from spiral.evaluation.patterns.traces import choose_files, find_files, read_traces, sample_traces

    progress.stage("reading traces")
    files = find_files(sources)
    chosen = choose_files(files, wanted)
    traces = read_traces(chosen)
    sampled = sample_traces(traces, config.per_checkpoint, config.seed)
    config, answerer = _with_judge(config, judged_with, progress)
    directory = patterns_directory(config, sampled, answerer, source=sources[0], out=out)
    with directory.locked():
        try:
            result, items = run_patterns(
                config, traces, sampled, answerer, directory=directory, in_flight=in_flight, progress=progress
            )
        except UnusableError as error:
            raise Stopped(f"{error}; its replies are in {shown_path(directory.items_file)}") from error
        except UnansweredError as error:
            raise Stopped(
                f"{error}; the judge's replies are kept in {shown_path(directory.path)}, and the same command"
                " resumes from them"
            ) from error
        more = {
            "judge": config.judge,
            "seed": config.seed,
            "per_checkpoint": config.per_checkpoint,
            "votes": config.votes,
            "steps": _steps(chosen),
            "steps_found": _steps(files),
        }
        values = write_patterns(directory, result, more, items, answerer)
    return values | endpoint_usage("model", answerer), directory.path


def _steps(files: Sequence[TraceFile]) -> list[int]:
    return sorted({file.step for file in files if file.step is not None})


def _with_judge(
    config: PatternsConfig, judged_with: dict[str, Any], progress: Progress
) -> tuple[PatternsConfig, Answerer | None]:
    """Loads the judge, None for the lexical classifier; an endpoint's table sets the budget where no option does."""
    from spiral.evaluation.patterns.run import LEXICAL
    from spiral.policies.endpoint.policy import EndpointPolicy
    from spiral.policies.registry import PolicyOptions, load_answerer

    if config.judge == LEXICAL:
        return config, None
    progress.stage(f"loading {config.judge}")
    options = PolicyOptions(**judged_with, reply_tokens=config.sampling.max_new_tokens)
    answerer = load_answerer(config.judge, options)
    if isinstance(answerer, EndpointPolicy):
        sampling = config.sampling.model_copy(update={"max_new_tokens": answerer.config.max_new_tokens})
        config = dataclasses.replace(config, sampling=sampling)
    return config, answerer


def _print_tables(values: dict[str, Any], where: str) -> None:
    console = wide_console()
    by = "the lexical classifier" if values["judge"] == "lexical" else values["judge"]
    console.print(
        f"Reasoning patterns as {by} sees them: {values['traces']:,} of {values['traces_found']:,} traces, seed"
        f" {values['seed']}",
        soft_wrap=True,
    )
    left_out = len(values["steps_found"]) - len(values["steps"])
    if left_out:
        console.print(f"{left_out} other steps have traces too; choose with --step.", soft_wrap=True)
    names = list(values["patterns"])
    console.print()
    _print_shares(console, values, names)
    _print_transfer(console, values)
    _print_agreement(console, values)
    for line in _doubts(values):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    print_usage(console, values)
    print(f"Tables, figure, and every trace with its verdict: {where}")


def _print_shares(console: Console, values: dict[str, Any], names: list[str]) -> None:
    """One line for every checkpoint, domain and success: the shares of traces that show each pattern."""
    from spiral.runs.summary import rate_text

    table = plain_table("model", "step", "traces", "n", *map(_title, names), numbers_from=3)
    cells: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in values["shares"]:
        key = (row["model"], row["step"], row["domain"], row["success"])
        cells.setdefault(key, {})[row["pattern"]] = row
    before: tuple[Any, ...] = ()
    for key, found in cells.items():
        model, step, domain, success = key
        traces = {row["traces"] for row in found.values()}
        count = "-".join(str(number) for number in sorted({min(traces), max(traces)}))
        place = ["", ""] if before == key[:2] else [str(model), "" if step is None else str(step)]
        what = domain if success == "all" else f"  {success}"
        shares = [rate_text(found[name], "share") if name in found else "" for name in names]
        table.add_row(*place, what, count, *shares)
        before = key[:2]
    console.print(table)


def _print_transfer(console: Console, values: dict[str, Any]) -> None:
    """The transfer rates, with the paper's shares beside them."""
    from spiral.evaluation.patterns.codebook import PAPER_SOURCE
    from spiral.runs.summary import rate_text

    console.print()
    if not values["transfer"]:
        console.print(
            "No transfer rate: no checkpoint has both games and solutions. Add results of `spiral benchmark`, or of"
            " `spiral evaluate`, of the same checkpoints.",
            soft_wrap=True,
        )
        return
    table = plain_table("model", "step", "pattern", "games", "maths", "transfer rate", "paper", numbers_from=3)
    for row in values["transfer"]:
        rate = "no game shows it"
        if row["rate"] is not None:
            rate = f"{row['rate']:.2f} ({row['rate_low']:.2f} to {row['rate_high']:.2f})"
        paper = "" if row["paper_games"] is None else f"{row['paper_games']:.0%} to {row['paper_maths']:.0%}"
        step = "" if row["step"] is None else str(row["step"])
        table.add_row(
            row["model"], step, _title(row["pattern"]), rate_text(row, "games"), rate_text(row, "maths"), rate, paper
        )
    console.print(table)
    console.print(f"paper: shares of games and of solutions in {PAPER_SOURCE}", soft_wrap=True)


def _print_agreement(console: Console, values: dict[str, Any]) -> None:
    """Cohen's kappa with the labels made by reading."""
    if values["agreement"] is None:
        return
    table = plain_table("pattern", "kappa", "both", "reader only", "judge only", "neither", numbers_from=1)
    for row in values["agreement"]:
        kappa = "undefined"
        if row["kappa"] is not None:
            kappa = f"{row['kappa']:.2f} ({row['kappa_low']:.2f} to {row['kappa_high']:.2f})"
        table.add_row(
            _title(row["pattern"]),
            kappa,
            *(str(row[name]) for name in ("both", "only_reader", "only_classifier", "neither")),
        )
    console.print(f"\nAgreement with {values['agreement'][0]['traces']} labelled traces (Cohen's kappa, 95%):")
    console.print(table)
    console.print()


def _doubts(values: dict[str, Any]) -> list[str]:
    """What is missing or was cut, in numbers."""
    lines = []
    if values["unlabelled"]:
        lines.append(f"{values['unlabelled']} traces could not be labelled and count nowhere:")
        lines += [f"  {count} questions x {reason}" for reason, count in values["unusable"].items()]
    if values["split_votes"]:
        lines.append(f"The judge's votes differ in {values['split_votes']} of {values['traces']} traces.")
    if values["shortened"]:
        lines.append(f"{values['shortened']} traces were longer than --max-characters, and the judge did not see all.")
    return lines


def _title(pattern: str) -> str:
    from spiral.evaluation.patterns.codebook import PATTERNS

    return {known.name: known.title for known in PATTERNS}.get(pattern, pattern.replace("_", " "))
