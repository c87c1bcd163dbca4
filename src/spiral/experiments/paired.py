"""Arms of an experiment by numbers that are read off their runs: side by side, and minus a control of the same seed.

`Results.against` compares what commands print. Here a function of a run directory gives the number, so that it may be
computed from metrics, evaluations or games.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from spiral.experiments.tables import Curves, Entry, Line, Results, Table, mean_entry, paired_entry
from spiral.runs.directory import read_evaluations, read_metrics

T = TypeVar("T")
NOTE = "Means over the seeds, with Student's 95% intervals"


def by_seed(results: Results, arm: str, number: Callable[[Path], T]) -> dict[int, T]:
    """A number of each run of an arm that is done."""
    return {one.job.seed: number(one.output) for one in results.jobs if one.job.name == arm and one.done()}


def by_step(run: Path, key: str) -> dict[int, float]:
    """A metric by step, of the steps that have it.

    Metrics begin with the first step of training; what was evaluated before it is here under step 0.
    """
    before = {step: results.metrics() for step, results in read_evaluations(run) if step == 0}
    rows = before | {row["step"]: row for row in read_metrics(run)}
    return {step: row[key] for step, row in rows.items() if key in row}


def compare(
    results: Results,
    arms: Sequence[str],
    control: str | Mapping[str, str],
    columns: Mapping[str, Callable[[Path], float | None]],
    what: str,
    *,
    prefix: str = "",
) -> list[Table]:
    """A table of the arms, and one of each minus its control of the same seed.

    The runs of one seed begin with the same deals, so that what the seed explains is taken out of the differences;
    their intervals are Student's over pairs of runs. Runs that a number cannot be computed of are left out.

    Args:
        results: The experiment's results.
        arms: The rows.
        control: The arm that is taken from all others, or for each arm its control; arms without one are in the first
            table only.
        columns: The number of each column, a function of a run directory; None where the run has none.
        what: The title.
        prefix: Begins the names of both tables, where an experiment has several such pairs.

    Returns:
        The tables "arms" and "differences".

    Raises:
        ValueError: A control is none of the arms.
    """
    controls = {arm: control for arm in arms if arm != control} if isinstance(control, str) else dict(control)
    for name in dict.fromkeys([*controls, *controls.values(), *([control] if isinstance(control, str) else [])]):
        if name not in arms:
            raise ValueError(f"the arm {name!r} is none of the rows; expected one of {', '.join(arms)}")
    values: list[Entry] = []
    differences: list[Entry] = []
    for column, number in columns.items():
        found = {arm: _known(by_seed(results, arm, number)) for arm in arms}
        values += [mean_entry(arm, column, [*found[arm].values()]) for arm in arms]
        differences += [
            paired_entry(f"{arm} - {less}", column, found[arm], found[less]) for arm, less in controls.items()
        ]
    less = control if isinstance(control, str) else "the control"
    return [
        Table(name=f"{prefix}arms", title=what, entries=values, form="{:.3f}", note=f"{NOTE}."),
        Table(
            name=f"{prefix}differences", title=f"{what}, less {less} with the same seed", entries=differences,
            form="{:+.3f}", note=f"{NOTE} over pairs of runs with the same seed.",
        ),
    ]  # fmt: skip


def _known(values: Mapping[int, float | None]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if value is not None}


def curves(
    results: Results,
    arms: Sequence[str],
    series: Callable[[Path], Mapping[int, float]],
    title: str,
    *,
    name: str = "curves",
) -> Curves:
    """A number over the steps: every seed in a panel of its own, a line for each arm.

    Args:
        results: The experiment's results.
        arms: The lines.
        series: The number by step, a function of a run directory.
        title: The title.
        name: The name of the files.
    """
    lines = [
        Line(panel=f"seed {seed}", label=arm, x=[*found], y=[*found.values()])
        for arm in arms
        for seed, found in by_seed(results, arm, series).items()
    ]
    return Curves(name=name, title=title, lines=lines)
