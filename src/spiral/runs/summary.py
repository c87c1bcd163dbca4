"""Tables of a run's evaluations before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from spiral.runs.display import plain_table
from spiral.runs.evaluation_results import ENDS, EvaluationResults

RATES = ("win", "draw", "loss", "not_lost")
MAX_WHOLE = 24
"""Characters of a name that is never folded."""


def arena_table(before: EvaluationResults, after: EvaluationResults) -> Table:
    """Every game and opponent in two lines: shares of games with their 95% intervals."""
    table = plain_table("game", "against", "", "win", "draw", "loss", "win or draw", "illegal", numbers_from=3)
    earlier = {(row["game"], row["opponent"]): row for row in before.arena}
    for column in table.columns[:2]:  # in a narrow terminal numbers are folded first
        column.no_wrap = all(len(row["game"]) <= MAX_WHOLE and len(row["opponent"]) <= MAX_WHOLE for row in after.arena)
    for row in after.arena:
        key = (row["game"], row["opponent"])
        names = list(key)
        for caption, result in (("before", earlier.get(key)), ("after", row)):
            if result is not None:
                rates = [rate_text(result, rate) for rate in RATES]
                table.add_row(*names, caption, *rates, f"{result['illegal']:.1%}")
                names = ["", ""]
    return table


def exploitability_table(before: EvaluationResults, after: EvaluationResults) -> Table:
    """Exploitability of every game that was evaluated."""
    table = plain_table("game", "exploitability before", "after", "illegal before", "after ", "method", numbers_from=1)
    earlier = {row["game"]: row for row in before.exploitability}
    for row in after.exploitability:
        first = earlier.get(row["game"], {})
        table.add_row(
            row["game"],
            _number(first, "exploitability", "{:.4f}"),
            _number(row, "exploitability", "{:.4f}"),
            _number(first, "illegal_mass", "{:.1%}"),
            _number(row, "illegal_mass", "{:.1%}"),
            row.get("method", ""),
        )
    return table


def benchmark_table(before: EvaluationResults, after: EvaluationResults) -> Table:
    """Accuracy of every task, with its 95% interval."""
    table = plain_table("benchmark", "replies", "accuracy before", "after", "cut off", "without a box", numbers_from=1)
    earlier = {row["task"]: row for row in before.benchmarks}
    for row in after.benchmarks:
        first = earlier.get(row["task"])
        table.add_row(
            row["task"],
            f"{row['items'] * row['samples']:,}" if row.get("items") and row.get("samples") else "",
            "" if first is None else rate_text(first, "accuracy"),
            rate_text(row, "accuracy"),
            f"{row['truncated']:.1%}",
            f"{row['unboxed']:.1%}",
        )
    return table


def rate_text(result: Mapping[str, Any], rate: str) -> str:
    """A share with its interval, in percent: `61% (56 to 66)`; what is not known is left out."""
    value, low, high = (result.get(rate + end) for end in ENDS)
    if value is None:
        return ""
    return f"{value:.0%}" if low is None or high is None else f"{value:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def _number(row: Mapping[str, Any], key: str, form: str) -> str:
    return form.format(row[key]) if row.get(key) is not None else ""
