"""`spiral experiment`: everything behind a claim, from its runs to its table."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.errors import INTERRUPTED, Stopped, explain
from spiral.cli.output import print_json, shown_path
from spiral.core.printable import printable

if TYPE_CHECKING:
    from spiral.experiments.experiment import Experiment
    from spiral.experiments.jobs import Prepared
    from spiral.experiments.sweep import Scale
    from spiral.experiments.tables import Curves, Table

ESTIMATE = "estimate"
"""What `hours_from` begins with where the hours were not measured."""


def experiment(
    folders: Annotated[
        list[Path],
        typer.Argument(parser=opt.path_argument, metavar="DIR", help="Folders with a sweep.toml and a table.py."),
    ],
    *,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of every arm: the first of 14, 42, 100, 101 and so on.")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="full, as in the paper; or laptop, the same pipeline with small models.")
    ] = "full",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every command and its GPU hours, and run nothing.")
    ] = False,
    at_once: Annotated[int, typer.Option("--jobs", min=1, help="Commands at once.")] = 1,
    root: Annotated[
        Path | None,
        typer.Option(
            "--runs",
            parser=opt.path_argument,
            metavar="PATH",
            help="Directory of all runs and results, which experiments share; runs/experiments if left out.",
        ),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Run everything behind a claim that is not done yet, then make its table.

    Each command is one that you could type. Finished ones are not repeated; the same call continues a stopped
    experiment. Tables and figures go to DIR/results/SCALE.
    """
    if scale not in ("full", "laptop"):
        raise ValueError(f"got --scale {scale}; expected full or laptop")
    from spiral.experiments.experiment import load_experiment
    from spiral.experiments.jobs import ROOT

    chosen: Scale = "full" if scale == "full" else "laptop"
    found = [load_experiment(folder, chosen, seeds, root or ROOT, check_command) for folder in folders]
    if dry_run:
        _print_plan(found, as_json)
    else:
        _run(found, at_once, as_json)


def _run(found: Sequence[Experiment], at_once: int, as_json: bool) -> None:
    """Runs what is not done, and prints the tables of what is."""
    from spiral.experiments.runner import run_jobs

    jobs = [one for experiment in found for one in experiment.jobs]
    waiting = {one.key for one in jobs if not one.done()}
    _print_note(f"{len(unique(jobs))} commands, {len(unique(jobs)) - len(waiting)} of them done before")

    def save() -> None:
        for experiment in found:
            experiment.save_state()

    save()
    try:
        outcomes = run_jobs(unique(jobs), at_once, _print_note, save)
    except KeyboardInterrupt as error:
        raise Stopped("interrupted at once; the same command continues", INTERRUPTED) from error
    failures = {key: (end.status, end.message) for key, end in outcomes.items() if end.status != "done"}
    printed = []
    for experiment in found:
        experiment.save_state(failures)
        tables, files = experiment.make_tables()
        if not as_json:
            _print_tables(experiment, tables, files)
        shown = [dataclasses.asdict(table) for table in tables]
        printed.append(experiment.state(failures) | {"tables": shown, "files": [str(file) for file in files]})
    if as_json:
        print_json({"experiments": printed})
    if any(status in ("stopped", "waiting") for status, _ in failures.values()):
        raise Stopped("stopped; the same command continues", INTERRUPTED)
    if failures:
        first = next(one for one in jobs if failures.get(one.key, ("",))[0] == "failed")
        raise Stopped(
            f"{len(failures)} of {len(unique(jobs))} commands are not done; the first that failed is"
            f" {first.job.label}: {failures[first.key][1]}; the same command tries them again"
        )


def unique(jobs: Iterable[Prepared]) -> list[Prepared]:
    """The jobs without those that are the same as an earlier one."""
    first: dict[str, Prepared] = {}
    for one in jobs:
        first.setdefault(one.key, one)
    return [*first.values()]


def _print_tables(experiment: Experiment, tables: Sequence[Table | Curves], files: Sequence[Path]) -> None:
    from spiral.experiments.tables import markdown

    print(f"# {experiment.name}: {experiment.sweep.summary} ({experiment.sweep.source}; scale {experiment.scale})\n")
    for table in tables:
        print(printable(markdown(table)))
    print(f"Files: {', '.join(shown_path(file) for file in files)}\n")


def _print_plan(found: Sequence[Experiment], as_json: bool) -> None:
    """Prints every command with its hours. A command that several experiments share counts once."""
    counted: set[str] = set()
    rows: list[dict[str, Any]] = []
    for experiment in found:
        before = experiment.seconds_before()
        for one in unique(experiment.jobs):
            row = {"experiment": experiment.name, "job": one.job.label, "seed": one.job.seed, "command": one.command}
            row |= {"done": one.done(), "shared": one.key in counted, "directory": str(one.directory)}
            if experiment.scale == "full":
                row |= {"gpu_hours": one.job.gpu_hours, "hours_from": one.job.hours_from}
            else:
                row |= {"seconds": before.get((one.job.label, one.job.seed))}
            rows.append(row)
            counted.add(one.key)
    counting = [row for row in rows if not row["shared"]]
    total: dict[str, Any] = {"commands": len(counting), "done": sum(row["done"] for row in counting)}
    if found[0].scale == "full":
        total["gpu_hours"] = sum(row["gpu_hours"] for row in counting)
        total["estimated"] = sum(row["gpu_hours"] for row in counting if row["hours_from"].startswith(ESTIMATE))
    else:
        total["seconds"] = sum(row["seconds"] or 0.0 for row in counting)
        total["not_measured"] = sum(row["seconds"] is None for row in counting)
    if as_json:
        print_json({"jobs": rows, "total": total})
        return
    for experiment in found:
        print(f"\n# {experiment.name}: {experiment.sweep.summary} ({experiment.sweep.source})")
        for row in (row for row in rows if row["experiment"] == experiment.name):
            state = ", done" if row["done"] else ", shared with an experiment above" if row["shared"] else ""
            print(printable(f"\n# {row['job']}, seed {row['seed']}: {_hours(row)}{state}"))
            print(row["command"])
    print(f"\n# In all: {total['commands']} commands, {total['done']} of them done; {_total(total)}")


def _hours(row: Mapping[str, Any]) -> str:
    """How long a command takes, and how that is known."""
    if "gpu_hours" in row:
        return f"{row['gpu_hours']:,.1f} GPU hours ({row['hours_from']})"
    return "not measured yet" if row["seconds"] is None else f"{row['seconds']:.0f} s when it was last run"


def _total(total: Mapping[str, Any]) -> str:
    if "gpu_hours" in total:
        return f"{total['gpu_hours']:,.0f} GPU hours, {total['estimated']:,.0f} of them estimated"
    missing = f", and {total['not_measured']} commands that were never measured" if total["not_measured"] else ""
    return f"{total['seconds'] / 60:.1f} minutes when they were last run{missing}"


def _print_note(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def check_command(words: Sequence[str]) -> Any:
    """Checks a command line of `spiral` without running it.

    Returns:
        The recipe of a command that has one, as JSON; else None.

    Raises:
        ValueError: The command line cannot be parsed, or its recipe is wrong.
    """
    from spiral.cli.app import load_command
    from spiral.cli.train import given_recipe

    command = load_command(words[0])
    try:
        values = command.make_context(words[0], list(words[1:])).params
    except Exception as error:
        raise ValueError(explain(error)[1]) from error
    if values.get("recipe") is None:
        return None
    keys = ("recipe", "settings", "steps", "seed", "model")
    return json.loads(given_recipe(**{key: values.get(key) for key in keys}).model_dump_json())
