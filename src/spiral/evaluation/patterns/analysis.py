"""From verdicts on traces to tables: how often a pattern is shown, and how much of it moves from games to mathematics.

Shares are by checkpoint, domain and success, with Wilson's 95% interval. Right and wrong solutions are drawn apart; the
share of all solutions weighs them by how many of each there are. The share of games is that of the games drawn, winners
first, as in appendix F of the paper (v3); it is no share of all games.

The transfer rate of a pattern is the share of solutions that show it over the share of games that do (v3). Its interval
is that of a smooth bootstrap (`share_draws`). Neither says that training in games caused anything: a base model shows
patterns too, and step 0 is in the table for that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spiral.core.seeds import derive_seed
from spiral.evaluation.patterns.asking import UnusableError
from spiral.evaluation.patterns.codebook import PAPER, Pattern
from spiral.evaluation.patterns.judge import Verdict
from spiral.evaluation.patterns.traces import Domain, Trace
from spiral.evaluation.statistics import Estimate, Rate, flat_rates, share_draws, wilson

Group = tuple[str, int | None]
SUCCESSES: Mapping[Domain, tuple[str, ...]] = {"games": ("all", "won", "not won"), "maths": ("all", "right", "wrong")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """How many traces of a cell of the table show a pattern."""

    model: str
    step: int | None
    domain: Domain
    success: str
    """all, won, not won, right or wrong."""
    pattern: str
    traces: int
    """Labelled traces."""
    showing: int
    unlabelled: int
    share: Rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """How much of a pattern moves from games to mathematics at one checkpoint."""

    model: str
    step: int | None
    pattern: str
    games: Rate
    maths: Rate
    rate: Estimate | None
    """maths / games; None if no game shows the pattern."""

    def to_json(self) -> dict[str, Any]:
        """Flat keys; the paper's two shares beside ours, where it has the pattern."""
        values = flat_rates(self)
        if self.rate is None:
            values |= {"rate": None, "rate_low": None, "rate_high": None}
        paper_games, paper_maths = PAPER.get(self.pattern, (None, None))
        return {**values, "paper_games": paper_games, "paper_maths": paper_maths}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """The tables."""

    shares: tuple[Share, ...]
    transfer: tuple[Transfer, ...]

    def __add__(self, other: Analysis) -> Analysis:
        return Analysis(shares=self.shares + other.shares, transfer=self.transfer + other.transfer)


def analyse(
    traces: Sequence[Trace],
    verdicts: Sequence[Verdict],
    patterns: Sequence[Pattern],
    right_shares: Mapping[Group, float],
    seed: int,
) -> Analysis:
    """The tables of sampled traces and their verdicts.

    Args:
        traces: The sampled traces.
        verdicts: One for each trace, in the same order.
        patterns: The patterns that were looked for.
        right_shares: The share of right solutions among all solutions of a checkpoint, by `right_shares`.
        seed: Seed of the intervals of shares of several strata and of transfer rates.

    Raises:
        UnusableError: No trace could be labelled.
    """
    if all(verdict.shown is None for verdict in verdicts):
        raise UnusableError("the judge labelled no trace; take a stronger one")
    shares, transfers = [], []
    for group in dict.fromkeys(trace.group for trace in traces):
        pairs = [(trace, verdict) for trace, verdict in zip(traces, verdicts, strict=True) if trace.group == group]
        for pattern in patterns:
            cells = _cells(pairs, group, pattern.name, right_shares.get(group, 0.0), seed)
            shares += cells
            transfer = _transfer(cells, group, pattern.name, right_shares.get(group, 0.0), seed)
            transfers += [] if transfer is None else [transfer]
    return Analysis(shares=tuple(shares), transfer=tuple(transfers))


def right_shares(traces: Iterable[Trace]) -> dict[Group, float]:
    """The share of right solutions among all of a checkpoint, before sampling."""
    counts: dict[Group, list[bool]] = {}
    for trace in traces:
        if trace.domain == "maths":
            counts.setdefault(trace.group, []).append(trace.success)
    return {group: sum(found) / len(found) for group, found in counts.items()}


def _cells(pairs: Sequence[tuple[Trace, Verdict]], group: Group, pattern: str, right: float, seed: int) -> list[Share]:
    """The cells of one checkpoint and pattern; those without a labelled trace are left out."""
    cells = []
    for domain, successes in SUCCESSES.items():
        for success in successes:
            found = [
                verdict.shown
                for trace, verdict in pairs
                if trace.domain == domain and (success == "all" or trace.success == (success == successes[1]))
            ]
            labelled = [shown for shown in found if shown is not None]
            if not labelled:
                continue
            showing = sum(pattern in shown for shown in labelled)
            cells.append(
                Share(
                    model=group[0],
                    step=group[1],
                    domain=domain,
                    success=success,
                    pattern=pattern,
                    traces=len(labelled),
                    showing=showing,
                    unlabelled=len(found) - len(labelled),
                    share=wilson(showing, len(labelled)),
                )
            )
    return [_weighted(cell, cells, right, seed) for cell in cells]


def _weighted(cell: Share, cells: Sequence[Share], right: float, seed: int) -> Share:
    """The share of all solutions with right and wrong ones weighed; other cells unchanged."""
    strata = _strata(cells, right)
    if (cell.domain, cell.success) != ("maths", "all") or len(strata) < 2:
        return cell
    value = sum(weight * showing / traces for showing, traces, weight in strata)
    low, high = np.quantile(share_draws(strata, _generator(seed, cell.pattern, "maths")), (0.025, 0.975))
    return dataclasses.replace(cell, share=Rate(value=value, low=min(value, float(low)), high=max(value, float(high))))


def _strata(cells: Sequence[Share], right: float) -> list[tuple[int, int, float]]:
    """The right and the wrong solutions as `(showing, traces, weight)`."""
    weights = {"right": right, "wrong": 1 - right}
    found = [cell for cell in cells if cell.domain == "maths" and cell.success in weights]
    total = sum(weights[cell.success] for cell in found)
    if not total:
        return []
    return [(cell.showing, cell.traces, weights[cell.success] / total) for cell in found]


def _transfer(cells: Sequence[Share], group: Group, pattern: str, right: float, seed: int) -> Transfer | None:
    """The transfer rate at a checkpoint; None unless it has games and solutions."""
    whole = {cell.domain: cell for cell in cells if cell.success == "all"}
    if len(whole) < 2:
        return None
    games, maths = whole["games"], whole["maths"]
    rate = None
    if games.showing:
        value = maths.share.value / games.share.value
        drawn_maths = share_draws(_strata(cells, right), _generator(seed, pattern, "maths"))
        drawn_games = share_draws([(games.showing, games.traces, 1.0)], _generator(seed, pattern, "games"))
        low, high = np.quantile(drawn_maths / drawn_games, (0.025, 0.975))
        rate = Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))
        assert math.isfinite(rate.high)
    return Transfer(model=group[0], step=group[1], pattern=pattern, games=games.share, maths=maths.share, rate=rate)


def _generator(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "patterns", *names))
