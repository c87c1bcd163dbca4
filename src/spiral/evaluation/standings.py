"""A tournament's payoffs, ratings and rankings, each with its 95% interval.

Payoffs and scores are means over deals, each deal played from both sides; a win scores 1 and a draw 1/2, by the sign of
the return. Intervals are percentile bootstraps that resample whole deals, for all pairs of players at once, since all
of them played the same deals. They are too narrow with few deals, of zero width for a pair whose deals all ended alike,
and missing with one deal.

Alpha-rank and Nash averaging rank by payoffs, so a large win counts more than a small one; Elo ranks by wins.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spiral.core.seeds import derive_seed
from spiral.evaluation.statistics import bootstrap_weights
from spiral.evaluation.tournament import Pairing
from spiral.theory.metagame import (
    Cycles,
    FloatArray,
    MissingExtraError,
    alpha_rank,
    antisymmetric,
    cycles,
    elo,
    nash_average,
)

DRAWS = 2000
RANKING_DRAWS = 200
"""For alpha-rank and Nash averaging, which are solved again in each draw."""
ANCHOR = "random"
"""The player whose rating is 0, if it takes part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimates:
    """An array of estimates, each with its 95% interval; NaN where there is none."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """Results of later checkpoints against earlier ones, counted over all pairs of a run's checkpoints."""

    better: int
    worse: int
    undecided: int
    """Pairs whose payoff interval contains 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standings:
    """A finished tournament; [N, N] is row player against column player, [N] one value per player."""

    game: str
    seed: int
    episodes: int
    """Games between every two players."""
    players: tuple[str, ...]
    payoff: Estimates
    """Mean return of the row player in the game's units, [N, N]."""
    score: Estimates
    """Share of games won, a draw counting half, [N, N]."""
    games: FloatArray
    """Number of games that count, [N, N]."""
    illegal: FloatArray
    """Number of games that the row player ended with an illegal move, [N, N]."""
    not_played: FloatArray
    """Number of games without a result, [N, N]; the game of the same deal from the other side does not count either."""
    elo: Estimates
    alpharank: Estimates | None
    nash: Estimates | None
    cycles: Cycles | None
    history: History | None
    notes: tuple[str, ...]
    """Rankings that were left out, and why."""

    def to_json(self) -> dict[str, Any]:
        """Flat keys: estimates with `_low` and `_high`, None for unknown values."""
        flat: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Estimates):
                flat |= {field.name: _plain(value.value)}
                flat |= {f"{field.name}_low": _plain(value.low), f"{field.name}_high": _plain(value.high)}
            elif isinstance(value, np.ndarray):
                flat[field.name] = _plain(value.astype(np.int64))
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                flat[field.name] = dataclasses.asdict(value)
            else:
                flat[field.name] = list(value) if isinstance(value, tuple) else value
        return flat


def standings(
    game: str, players: Sequence[str], pairings: Sequence[Pairing], *, seed: int, checkpoints: int = 0
) -> Standings:
    """The standings from all pairings; the first `checkpoints` players are checkpoints of one run, in order."""
    deals, count = len(pairings[0].returns), len(players)
    payoff_PNN, score_PNN = np.full((deals, count, count), np.nan), np.full((deals, count, count), np.nan)
    illegal, not_played = np.zeros((count, count)), np.zeros((count, count))
    for pair in pairings:
        for side, (row, column) in enumerate(((pair.row, pair.column), (pair.column, pair.row))):
            payoff_PNN[:, row, column] = pair.returns[:, :, side].mean(1)
            score_PNN[:, row, column] = _scores(pair.returns[:, :, side]).mean(1)
            illegal[row, column], not_played[row, column] = pair.illegal[side], pair.not_played
    weights = bootstrap_weights(deals, np.random.default_rng(derive_seed(seed, "tournament", "bootstrap")), DRAWS)
    payoff, payoff_draws = _means(payoff_PNN, weights, 0.0)
    score, _ = _means(score_PNN, weights, 0.5)
    anchor = list(players).index(ANCHOR) if ANCHOR in players else None
    wins = 2 * np.nan_to_num(score_PNN).reshape(deals, -1)
    ratings, rating_draws = (elo((w @ wins).reshape(-1, count, count), anchor) for w in (np.ones((1, deals)), weights))
    ranks, notes = _rankings(payoff.value, payoff_draws[:RANKING_DRAWS], deals)
    whole = not np.isnan(payoff.value).any()
    return Standings(
        game=game,
        seed=seed,
        episodes=2 * deals,
        players=tuple(players),
        payoff=payoff,
        score=score,
        games=2.0 * np.sum(~np.isnan(payoff_PNN), axis=0),
        illegal=illegal,
        not_played=not_played,
        elo=_estimates(ratings[0], rating_draws, deals),
        alpharank=ranks.get("alpha-rank"),
        nash=ranks.get("Nash averaging"),
        cycles=cycles(payoff.value, payoff_draws) if whole else None,
        history=_history(payoff_draws, checkpoints) if checkpoints > 1 else None,
        notes=notes,
    )


def _scores(returns: FloatArray) -> FloatArray:
    """1 for a win, 1/2 for a draw, 0 for a loss, NaN for a game that was not played."""
    return np.asarray((np.sign(returns) + 1) / 2)


def _means(values_PNN: FloatArray, weights_DP: FloatArray, own: float) -> tuple[Estimates, FloatArray]:
    """Means over deals with intervals, [N, N], and in every bootstrap draw, [draws, N, N]; `own` is for the diagonal.

    A draw without any deal of a pair gets the pair's mean.
    """
    deals, count = values_PNN.shape[:2]
    known = ~np.isnan(values_PNN)
    sizes, sums = known.sum(0), np.nan_to_num(values_PNN).sum(0)
    means = np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)
    np.fill_diagonal(means, own)
    drawn_sizes, drawn_sums = ((weights_DP @ part.reshape(deals, -1)).reshape(-1, count, count)
                               for part in (known.astype(np.float64), np.nan_to_num(values_PNN)))  # fmt: skip
    drawn = np.divide(drawn_sums, drawn_sizes, out=np.tile(means, (len(weights_DP), 1, 1)), where=drawn_sizes > 0)
    return _estimates(means, drawn, np.where(np.eye(count, dtype=bool), 2, sizes)), drawn


def _estimates(value: FloatArray, draws: FloatArray, deals: int | FloatArray) -> Estimates:
    """Percentile intervals over the first dimension of `draws`, where there are at least two deals."""
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    known = np.broadcast_to(np.asarray(deals) >= 2, value.shape)
    low, high = np.where(known, np.minimum(low, value), np.nan), np.where(known, np.maximum(high, value), np.nan)
    return Estimates(value=value, low=low, high=high)


def _rankings(payoff: FloatArray, draws: FloatArray, deals: int) -> tuple[dict[str, Estimates], tuple[str, ...]]:
    """Rankings by payoffs, and notes on those left out because of missing games or packages."""
    if np.isnan(payoff).any():
        return {}, ("alpha-rank, Nash averaging and cycles are left out: some two players have no deal in common",)
    ranks, notes = {}, []
    methods: dict[str, Callable[[FloatArray], FloatArray]] = {"alpha-rank": alpha_rank, "Nash averaging": nash_average}
    for name, method in methods.items():
        try:
            ranks[name] = _estimates(method(payoff), np.stack([method(draw) for draw in draws]), deals)
        except MissingExtraError as error:
            notes.append(f"{name} is left out: {error}")
    return ranks, tuple(notes)


def _history(payoff_draws: FloatArray, checkpoints: int) -> History:
    later, earlier = np.tril_indices(checkpoints, -1)
    low, high = np.quantile(antisymmetric(payoff_draws)[:, later, earlier], [0.025, 0.975], axis=0)
    better, worse = int(np.sum(low > 0)), int(np.sum(high < 0))
    return History(better=better, worse=worse, undecided=len(later) - better - worse)


def _plain(values: Any) -> Any:
    """Nested lists, with None for NaN."""
    if isinstance(values, np.ndarray | list):
        return [_plain(part) for part in (values.tolist() if isinstance(values, np.ndarray) else values)]
    return None if isinstance(values, float) and math.isnan(values) else values
