"""Groups of runs: intervals over runs by hand, their coverage, item by item, and what is refused."""

import json
import math

import numpy as np
import pytest

from spiral.evaluation.comparison import paired_row
from spiral.evaluation.group_comparison import (
    GroupRow,
    corrected_groups,
    difference_over_runs,
    group_cells,
    group_exploitability_row,
    groups_to_csv,
    groups_to_markdown,
    over_runs,
)


def row_of(a, b):
    """A row from the shares of every run, [runs, items]."""
    items = paired_row("benchmark", "m: accuracy", "higher", list(np.mean(a, axis=0)), list(np.mean(b, axis=0)), 2)
    return GroupRow(items=items, runs_a=tuple(np.mean(a, axis=1)), runs_b=tuple(np.mean(b, axis=1)))


def test_students_interval_over_runs():
    found = over_runs([0.40, 0.44, 0.48])
    half = 4.302653 * 0.04 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.44, 0.44 - half, 0.44 + half), rel=1e-5)
    assert over_runs([0.4]) is None
    assert over_runs([0.4, 0.4]) is None


def test_welchs_interval_of_a_difference():
    a, b = [0.1, 0.2, 0.15], [0.3, 0.5, 0.4, 0.45]
    parts = np.var(a, ddof=1) / 3, np.var(b, ddof=1) / 4
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    assert 4 < freedom < 5
    found = difference_over_runs(a, b)
    assert found.value == pytest.approx(np.mean(b) - np.mean(a))
    assert found.high - found.value == pytest.approx(2.776445 * math.sqrt(sum(parts)), rel=3e-3), "4 degrees of freedom"
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_one_run_counts_as_known():
    alone = difference_over_runs([0.2], [0.3, 0.4, 0.5])
    mean = over_runs([0.3, 0.4, 0.5])
    assert (alone.low, alone.high) == pytest.approx((mean.low - 0.2, mean.high - 0.2))
    assert difference_over_runs([0.2], [0.4]) is None
    assert difference_over_runs([0.2, 0.2], [0.4, 0.4]) is None


def test_the_interval_over_runs_covers_the_difference_of_methods():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(600):
        found = difference_over_runs(rng.normal(0.3, 0.02, 3), rng.normal(0.4, 0.06, 3))
        covered += found.low <= 0.1 <= found.high
    assert 0.93 <= covered / 600 <= 1.0


def test_a_row_says_both_uncertainties():
    a = [[0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 1, 0]]
    b = [[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1]]
    (row,) = corrected_groups([row_of(a, b)])
    flat = json.loads(json.dumps(row.to_json()))
    assert flat["a_runs"] == pytest.approx([1 / 6, 2 / 6])
    assert flat["difference"] == pytest.approx(11 / 12 - 3 / 12)
    assert flat["difference_low"] < flat["difference"] < flat["difference_high"]
    assert flat["items_difference_low"] < flat["difference"] < flat["items_difference_high"]
    assert flat["n"] == 6
    heading = groups_to_markdown([row], "A (2 runs)", "B (2 runs)").splitlines()[0]
    assert heading == "|  | n | A (2 runs) | B (2 runs) | difference over runs | over items | p (Holm) |"
    assert group_cells(row)[4].startswith("+0.667 [")
    assert "b_runs" in groups_to_csv([row]).splitlines()[0]
    assert group_cells(row_of([[0, 1]], [[0, 1], [0, 1]]))[2:5] == ["0.500", "0.500", "+0.000"]


def exploited(value, method="scored"):
    return {"game": "kuhn_poker", "exploitability": value, "method": method}


def test_exploitability_is_compared_over_runs():
    row = group_exploitability_row([exploited(0.4)], [exploited(0.1), exploited(0.2), exploited(0.3)], 12)
    assert row.runs_b == (0.1, 0.2, 0.3)
    assert row.difference.value == pytest.approx(-0.2)
    assert row.items.p_value is None
    assert group_cells(row)[5:] == ["", ""]
    swapped = group_exploitability_row([exploited(0.1), exploited(0.2)], [exploited(0.4)], 12)
    assert (swapped.runs_a, swapped.runs_b) == ((0.1, 0.2), (0.4,))
    with pytest.raises(ValueError, match="evaluated by different methods"):
        group_exploitability_row([exploited(0.4)], [exploited(0.1), exploited(0.2, method="sampled")], 12)
