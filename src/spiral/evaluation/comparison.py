"""Two models side by side, as a table for a paper.

Both were evaluated on the same games (seeds, deals, players, opponents) and the same problems, so every difference is
paired: its interval is over deals or over problems, and its p-value comes from sign flips
(`statistics.paired_difference`). If all pairs have the same difference, the interval still has a width. P-values are
corrected for the number of rows after Holm (1979) before any is called significant. Exact exploitability has no
sampling error and so no test; sampled exploitability has the interval of a difference of independent estimates (Zou and
Donner, 2008), and no test either.

Not supported: unpaired comparisons, and tests across tasks.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

import numpy as np

from spiral.core.records import Episode
from spiral.evaluation.reasoning.runner import Attempt
from spiral.evaluation.statistics import (
    Estimate,
    clustered_rate,
    constant_difference_interval,
    holm,
    paired_difference,
)

SIGNIFICANT = 0.05
Kind = Literal["games", "theory", "benchmark"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity for both models; `difference` is B minus A."""

    kind: Kind
    measure: str
    better: Literal["higher", "lower"]
    n: int
    """Number of observations: deals, problems, or information states."""
    a: Estimate
    b: Estimate
    difference: Estimate
    p_value: float | None = None
    p_adjusted: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the difference is significant at 5% after the correction."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT

    def to_json(self) -> dict[str, Any]:
        """Flat keys: each estimate with `_low` and `_high`."""
        flat: dict[str, Any] = {key: getattr(self, key) for key in ("kind", "measure", "better", "n")}
        for name in ("a", "b", "difference"):
            estimate: Estimate = getattr(self, name)
            flat |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return {**flat, "p_value": self.p_value, "p_adjusted": self.p_adjusted, "significant": self.significant}


def game_rows(game: str, opponent: str, a: Sequence[Episode], b: Sequence[Episode]) -> list[Row]:
    """Score (a win is 1, a draw 1/2) and illegal moves against one opponent, over deals.

    `a` and `b` hold the games of `paired_matches` with the same seed. A deal with a game that was not played is left
    out; if none remains there are no rows. Raises `ValueError` if the seeds differ.
    """
    against = f"{game} against {opponent}"
    return [
        paired_row("games", f"{against}: {what}", better, mine, theirs, num_players(a))
        for what, better, (mine, theirs) in deal_shares(against, (a, b))
    ]


def num_players(episodes: Sequence[Episode]) -> int:
    """Players of a game, and so games of each deal: the model is each player in turn."""
    return len(episodes[0].seats)


def deal_shares(
    against: str, runs: Sequence[Sequence[Episode]]
) -> list[tuple[str, Literal["higher", "lower"], list[list[float]]]]:
    """Score and illegal moves of several models in the same games: what it is, what is better, and [models, deals].

    Deals that some model has not played as every player are left out; if none remains the list is empty. Raises
    `ValueError` if the seeds differ.
    """
    seeds = [[episode.seed for episode in episodes] for episodes in runs]
    if any(each != seeds[0] for each in seeds):
        raise ValueError(f"the games of {against} have different seeds; evaluate all models again")
    players = num_players(runs[0])
    kept = [
        slice(first, first + players)
        for first in range(0, len(seeds[0]), players)
        if all(each.outcome != "not_played" for episodes in runs for each in episodes[first : first + players])
    ]
    if not kept:
        return []
    return [
        ("score", "higher", [_by_deal(episodes, kept, _score) for episodes in runs]),
        ("illegal", "lower", [_by_deal(episodes, kept, _illegal) for episodes in runs]),
    ]


def benchmark_row(task: str, a: Sequence[Attempt], b: Sequence[Attempt]) -> Row:
    """Accuracy over problems. Raises `ValueError` if the two models had different problems."""
    shares_a, shares_b = problem_shares(task, (a, b))
    return paired_row("benchmark", f"{task}: accuracy", "higher", shares_a, shares_b, len(a) // len(shares_a))


def problem_shares(task: str, runs: Sequence[Sequence[Attempt]]) -> list[list[float]]:
    """[models, problems] the share of right samples. Raises `ValueError` if the models had different problems."""
    found = [_by_problem(attempts) for attempts in runs]
    if any(shares.keys() != found[0].keys() for shares in found):
        raise ValueError(f"the models had different problems of {task}; benchmark all with the same --limit")
    return [[shares[name] for name in found[0]] for shares in found]


def exploitability_row(a: Mapping[str, Any], b: Mapping[str, Any], states: int) -> Row:
    """Exploitability in the game's units, from results in their JSON form; `states` counts the states queried.

    In a game of perfect information it is not known for a model that thinks first (`optimality`); then the row compares
    the regret in self-play, which is known for both.
    """
    known = a["exploitability"] is not None and b["exploitability"] is not None
    key, words = ("exploitability", "exploitability") if known else ("regret_self", "regret in self-play")
    left, right = _bounds(a, key), _bounds(b, key)
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


def prompt_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The prompt and sampling settings that differ between the two models in games, one sentence each."""
    return [
        f"{key.replace('_', '-')} is {a.get(key)} for A and {b.get(key)} for B in games, as each was trained"
        for key in dict.fromkeys((*a, *b))
        if a and b and a.get(key) != b.get(key)
    ]


def corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with p-values corrected for the number of tests among them."""
    tested = [index for index, row in enumerate(rows) if row.p_value is not None]
    adjusted = dict(zip(tested, holm([float(rows[index].p_value or 0.0) for index in tested]), strict=True))
    return [dataclasses.replace(row, p_adjusted=adjusted.get(index)) for index, row in enumerate(rows)]


def to_markdown(rows: Sequence[Row], a: str, b: str) -> str:
    """The rows as a Markdown table; a star marks significant differences."""
    lines = [f"| | n | {a} | {b} | difference | p (Holm) |", "|---|---|---|---|---|---|"]
    for row in rows:
        p_value = "" if row.p_adjusted is None else f"{row.p_adjusted:.3g}"
        difference = estimate_text(row.difference, signed=True) + (" *" if row.significant else "")
        lines.append(
            f"| {row.measure} | {row.n} | {estimate_text(row.a)} | {estimate_text(row.b)} | {difference} | {p_value} |"
        )
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, with all columns."""
    file = io.StringIO()
    records: list[Mapping[str, Any]] = [row.to_json() for row in rows]
    writer = csv.DictWriter(file, fieldnames=list(records[0]) if records else ["measure"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def paired_row(
    kind: Kind, measure: str, better: Literal["higher", "lower"], a: Sequence[float], b: Sequence[float], size: int
) -> Row:
    """A row of shares of deals or problems, each over `size` games or samples; with a single one there is no test."""
    difference: Estimate
    p_value = None
    if len(a) == 1:
        difference = constant_difference_interval(b[0] - a[0], 1, 1.0)
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


def _by_deal(
    episodes: Sequence[Episode], deals: Sequence[slice], quantity: Callable[[Episode, int], float]
) -> list[float]:
    """The mean of a quantity over the games of each deal, in which the model is player 0, 1 and so on."""
    return [fmean(quantity(episode, player) for player, episode in enumerate(episodes[deal])) for deal in deals]


def _score(episode: Episode, player: int) -> float:
    return 0.5 + 0.5 * episode.result(player)


def _illegal(episode: Episode, player: int) -> float:
    return float(episode.outcome == "illegal_move" and episode.turns[-1].player == player)


def _by_problem(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Share of right samples for each problem id."""
    correct: dict[str, list[bool]] = {}
    for attempt in attempts:
        correct.setdefault(attempt.id, []).append(attempt.correct)
    return {name: float(np.mean(found)) for name, found in correct.items()}


def _bounds(result: Mapping[str, Any], key: str) -> Estimate:
    """A value with its bounds; an exact value is its own bounds."""
    value = float(result[key])
    return Estimate(
        value=value, low=float(result.get(f"{key}_low", value)), high=float(result.get(f"{key}_high", value))
    )


def estimate_text(estimate: Estimate, *, signed: bool = False) -> str:
    """Value and interval as text; an exact value stands alone."""
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if signed else "{:.3f} [{:.3f}, {:.3f}]"
    if estimate.low == estimate.high:
        return form.split(" ", maxsplit=1)[0].format(estimate.value)
    return form.format(estimate.value, estimate.low, estimate.high)
