"""Two groups of runs that differ by the seed alone, such as a method and its control, on the same games and problems.

Two kinds of uncertainty are kept apart. Over runs: another seed would train another model, so a group's mean has
Student's interval over its runs, and a difference Welch's (Welch, 1947); a group of one run, such as the base model,
counts as known. Over items: with these runs, other games or problems would give other numbers, so every item is
averaged over the runs of each group and the groups are compared item by item, as two models are (`comparison.py`).
Intervals over runs need two runs that differ; P-values are those over items, corrected after Holm (1979).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spiral.core.records import Episode
from spiral.evaluation.comparison import (
    Row,
    corrected,
    deal_shares,
    estimate_text,
    exploitability_row,
    num_players,
    paired_row,
)
from spiral.evaluation.comparison import problem_shares as shares_of_problems
from spiral.evaluation.reasoning.runner import Attempt
from spiral.evaluation.statistics import Estimate, mean_interval, student_95


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One quantity for both groups; a difference is B minus A."""

    items: Row
    """Item by item, each averaged over the runs of its group."""
    runs_a: tuple[float, ...]
    """The value of every run."""
    runs_b: tuple[float, ...]

    @property
    def a(self) -> Estimate | None:
        """The mean over the runs of A with its interval; None for one run, or runs that do not differ."""
        return over_runs(self.runs_a)

    @property
    def b(self) -> Estimate | None:
        """The same of B."""
        return over_runs(self.runs_b)

    @property
    def difference(self) -> Estimate | None:
        """The difference of the means with its interval over runs; None where neither group has one."""
        return difference_over_runs(self.runs_a, self.runs_b)

    def to_json(self) -> dict[str, Any]:
        """Flat keys. Bounds over runs are None where there are none; those over items begin with `items_`."""
        row = self.items
        flat: dict[str, Any] = {key: getattr(row, key) for key in ("kind", "measure", "better", "n")}
        for name, runs in (("a", self.runs_a), ("b", self.runs_b)):
            flat |= {name: float(np.mean(runs)), f"{name}_runs": list(runs), **_bounds(name, over_runs(runs))}
        flat |= {"difference": flat["b"] - flat["a"], **_bounds("difference", self.difference)}
        flat |= {"items_difference_low": row.difference.low, "items_difference_high": row.difference.high}
        return {**flat, "p_value": row.p_value, "p_adjusted": row.p_adjusted, "significant": row.significant}


def over_runs(values: Sequence[float]) -> Estimate | None:
    """The mean of runs with Student's 95% interval; None for one run, or runs that do not differ."""
    return mean_interval(values) if len(values) > 1 and float(np.ptp(values)) > 0 else None


def difference_over_runs(a: Sequence[float], b: Sequence[float]) -> Estimate | None:
    """The mean of `b` less that of `a` with Welch's 95% interval over runs; a group of one run counts as known.

    The degrees of freedom are rounded down. None where no group has two runs that differ.
    """
    variances = [float(np.var(each, ddof=1)) / len(each) if len(each) > 1 else 0.0 for each in (a, b)]
    total = sum(variances)
    if total == 0:
        return None
    freedom = total**2 / sum(
        variance**2 / (len(each) - 1) for variance, each in zip(variances, (a, b), strict=True) if variance
    )
    difference = float(np.mean(b) - np.mean(a))
    half = student_95(max(1, math.floor(freedom + 1e-9))) * math.sqrt(total)
    return Estimate(value=difference, low=difference - half, high=difference + half)


def group_game_rows(
    game: str, opponent: str, a: Sequence[Sequence[Episode]], b: Sequence[Sequence[Episode]]
) -> list[GroupRow]:
    """Score and illegal moves against one opponent, from the games of every run of both groups.

    All have the same seeds, and deals that some run has not played as every player are left out. Raises `ValueError` if
    the seeds differ.
    """
    shares, players = deal_shares(f"{game} against {opponent}", [*a, *b]), num_players(a[0])
    return [
        _row("games", f"{game} against {opponent}: {what}", better, values[: len(a)], values[len(a) :], players)
        for what, better, values in shares
    ]


def group_benchmark_row(task: str, a: Sequence[Sequence[Attempt]], b: Sequence[Sequence[Attempt]]) -> GroupRow:
    """Accuracy over problems. Raises `ValueError` if some runs had other problems."""
    shares = shares_of_problems(task, [*a, *b])
    samples = len(a[0]) // len(shares[0])
    return _row("benchmark", f"{task}: accuracy", "higher", shares[: len(a)], shares[len(a) :], samples)


def group_exploitability_row(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], states: int) -> GroupRow:
    """Exploitability of every run in its game's units; it is compared over runs alone, without a test."""
    pairs = [exploitability_row(left, right, states) for left, right in zip(_filled(a, b), _filled(b, a), strict=True)]
    if len({pair.measure for pair in pairs}) > 1:
        raise ValueError(
            f"the runs were evaluated by different methods: {', '.join(sorted({pair.measure for pair in pairs}))};"
            " compare runs that are evaluated in the same way"
        )
    runs_a = tuple(pair.a.value for pair in pairs[: len(a)])
    runs_b = tuple(pair.b.value for pair in pairs[: len(b)])
    means = [Estimate(value=value, low=value, high=value) for value in (float(np.mean(runs_a)), float(np.mean(runs_b)))]
    difference = means[1].value - means[0].value
    row = dataclasses.replace(
        pairs[0], a=means[0], b=means[1], difference=Estimate(value=difference, low=difference, high=difference)
    )
    return GroupRow(items=row, runs_a=runs_a, runs_b=runs_b)


def corrected_groups(rows: Sequence[GroupRow]) -> list[GroupRow]:
    """The rows with p-values corrected for the number of tests among them."""
    fixed = corrected([row.items for row in rows])
    return [dataclasses.replace(row, items=items) for row, items in zip(rows, fixed, strict=True)]


def groups_to_markdown(rows: Sequence[GroupRow], a: str, b: str) -> str:
    """The rows as a Markdown table; a star marks differences that are significant over items."""
    columns = ("", "n", a, b, "difference over runs", "over items", "p (Holm)")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(group_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def groups_to_csv(rows: Sequence[GroupRow]) -> str:
    """The rows as CSV, with all columns; the values of the runs are separated by spaces."""
    file = io.StringIO()
    records = [
        {key: " ".join(map(repr, value)) if isinstance(value, list) else value for key, value in row.to_json().items()}
        for row in rows
    ]
    writer = csv.DictWriter(file, fieldnames=list(records[0]) if records else ["measure"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def group_cells(row: GroupRow) -> list[str]:
    """The cells of a row of a table, as text."""
    items = row.items
    mean_a, mean_b = (_text(runs) for runs in (row.runs_a, row.runs_b))
    over, plain = row.difference, float(np.mean(row.runs_b) - np.mean(row.runs_a))
    difference = f"{plain:+.3f}" if over is None else estimate_text(over, signed=True)
    bounds = items.difference
    by_item = "" if bounds.low == bounds.high else f"[{bounds.low:+.3f}, {bounds.high:+.3f}]{' *' * items.significant}"
    p_value = "" if items.p_adjusted is None else f"{items.p_adjusted:.3g}"
    return [items.measure, str(items.n), mean_a, mean_b, difference, by_item, p_value]


def _text(runs: Sequence[float]) -> str:
    found = over_runs(runs)
    return f"{np.mean(runs):.3f}" if found is None else estimate_text(found)


def _row(kind: Any, measure: str, better: Any, a: Sequence[Any], b: Sequence[Any], size: int) -> GroupRow:
    """A row from the shares of every run, [runs, items], each over `size` games or samples."""
    a_RN, b_RN = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    runs = min(len(a_RN), len(b_RN))
    items = paired_row(kind, measure, better, list(a_RN.mean(axis=0)), list(b_RN.mean(axis=0)), size * runs)
    return GroupRow(items=items, runs_a=tuple(a_RN.mean(axis=1)), runs_b=tuple(b_RN.mean(axis=1)))


def _filled(own: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    """`own`, with its first result again until it is as long as the other."""
    return [*own, *[own[0]] * (len(other) - len(own))]


def _bounds(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    low, high = (None, None) if estimate is None else (estimate.low, estimate.high)
    return {f"{name}_low": low, f"{name}_high": high}
