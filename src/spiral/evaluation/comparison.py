"""Two models side by side: the table a paper would print.

Both were measured on the same games (seeds, deals, seats, opponents) and the same problems, so every difference is
paired: its interval is over pairs of games or over problems, and its p-value comes from flipping signs
(`statistics.paired_difference`). Where all pairs agree the interval says how far that goes for so many. Looking at many
rows at once, p-values are corrected after Holm (1979) before any is called significant. Exploitability that is computed
exactly has no sampling error and takes no test; what is sampled has an interval (that of a difference of independent
figures; Zou and Donner, 2008) and takes none either.

Left out: anything unpaired, and tests across tasks.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from spiral.core.records import Episode
from spiral.evaluation.reasoning.runner import Attempt
from spiral.evaluation.statistics import Estimate, alike_interval, clustered_rate, holm, paired_difference

SIGNIFICANT = 0.05
Kind = Literal["games", "theory", "benchmark"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of both models. `difference` is B minus A."""

    kind: Kind
    measure: str
    better: Literal["higher", "lower"]
    n: int
    """What the interval is over: pairs of games, problems, or information states."""
    a: Estimate
    b: Estimate
    difference: Estimate
    p_value: float | None = None
    p_adjusted: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance after the correction."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT

    def to_json(self) -> dict[str, Any]:
        """Flat keys: each estimate with `_low` and `_high`."""
        flat: dict[str, Any] = {key: getattr(self, key) for key in ("kind", "measure", "better", "n")}
        for name in ("a", "b", "difference"):
            estimate: Estimate = getattr(self, name)
            flat |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return {**flat, "p_value": self.p_value, "p_adjusted": self.p_adjusted, "significant": self.significant}


def game_rows(game: str, opponent: str, a: Sequence[Episode], b: Sequence[Episode]) -> list[Row]:
    """Score (a win 1, a draw half) and illegal moves against one opponent, by pairs of games.

    Both hold the games of `paired_matches` with the same seed. A pair of which any game was not played is left out;
    where that leaves no pair there are no rows.
    """
    if len(a) != len(b) or any(left.seed != right.seed for left, right in zip(a, b, strict=True)):
        raise ValueError(f"the games of {game} against {opponent} were not played with the same seeds; measure again")
    kept = [
        place
        for place in range(0, len(a), 2)
        if all(episode.outcome != "not_played" for episode in (*a[place : place + 2], *b[place : place + 2]))
    ]
    if not kept:
        return []
    against = f"{game} against {opponent}"
    return [
        _paired("games", f"{against}: score", "higher", _by_pair(a, kept, _score), _by_pair(b, kept, _score), 2),
        _paired("games", f"{against}: illegal", "lower", _by_pair(a, kept, _illegal), _by_pair(b, kept, _illegal), 2),
    ]


def benchmark_row(task: str, a: Sequence[Attempt], b: Sequence[Attempt]) -> Row:
    """Accuracy by problem. Raises `ValueError` when the problems are not the same."""
    shares_a, shares_b = _by_problem(a), _by_problem(b)
    if shares_a.keys() != shares_b.keys():
        raise ValueError(f"the two models were asked different problems of {task}; measure both with the same --limit")
    ids = list(shares_a)
    return _paired(
        "benchmark",
        f"{task}: accuracy",
        "higher",
        [shares_a[name] for name in ids],
        [shares_b[name] for name in ids],
        len(a) // len(ids),
    )


def exploitability_row(a: Mapping[str, Any], b: Mapping[str, Any], states: int) -> Row:
    """Exploitability in the game's units, from results in their JSON form; `states` is how many were asked about.

    Where nothing is hidden and a model thinks first it is not known (`optimality`); the regret in self-play, which then
    is known of both, takes its place.
    """
    known = a["exploitability"] is not None and b["exploitability"] is not None
    figure, words = ("exploitability", "exploitability") if known else ("regret_self", "regret in self-play")
    left, right = _bounds(a, figure), _bounds(b, figure)
    value = right.value - left.value
    low = value - math.hypot(right.value - right.low, left.high - left.value)
    high = value + math.hypot(right.high - right.value, left.value - left.low)
    methods = " and ".join(dict.fromkeys((a["method"], b["method"])))
    return Row(
        kind="theory",
        measure=f"{a['game']}: {words} ({methods})",
        better="lower",
        n=states,
        a=left,
        b=right,
        difference=Estimate(value=value, low=low, high=high),
    )


def asked_otherwise(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In what the two were asked otherwise in games."""
    return [
        f"{key.replace('_', '-')} is {a.get(key)} for A and {b.get(key)} for B in games, as each was trained"
        for key in dict.fromkeys((*a, *b))
        if a and b and a.get(key) != b.get(key)
    ]


def corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with p-values corrected for all the tests among them."""
    tested = [place for place, row in enumerate(rows) if row.p_value is not None]
    adjusted = holm([float(rows[place].p_value or 0.0) for place in tested])
    found = dict(zip(tested, adjusted, strict=True))
    return [dataclasses.replace(row, p_adjusted=found.get(place)) for place, row in enumerate(rows)]


def to_markdown(rows: Sequence[Row], a: str, b: str) -> str:
    """A table; a star marks what is significant after the correction."""
    lines = [f"| | n | {a} | {b} | difference | p (Holm) |", "|---|---|---|---|---|---|"]
    for row in rows:
        p_value = "" if row.p_adjusted is None else f"{row.p_adjusted:.3g}"
        difference = estimate_text(row.difference, signed=True) + (" *" if row.significant else "")
        lines.append(
            f"| {row.measure} | {row.n} | {estimate_text(row.a)} | {estimate_text(row.b)} | {difference} | {p_value} |"
        )
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """One line a row, every figure in full."""
    file = io.StringIO()
    records: list[Mapping[str, Any]] = [row.to_json() for row in rows]
    writer = csv.DictWriter(file, fieldnames=list(records[0]) if records else ["measure"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def _paired(
    kind: Kind, measure: str, better: Literal["higher", "lower"], a: Sequence[float], b: Sequence[float], size: int
) -> Row:
    """Shares of pairs or problems, each over `size` games or samples; a single one has an interval and no test."""
    difference: Estimate
    p_value = None
    if len(a) == 1:
        difference = alike_interval(b[0] - a[0], 1, 1.0)
    else:
        difference = tested = paired_difference(b, a, largest=1.0)
        p_value = tested.p_value
    return Row(
        kind=kind,
        measure=measure,
        better=better,
        n=len(a),
        a=clustered_rate(a, size),
        b=clustered_rate(b, size),
        difference=difference,
        p_value=p_value,
    )


def _by_pair(episodes: Sequence[Episode], kept: Sequence[int], figure: Any) -> list[float]:
    """The mean of a figure over both games of each pair; the model sits in seat 0 and then in seat 1."""
    return [(figure(episodes[place], 0) + figure(episodes[place + 1], 1)) / 2 for place in kept]


def _score(episode: Episode, seat: int) -> float:
    value = episode.returns[seat]
    return 0.5 + 0.5 * ((value > 0) - (value < 0))


def _illegal(episode: Episode, seat: int) -> float:
    return float(episode.outcome == "illegal_move" and episode.turns[-1].player == seat)


def _by_problem(attempts: Sequence[Attempt]) -> dict[str, float]:
    """The share of right samples of each problem."""
    correct: dict[str, list[bool]] = {}
    for attempt in attempts:
        correct.setdefault(attempt.id, []).append(attempt.correct)
    return {name: float(np.mean(found)) for name, found in correct.items()}


def _bounds(result: Mapping[str, Any], figure: str) -> Estimate:
    """What is exact is its own interval."""
    value = float(result[figure])
    return Estimate(
        value=value,
        low=float(result.get(f"{figure}_low", value)),
        high=float(result.get(f"{figure}_high", value)),
    )


def estimate_text(estimate: Estimate, *, signed: bool = False) -> str:
    """Value and interval; the value alone where it is exact."""
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if signed else "{:.3f} [{:.3f}, {:.3f}]"
    if estimate.low == estimate.high:
        return form.split(" ", maxsplit=1)[0].format(estimate.value)
    return form.format(estimate.value, estimate.low, estimate.high)
