"""Intervals and tests: values by hand, from tables and from SciPy, properties, and coverage."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiral.evaluation.statistics import (
    Estimate,
    Rate,
    avg_at_k,
    bootstrap_weights,
    clustered_rate,
    cohen_kappa,
    constant_difference_interval,
    holm,
    mean_interval,
    mean_of_estimates,
    paired_difference,
    share_draws,
    sign_flip_p_value,
    student_95,
    wilson,
)


def mean(items):
    return sum(items) / len(items)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # From printed tables of Student's t, 97.5%.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (29, 2.045), (100, 1.984)],
)
def test_students_quantile(freedom, quantile):
    assert student_95(freedom) == pytest.approx(quantile, rel=2e-3)


def test_students_quantile_needs_a_degree_of_freedom():
    with pytest.raises(ValueError, match="got 0 degrees of freedom"):
        student_95(0)


def test_the_interval_of_a_mean_by_hand():
    # Mean 3, standard deviation sqrt(2.5), standard error sqrt(0.5), t(4) = 2.776.
    result = mean_interval([1, 2, 3, 4, 5])
    assert result.value == 3
    assert (result.low, result.high) == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=2e-3)
    assert mean_interval([0.5, 0.5, 0.5]) == Estimate(value=0.5, low=0.5, high=0.5)


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0]]])
def test_one_value_has_no_interval(values):
    with pytest.raises(ValueError, match="pass a 1-D array of at least two"):
        mean_interval(values)


def test_intervals_of_means_cover_the_truth():
    rng = np.random.default_rng(0)
    for size in (3, 8):
        results = [mean_interval(row) for row in rng.normal(size=(1000, size))]
        assert np.mean([result.low <= 0 <= result.high for result in results]) == pytest.approx(0.95, abs=0.025)


def test_bootstrap_weights_draw_with_replacement():
    weights = bootstrap_weights(5, np.random.default_rng(0), 4000)
    assert weights.shape == (4000, 5)
    assert set(weights.sum(axis=1)) == {5.0}
    # Binomial with 5 trials of 1/5: mean 1, variance 0.8.
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.06)
    assert weights.var(axis=0) == pytest.approx(np.full(5, 0.8), abs=0.08)


def test_a_paired_difference_by_hand():
    # Differences 1, 0, 0, 1, 0, 1, 1: mean 4/7. The four that are not 0 all point one way: 2 of 2^4 flips.
    result = paired_difference([1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0])
    assert result.value == pytest.approx(4 / 7)
    assert result.p_value == 2 / 16
    assert result.clusters == 7
    # Standard deviation sqrt(12/42), t(6) = 2.447.
    half = 2.447 * math.sqrt(12 / 42 / 7)
    assert (result.low, result.high) == pytest.approx((4 / 7 - half, 4 / 7 + half), abs=2e-3)


def test_a_paired_difference_is_the_interval_of_the_differences():
    a, b = np.random.default_rng(0).normal(size=(2, 12))
    result, formula = paired_difference(a, b), mean_interval(a - b)
    assert (result.value, result.low, result.high) == pytest.approx((formula.value, formula.low, formula.high))
    turned = paired_difference(b, a)
    assert (turned.value, turned.p_value) == pytest.approx((-result.value, result.p_value))


def test_no_difference():
    result = paired_difference([1, 0, 1], [1, 0, 1])
    assert (result.value, result.low, result.high, result.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("pairs", "bound"),
    # z^2 / (n + z^2) with z^2 = 3.841459: 3.841459 / 5.841459, / 13.841459, / 53.841459, / 403.841459.
    [(2, 0.657620), (10, 0.277533), (50, 0.071348), (400, 0.009512)],
)
def test_pairs_without_difference_by_hand(pairs, bound):
    right = [1.0, 0.0] * (pairs // 2)
    result = paired_difference(right, right, largest=1)
    assert (result.value, result.p_value, result.clusters) == (0, 1, pairs)
    assert (result.low, result.high) == pytest.approx((-bound, bound), abs=1e-6)


def test_pairs_with_a_constant_difference_by_hand():
    # Ten pairs: up to 0.277533 of all may be others. 0.722467 x 1 -+ 0.277533, 0.722467 x 0.5 -+ 0.277533.
    all_won = paired_difference([1] * 10, [0] * 10, largest=1)
    assert (all_won.value, all_won.low, all_won.high) == pytest.approx((1, 0.444934, 1), abs=1e-6)
    assert paired_difference([0] * 10, [1] * 10, largest=1).high == pytest.approx(-0.444934, abs=1e-6)
    half = paired_difference([0.75] * 10, [0.25] * 10, largest=1)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.083701, 0.638767), abs=1e-6)
    # In other units: chips of which two can be won or lost.
    chips = paired_difference([1.0] * 10, [0.0] * 10, largest=2)
    assert (chips.low, chips.high) == pytest.approx((2 * 0.083701, 2 * 0.638767), abs=2e-6)


def tango(ahead, behind, pairs, difference):
    """The score statistic of Tango (1998): pairs ahead, pairs behind, and the difference that is tested."""
    b = -ahead - behind + (2 * pairs - ahead + behind) * difference
    c = -behind * difference * (1 - difference)
    restricted = (math.sqrt(b**2 - 8 * pairs * c) - b) / (4 * pairs)
    variance = pairs * (2 * restricted + difference * (1 - difference))
    return (ahead - behind - pairs * difference) / math.sqrt(variance)


@pytest.mark.parametrize("pairs", [2, 5, 30, 1000])
def test_the_interval_of_a_constant_difference_is_tangos(pairs):
    none, all_ahead = constant_difference_interval(0, pairs, 1), constant_difference_interval(1, pairs, 1)
    assert tango(0, 0, pairs, none.high) == pytest.approx(-1.959964)
    assert none.low == -none.high
    assert tango(pairs, 0, pairs, all_ahead.low) == pytest.approx(1.959964)


@given(st.integers(2, 10_000), st.floats(-1, 1))
def test_more_pairs_narrow_the_interval_of_a_constant_difference(pairs, difference):
    fewer, more = (
        constant_difference_interval(difference, pairs, 1),
        constant_difference_interval(difference, 2 * pairs, 1),
    )
    assert -1 <= fewer.low <= more.low <= difference <= more.high <= fewer.high <= 1
    assert more.high - more.low < fewer.high - fewer.low


def test_other_pairs_have_students_interval():
    a, b = [1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0]
    assert paired_difference(a, b, largest=1) == paired_difference(a, b)
    # Shares of three samples: the same differences up to rounding.
    thirds = paired_difference([2 / 3, 1.0, 1 / 3, 1.0], [1 / 3, 2 / 3, 0.0, 2 / 3], largest=1)
    alike = constant_difference_interval(1 / 3, 4, 1)
    assert (thirds.low, thirds.high) == pytest.approx((alike.low, alike.high))
    # Two clusters of fifty agree: two things were seen, not a hundred.
    names = ["x"] * 50 + ["y"] * 50
    assert (
        paired_difference([1] * 100, [1] * 100, clusters=names, largest=1).high
        == constant_difference_interval(0, 2, 1).high
    )


def test_clusters_count_once():
    # Every item four times over is no more evidence than once.
    a, b = np.random.default_rng(3).normal(size=(2, 10)) + np.array([[1.0], [0.0]])
    once = paired_difference(a, b)
    names = [f"item {number}" for number in range(10) for _ in range(4)]
    fourfold = paired_difference(np.repeat(a, 4), np.repeat(b, 4), clusters=names)
    assert (fourfold.value, fourfold.low, fourfold.high) == pytest.approx((once.value, once.low, once.high))
    assert (fourfold.p_value, fourfold.clusters) == (once.p_value, 10)
    apart = paired_difference(np.repeat(a, 4), np.repeat(b, 4))
    assert apart.high - apart.low < (once.high - once.low) / 1.9
    assert apart.p_value < once.p_value


@pytest.mark.parametrize(
    ("a", "b", "clusters", "words"),
    [
        ([1, 2], [1], None, "expected one value per item"),
        ([[1, 2]], [[1, 2]], None, "expected one value per item"),
        ([1, 2], [1, 2], ["x"], "got 1 cluster names for 2 items"),
        ([1, 2], [1, 2], ["x", "x"], "got 1 clusters"),
        ([1], [2], None, "got 1 clusters"),
    ],
)
def test_invalid_paired_differences_are_refused(a, b, clusters, words):
    with pytest.raises(ValueError, match=words):
        paired_difference(a, b, clusters=clusters)


def test_random_flips_agree_with_all_flips(monkeypatch):
    totals = np.random.default_rng(5).normal(size=12) + 0.4
    exact = sign_flip_p_value(totals)
    flips = [abs(sum(sign * total for sign, total in zip(signs, totals, strict=True)))
             for signs in itertools.product((-1, 1), repeat=12)]  # fmt: skip
    assert exact == pytest.approx(np.mean(np.array(flips) >= abs(totals.sum()) - 1e-12))
    monkeypatch.setattr("spiral.evaluation.statistics.MAX_EXACT_CLUSTERS", 3)
    drawn = sign_flip_p_value(totals, seed=1)
    assert drawn == pytest.approx(exact, abs=0.015)
    assert drawn == sign_flip_p_value(totals, seed=1)
    assert drawn != sign_flip_p_value(totals, seed=2)


def test_many_items_in_one_direction():
    assert sign_flip_p_value(np.ones(40)) == 1 / 10_001
    assert 0.2 < sign_flip_p_value(np.tile([1.0, -1.0], 500) + 0.01) < 0.95


def test_p_values_without_a_difference_are_uniform():
    draws = np.random.default_rng(0).normal(size=(400, 9))
    p_values = np.array([sign_flip_p_value(row) for row in draws])
    for level in (0.1, 0.5):
        assert np.mean(p_values <= level) == pytest.approx(level, abs=0.06)


def test_holm_by_hand():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04; the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for p, after in zip(p_values, adjusted, strict=True):
        assert p <= after <= min(1.0, len(p_values) * p)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    assert [adjusted[index] for index in order] == sorted(adjusted)


def test_one_sample_per_item_is_wilson():
    result = avg_at_k([[1], [0], [0], [1], [1], [0], [1], [1]])
    expected = wilson(5, 8)
    assert (result.value, result.low, result.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_samples_that_always_agree_count_once():
    rows = [[1], [0], [0], [1], [1], [0], [1], [1]]
    once, fourfold = avg_at_k(rows), avg_at_k([row * 4 for row in rows])
    assert (fourfold.value, fourfold.low, fourfold.high) == pytest.approx((once.value, once.low, once.high))


def test_equal_items_count_with_all_their_samples():
    result, expected = avg_at_k([[1, 0, 1, 0]] * 10), wilson(20, 40)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_all_right_or_all_wrong_counts_once_per_item(right):
    assert avg_at_k(np.full((30, 4), right)) == wilson(30 * right, 30)


def test_shares_and_samples_give_the_same_rate():
    correct = np.random.default_rng(0).integers(0, 2, size=(20, 4))
    assert avg_at_k(correct) == clustered_rate(correct.mean(axis=1), 4)
    assert isinstance(avg_at_k(correct), Rate)


def test_intervals_over_clusters_cover_the_truth():
    rng = np.random.default_rng(0)
    chances = rng.beta(0.4, 0.6, size=(800, 40))
    results = [avg_at_k(rng.random((40, 4)) < row[:, None]) for row in chances]
    assert np.mean([result.low <= 0.4 <= result.high for result in results]) == pytest.approx(0.95, abs=0.025)
    naive = [wilson(round(result.value * 160), 160) for result in results]
    assert np.mean([result.low <= 0.4 <= result.high for result in naive]) < 0.85


@pytest.mark.parametrize("correct", [[], [1, 0], [[]]])
def test_arrays_without_items_or_samples_are_refused(correct):
    with pytest.raises(ValueError, match="expected \\[items, samples\\]"):
        avg_at_k(correct)
    with pytest.raises(ValueError, match="expected one per item"):
        clustered_rate([], 4)


def test_the_same_as_scipy():
    stats = pytest.importorskip("scipy.stats")
    for successes, trials in ((0, 5), (7, 20), (20, 20)):
        ours, theirs = wilson(successes, trials), stats.binomtest(successes, trials).proportion_ci(method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert [student_95(freedom) for freedom in range(1, 50)] == pytest.approx(
        [stats.t.ppf(0.975, freedom) for freedom in range(1, 50)], rel=2e-3
    )
    differences = np.random.default_rng(0).normal(0.4, 1.0, 12)
    theirs = stats.permutation_test(
        (differences,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", vectorized=True
    )
    assert sign_flip_p_value(differences) == pytest.approx(theirs.pvalue)


def test_the_mean_of_independent_estimates():
    """Equal intervals shrink with the square root of their number; one-sided ones stay one-sided."""
    one = Estimate(value=0.5, low=0.4, high=0.7)
    mean = mean_of_estimates([one] * 4)
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.5, 0.5 - 0.05, 0.5 + 0.1))
    assert mean_of_estimates([one]).low == pytest.approx(0.4)
    certain = mean_of_estimates([wilson(0, 30), wilson(0, 30)])
    assert (certain.value, certain.low) == (0.0, 0.0)
    assert certain.high == pytest.approx(wilson(0, 30).high / math.sqrt(2))
    with pytest.raises(ValueError, match="no estimates"):
        mean_of_estimates([])


def test_the_mean_of_estimates_covers_the_mean_of_shares():
    rng, shares, covered = np.random.default_rng(0), (0.1, 0.4, 0.9), 0
    for _ in range(400):
        mean = mean_of_estimates([wilson(float(rng.binomial(40, share)), 40) for share in shares])
        covered += mean.low <= np.mean(shares) <= mean.high
    assert 0.92 <= covered / 400 <= 0.98


def test_share_draws_have_the_moments_of_the_distribution():
    drawn = share_draws([(3, 10, 0.25), (8, 10, 0.75)], np.random.default_rng(0), 100_000)
    assert drawn.mean() == pytest.approx(0.25 * 3.5 / 11 + 0.75 * 8.5 / 11, abs=0.001)
    variance = 0.0625 * (3.5 * 7.5) / (121 * 12) + 0.5625 * (8.5 * 2.5) / (121 * 12)
    assert drawn.var() == pytest.approx(variance, rel=0.02)


def test_kappa_by_hand():
    # 20 both, 5 and 10 apart, 15 neither: agreement 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4
    a = [True] * 25 + [False] * 25
    b = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    kappa = cohen_kappa(a, b)
    assert kappa.value == pytest.approx(0.4)
    # the large-sample standard error of kappa (Fleiss, Cohen and Everitt, 1969) is 0.127 here
    assert kappa.high - kappa.low == pytest.approx(2 * 1.96 * 0.127, rel=0.08)
    assert cohen_kappa(b, a).value == pytest.approx(0.4)
    assert cohen_kappa(a, a).value == 1
    blind = cohen_kappa([True] + [False] * 29, [False] * 30)
    assert (blind.value, blind.low < -0.02, blind.high > 0.3) == (0, True, True)
    assert cohen_kappa([True, False], [False, True]).value == -1
    assert cohen_kappa([True, True], [True, True]) is None
    with pytest.raises(ValueError, match="one per item from both"):
        cohen_kappa([True], [True, False])
    with pytest.raises(ValueError, match="one per item from both"):
        cohen_kappa([], [])
