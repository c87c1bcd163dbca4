"""Elo, alpha-rank, Nash averaging and cycles: values by hand, and properties."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiral.theory.metagame import (
    MissingExtraError,
    alpha_rank,
    antisymmetric,
    bradley_terry,
    cycles,
    cyclic_component,
    elo,
    nash_average,
    zero_sum_equilibrium,
)

CIRCLE = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
"""Rock, paper, scissors."""
LADDER = np.subtract.outer([3.0, 2.0, 0.0, -1.0], [3.0, 2.0, 0.0, -1.0])
BROKEN_CIRCLE = np.array([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-2.0, 1.0, 0.0]])


def certain(payoffs):
    """Bootstrap draws without variance."""
    return np.repeat(payoffs[None], 10, axis=0)


def test_elo_of_three_wins_in_four_games():
    three_to_one = np.array([[0.0, 3.0], [1.0, 0.0]])
    first, second = elo(three_to_one, prior=0)
    assert first - second == pytest.approx(400 * math.log10(3))
    assert first - second == pytest.approx(190.85, abs=0.005)
    assert first == -second
    assert elo(three_to_one, anchor=1, prior=0) == pytest.approx([190.85, 0.0], abs=0.005)
    # One imagined draw: 3.5 to 1.5.
    assert np.diff(elo(three_to_one))[0] == pytest.approx(-400 * math.log10(3.5 / 1.5))


def test_elo_recovers_the_strengths_that_gave_the_scores():
    strengths = np.array([1.2, 0.1, -0.4, -0.9])
    chances = 1 / (1 + np.exp(-np.subtract.outer(strengths, strengths)))
    assert bradley_terry(50 * chances, prior=0) == pytest.approx(strengths, abs=1e-7)


def test_perfect_scores_have_finite_ratings():
    wins = np.triu(np.full((5, 5), 100.0), 1)
    found = elo(wins)
    assert np.all(np.diff(found) < -50)
    assert found.mean() == pytest.approx(0)
    assert found[0] - found[-1] < 4000
    with pytest.raises(ValueError, match="a player has only won or only lost"):
        elo(wins, prior=0)


def test_ratings_of_many_draws_at_once():
    wins = np.random.default_rng(0).integers(0, 40, size=(7, 5, 5)).astype(float)
    together = elo(wins, anchor=2)
    assert together == pytest.approx(np.stack([elo(draw, anchor=2) for draw in wins]))


def test_a_cycle_has_no_ranking():
    assert elo((CIRCLE + 1) * 10) == pytest.approx(np.zeros(3))
    assert alpha_rank(CIRCLE) == pytest.approx(np.full(3, 1 / 3))
    assert nash_average(CIRCLE) == pytest.approx(np.full(3, 1 / 3))
    found = cycles(CIRCLE, certain(CIRCLE))
    assert (found.triples, found.cyclic_triples) == (1, 1)
    assert (found.cyclic_part, found.cyclic_part_by_chance) == (1.0, 0.0)


def test_an_order_has_a_ranking():
    assert alpha_rank(LADDER) == pytest.approx([1, 0, 0, 0], abs=1e-5)
    assert nash_average(LADDER) == pytest.approx([1, 0, 0, 0])
    found = cycles(LADDER, certain(LADDER))
    assert (found.triples, found.cyclic_triples, found.cyclic_part) == (4, 0, 0.0)
    assert cyclic_component(LADDER) == pytest.approx(np.zeros((4, 4)))


def test_only_significant_triples_count():
    doubtful = np.stack([CIRCLE, CIRCLE * [[0, -1, 1], [-1, 0, 1], [1, 1, 0]]])
    found = cycles(CIRCLE, np.repeat(doubtful, 20, axis=0))
    assert (found.triples, found.cyclic_triples) == (0, 0)
    assert found.cyclic_part == 1.0
    nothing = cycles(np.zeros((3, 3)), np.zeros((5, 3, 3)))
    assert (nothing.triples, nothing.cyclic_part, nothing.cyclic_part_by_chance) == (0, 0.0, 0.0)


def test_noise_adds_to_the_cyclic_part():
    # Equal players: all that is there is chance, and of it 1 - 2/N is cyclic.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4000, 8, 8))
    found = cycles(noise[0], noise[0] + noise[1:])
    expected = (1 - 2 / 8) * 28 * np.var(antisymmetric(noise)[:, 0, 1]) / np.sum(np.triu(antisymmetric(noise[0])) ** 2)
    assert found.cyclic_part_by_chance == pytest.approx(min(1.0, expected), rel=0.05)


def test_the_nash_average_of_a_weighted_cycle():
    # p is proportional to what each of the others wins from the other: A p = 0.
    assert nash_average(BROKEN_CIRCLE) == pytest.approx([0.25, 0.5, 0.25])
    assert nash_average(BROKEN_CIRCLE + 5) == pytest.approx([0.25, 0.5, 0.25])


def test_a_player_who_enters_twice_changes_nothing():
    twice = CIRCLE[np.ix_([0, 0, 1, 2], [0, 0, 1, 2])]
    assert nash_average(twice) == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3], abs=1e-6)
    assert nash_average(np.zeros((5, 5))) == pytest.approx(np.full(5, 0.2), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(0, 10**6))
def test_nash_averages_are_maximum_entropy_equilibria(players, seed):
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    indices = rng.integers(0, players, size=players)
    payoffs = antisymmetric(np.round(2 * rng.normal(size=(players, players))))[np.ix_(indices, indices)]
    average = nash_average(payoffs)
    assert average.sum() == pytest.approx(1)
    assert average.min() >= 0
    assert (payoffs @ average).max() < 1e-7
    ones, zeros = np.ones((1, players)), np.zeros(players)
    other = linprog(rng.normal(size=players), A_ub=payoffs, b_ub=zeros, A_eq=ones, b_eq=[1])
    inside = average > 1e-9
    assert other.x[~inside] == pytest.approx(np.zeros((~inside).sum()), abs=1e-6)
    # Towards no other equilibrium does entropy grow.
    assert np.sum((other.x - average)[inside] * -np.log(average[inside])) < 1e-5


def test_an_equilibrium_of_different_players():
    """Rows win the difference on the diagonal; by hand: rows (1/3, 2/3), columns (1/3, 2/3), value 2/3."""
    rows, columns = zero_sum_equilibrium(np.array([[2.0, 0.0], [0.0, 1.0]]))
    assert rows == pytest.approx([1 / 3, 2 / 3])
    assert columns == pytest.approx([1 / 3, 2 / 3])
    rows, columns = zero_sum_equilibrium(np.array([[3.0, -1.0, 5.0]]))
    assert rows.tolist() == [1.0]
    assert columns == pytest.approx([0, 1, 0])


@pytest.mark.parametrize(
    ("package", "method"),
    [("open_spiel.python.egt", alpha_rank), ("scipy.linalg", nash_average), ("scipy.optimize", zero_sum_equilibrium)],
)
def test_a_missing_package_is_named(monkeypatch, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install open_spiel scipy"):
        method(CIRCLE)
