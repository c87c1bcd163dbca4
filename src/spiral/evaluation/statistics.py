"""Shares, means and differences with their intervals, and tests for clustered observations.

All intervals are 95%, all tests two-sided. The unit of observation is a *cluster*: an item of a benchmark with all its
samples, a deal with both of its games. Shares have Wilson's interval (Wilson, 1927), shares over clusters the same with
an effective sample size (Kish, 1965; Dean and Pagano, 2015), means Student's, everything else the percentile bootstrap
(Efron, 1979). A difference over the same items is tested by flipping signs (Fisher, 1935); if all items have the same
difference, its interval is Tango's (1998). Multiple tests are corrected after Holm (1979). The agreement of two raters
is Cohen's kappa (1960).

SciPy is not a dependency, since `spiral show` needs these intervals on every call: its Wilson interval takes whole
numbers of trials only, it has no Holm correction, and its permutation test is slower by an order of magnitude over a
benchmark's items. The tests check these functions against SciPy's.

Not supported: models of items and players beyond means.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054
MAX_EXACT_CLUSTERS = 14
"""Up to this number of clusters all 2^n sign flips are enumerated; beyond, `SIGN_FLIPS` random ones are drawn."""
SIGN_FLIPS = 10_000
ROUNDING = 1e-9
"""Differences of shares closer than this count as equal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share, a mean or any other number with its 95% interval."""

    value: float
    low: float
    high: float


Rate = Estimate
"""An estimate that is a share."""


def flat_rates(result: Any) -> dict[str, Any]:
    """The fields of a result dataclass as flat JSON: each rate with `_low` and `_high`, tuples as lists."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Estimate):
            flat |= {field.name: value.value, f"{field.name}_low": value.low, f"{field.name}_high": value.high}
        else:
            flat[field.name] = list(value) if isinstance(value, tuple) else value
    return flat


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference(Estimate):
    """Mean of the first minus mean of the second over the same items."""

    p_value: float
    """Two-sided: probability that random sign flips give a difference at least as large."""
    clusters: int


def wilson(successes: float, trials: float) -> Rate:
    """The share `successes / trials` with Wilson's 95% interval; `trials` may be an effective, fractional number."""
    share = successes / trials
    spread = Z95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return Rate(value=share, low=min(share, max(0.0, centre - half)), high=max(share, min(1.0, centre + half)))


def mean_interval(values: ArrayLike) -> Estimate:
    """The mean of independent values with Student's 95% interval. Raises `ValueError` for fewer than two."""
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1 or len(values_N) < 2:
        raise ValueError(
            f"cannot compute a mean interval from values of shape {values_N.shape}; pass a 1-D array of at least two"
        )
    mean = float(values_N.mean())
    half = student_95(len(values_N) - 1) * float(values_N.std(ddof=1)) / math.sqrt(len(values_N))
    return Estimate(value=mean, low=mean - half, high=mean + half)


def mean_of_estimates(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, such as a model's accuracies on several tasks, each with the same weight.

    The distances from the mean to its bounds are those of the estimates to theirs, added up as squares (the method of
    variance estimates recovery; Zou and Donner, 2008). With Wilson's intervals the width is never zero. It says how
    the mean would vary over other items of the same tasks, not over other tasks.

    Raises:
        ValueError: There is none.
    """
    if not estimates:
        raise ValueError("cannot compute the mean of no estimates; pass one or more")
    number = len(estimates)
    value = sum(each.value for each in estimates) / number
    low = value - math.hypot(*(each.value - each.low for each in estimates)) / number
    high = value + math.hypot(*(each.high - each.value for each in estimates)) / number
    return Estimate(value=value, low=low, high=high)


def student_95(freedom: int) -> float:
    """The 97.5% quantile of Student's t within 0.2%: exact for 1 and 2 degrees of freedom, else Fisher's expansion."""
    if freedom < 1:
        raise ValueError(f"got {freedom} degrees of freedom; expected at least 1")
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z, square = Z95, Z95**2
    terms = (
        z,
        z * (square + 1) / 4,
        z * (5 * square**2 + 16 * square + 3) / 96,
        z * (3 * square**3 + 19 * square**2 + 17 * square - 15) / 384,
        z * (79 * square**4 + 776 * square**3 + 1482 * square**2 - 1920 * square - 945) / 92160,
    )
    return sum((term / float(freedom) ** power for power, term in enumerate(terms)), start=0.0)


def bootstrap_weights(clusters: int, rng: np.random.Generator, draws: int = 2000) -> NDArray[np.float64]:
    """Counts of each cluster in each bootstrap resample, [draws, clusters]; for statistics that depend on sums."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    largest: float | None = None,
) -> PairedDifference:
    """Mean of `a` minus mean of `b` over the same items.

    The interval is Student's over clusters. The p-value flips the sign of whole clusters: in all ways up to
    `MAX_EXACT_CLUSTERS` of them, in `SIGN_FLIPS` seeded random ways beyond.

    Args:
        a: One value per item, [items].
        b: Values of the same items in the same order, [items].
        clusters: The cluster of each item, [items]; by default every item is its own.
        seed: Seed of the random sign flips.
        largest: Upper bound on an item's absolute difference, such as 1 for shares. Given it, items that all have the
            same difference get `constant_difference_interval` instead of an interval of zero width.

    Raises:
        ValueError: The shapes differ, or there are fewer than two clusters.
    """
    a_N, b_N = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_N.ndim != 1 or a_N.shape != b_N.shape:
        raise ValueError(f"got values of shapes {a_N.shape} and {b_N.shape}; expected one value per item in both")
    names = list(range(len(a_N))) if clusters is None else list(clusters)
    if len(names) != len(a_N):
        raise ValueError(f"got {len(names)} cluster names for {len(a_N)} items; expected one for each")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(numbers) < 2:
        raise ValueError(f"got {len(numbers)} clusters of items; a paired difference needs two or more")
    cluster_N = np.array([numbers[name] for name in names])
    difference_N = a_N - b_N
    mean = float(difference_N.mean())
    residuals_C = np.bincount(cluster_N, weights=difference_N - mean)
    count = len(numbers)
    error = math.sqrt(count / (count - 1) * float(residuals_C @ residuals_C)) / len(a_N)
    half = student_95(count - 1) * error
    low, high = mean - half, mean + half
    if largest is not None and float(np.abs(residuals_C).max()) <= ROUNDING * largest:
        constant = constant_difference_interval(mean, count, largest)
        low, high = constant.low, constant.high
    p_value = sign_flip_p_value(np.bincount(cluster_N, weights=difference_N), seed)
    return PairedDifference(value=mean, low=low, high=high, p_value=p_value, clusters=count)


def constant_difference_interval(difference: float, pairs: int, largest: float) -> Estimate:
    """The mean difference when all `pairs` pairs have the same `difference`, in [-largest, largest].

    After n pairs without exception, up to z^2 / (n + z^2) of all pairs may be exceptions (Wilson's bound for no success
    in n trials), and these may differ by `largest` either way. For binary outcomes without a discordant pair this is
    the score interval of Tango (1998, Statistics in Medicine 17, 891-908), +- z^2 / (n + z^2); if all pairs are
    discordant in one direction it is his as well.
    """
    unseen = wilson(0, pairs).high
    seen, other = (1 - unseen) * difference, unseen * largest
    low, high = max(-largest, min(difference, seen - other)), min(largest, max(difference, seen + other))
    return Estimate(value=difference, low=low, high=high)


def sign_flip_p_value(totals: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of the sum of `totals` [clusters] under the hypothesis that every sign is a coin flip."""
    totals_C = np.asarray(totals, dtype=np.float64)
    totals_C = totals_C[totals_C != 0]
    observed = abs(float(totals_C.sum())) * (1 - 1e-9)  # equal sums may differ by rounding
    if len(totals_C) <= MAX_EXACT_CLUSTERS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(totals_C))))
        return float(np.mean(np.abs(signs @ totals_C) >= observed))
    rng, extreme, remaining = np.random.default_rng(seed), 0, SIGN_FLIPS
    while remaining:
        size = min(remaining, max(1, 2_000_000 // len(totals_C)))
        signs = 2.0 * rng.integers(0, 2, size=(size, len(totals_C)), dtype=np.int8) - 1
        extreme += int(np.sum(np.abs(signs @ totals_C) >= observed))
        remaining -= size
    return (1 + extreme) / (1 + SIGN_FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction for multiple tests, in the same order; below 0.05 is significant."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def avg_at_k(correct: ArrayLike) -> Rate:
    """The mean of `correct` [items, samples], in [0, 1], with an interval that treats items as clusters."""
    correct_NK = np.asarray(correct, dtype=np.float64)
    if correct_NK.ndim != 2 or correct_NK.size == 0:
        raise ValueError(f"got an array of shape {correct_NK.shape}; expected [items, samples], at least one of each")
    return clustered_rate(correct_NK.mean(axis=1), correct_NK.shape[1])


def clustered_rate(shares: ArrayLike, samples: int) -> Rate:
    """The mean of `shares` [items], each over `samples` samples, with an interval that treats items as clusters.

    Wilson's interval with the effective number of trials p (1 - p) / var, where var is the variance of the mean over
    items: the number of items if an item's samples always agree, about items times samples if they are independent. If
    all samples are right or all are wrong, agreement is assumed. With one sample per item this is `wilson`.
    """
    shares_N = np.asarray(shares, dtype=np.float64)
    if shares_N.ndim != 1 or not len(shares_N):
        raise ValueError(f"got shares of shape {shares_N.shape}; expected one per item, and at least one item")
    items, share = len(shares_N), float(shares_N.mean())
    variance, binomial = float(shares_N.var()) / items, share * (1 - share)
    if binomial <= 0:
        effective = float(items)
    else:
        effective = min(binomial / variance, items * samples) if variance > 0 else float(items * samples)
    return wilson(share * effective, effective)


def cohen_kappa(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Estimate | None:
    """The agreement of two raters beyond chance, (p_o - p_e) / (1 - p_e) (Cohen, 1960).

    The interval is that of a smooth bootstrap: the shares of the four cells have the Dirichlet distribution of
    their counts plus 1/2 (Jeffreys' prior), so that it does not collapse where a cell is empty.

    Args:
        a: Whether the first rater says yes, one value per item, [items].
        b: The same of the second rater, in the same order.
        seed: Seed of the interval.

    Returns:
        1 for full agreement, 0 for as much as chance gives. None if both raters say the same of all items, since then
        chance explains everything.

    Raises:
        ValueError: The shapes differ, or there are no items.
    """
    a_N, b_N = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a_N.ndim != 1 or a_N.shape != b_N.shape or not len(a_N):
        raise ValueError(f"got ratings of shapes {a_N.shape} and {b_N.shape}; expected one per item from both raters")
    cells = (a_N & b_N, a_N & ~b_N, ~a_N & b_N, ~a_N & ~b_N)
    counts_4 = np.array([int(cell.sum()) for cell in cells], dtype=np.float64)
    value = float(_kappas(counts_4[None])[0])
    if math.isnan(value):
        return None
    drawn_D4 = np.random.default_rng(seed).dirichlet(counts_4 + 0.5, size=2000)
    low, high = np.quantile(_kappas(drawn_D4), (0.025, 0.975))
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def _kappas(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa [D] of counts or shares [D, 4]: both yes, only the first, only the second, neither; NaN if undefined."""
    both, first, second, neither = counts.T
    items = counts.sum(axis=1)
    observed = (both + neither) / items
    chance = ((both + first) * (both + second) + (neither + first) * (neither + second)) / items**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def share_draws(
    strata: Sequence[tuple[int, int, float]], rng: np.random.Generator, draws: int = 2000
) -> NDArray[np.float64]:
    """Plausible values of a share, [draws], from samples of strata of known size.

    Each stratum is `(successes, trials, weight)`; the weights sum to 1. The share of a stratum is drawn from the
    distribution Beta(successes + 1/2, trials - successes + 1/2) (Jeffreys' prior), a smooth bootstrap that does not
    collapse to a point where no trial, or every one, succeeds.
    """
    drawn = np.zeros(draws)
    for successes, trials, weight in strata:
        drawn += weight * rng.beta(successes + 0.5, trials - successes + 0.5, size=draws)
    return drawn
