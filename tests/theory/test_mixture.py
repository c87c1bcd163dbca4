"""A mixture of policies is one policy that plays the same, not the mean of their probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spiral.evaluation.population import exploitability, meta_strategy, payoff, payoffs, population_tree
from spiral.games import load_game
from spiral.theory import exploitability as theory_exploitability
from spiral.theory.best_response import respond
from spiral.theory.mixture import mixture
from spiral.theory.policy import policy_probabilities, table_from_probabilities, uniform_policy
from spiral.theory.tree import build_tree

KUHN = load_game("kuhn_poker")
TREE = build_tree(KUHN)


def by_first(bet, rest):
    """Bets with probability `bet` where it may, else takes the second action with probability `rest`."""

    def policy(state, player):
        first, second = state.legal_actions()
        share = bet if "bet" in (first, second) else rest
        return {first: 1 - share, second: share}

    return policy_probabilities(TREE, [policy, policy])


def test_the_shares_of_a_mixture_change_with_the_way_to_a_state():
    """One policy always checks first and always calls a bet, the other mostly bets, and never calls.

    That a player has checked says that it is rather the first one: 0.5 * 1 against 0.5 * 0.2, so that it calls in
    5/6 of the cases and not in half of them.
    """
    checks, bets = by_first(0.0, 0.0), by_first(0.8, 1.0)
    mixed = mixture(TREE, [checks, bets], [[0.5, 0.5]] * 2)
    found = {}
    for infoset in TREE.infosets:
        assert infoset.actions[0] in ("check", "call")
        found.setdefault((infoset.player, infoset.actions[0]), []).append(mixed[infoset.first_slot])
    assert found[0, "check"] == pytest.approx([0.5 * 1 + 0.5 * 0.2] * 3)
    assert found[1, "check"] == pytest.approx([0.6] * 3)
    assert found[1, "call"] == pytest.approx([0.5] * 3)
    assert found[0, "call"] == pytest.approx([5 / 6] * 3)


def test_a_mixture_wins_what_its_policies_win_in_the_mean():
    draw = np.random.default_rng(0)
    policies = [
        table_from_probabilities(TREE, row)
        for row in draw.dirichlet([1, 1], size=(3, len(TREE.infosets))).reshape(3, -1)
    ]
    arrays = [policy_probabilities(TREE, [policy, policy]) for policy in policies]
    shares = [0.5, 0.3, 0.2]
    other = policy_probabilities(TREE, [uniform_policy, uniform_policy])
    mixed = mixture(TREE, arrays, [shares, shares])
    expected = sum(share * payoff(TREE, one, other) for share, one in zip(shares, arrays, strict=True))
    assert payoff(TREE, mixed, other) == pytest.approx(expected, abs=1e-12)
    naive = sum(share * one for share, one in zip(shares, arrays, strict=True))
    assert abs(payoff(TREE, naive, other) - expected) > 1e-4
    matrix = payoffs(TREE, arrays)
    assert matrix == pytest.approx(-matrix.T)
    assert exploitability(TREE, mixed) == pytest.approx(
        theory_exploitability(KUHN, table_from_probabilities(TREE, mixed))
    )


def test_each_player_draws_by_its_own_shares():
    checks, bets = by_first(0.0, 0.0), by_first(0.8, 1.0)
    mixed = mixture(TREE, [checks, bets], [[1.0, 0.0], [0.0, 1.0]])
    assert np.where(TREE.player_A == 0, mixed, 0) == pytest.approx(np.where(TREE.player_A == 0, checks, 0))
    assert np.where(TREE.player_A == 1, mixed, 0) == pytest.approx(np.where(TREE.player_A == 1, bets, 0))


def test_double_oracle_with_exact_responses_solves_kuhn_poker():
    """The loop of PSRO without learning: its last mixture is an equilibrium."""
    tree = population_tree(KUHN)
    members = [policy_probabilities(tree, [uniform_policy, uniform_policy])]
    found = []
    for _ in range(12):
        mixed = mixture(tree, members, meta_strategy(tree, members, "nash").tolist())
        found.append(exploitability(tree, mixed))
        as_first, as_second = respond(tree, mixed, 0)[1], respond(tree, mixed, 1)[1]
        members.append(np.where(tree.player_A == 0, as_first, as_second))
    assert found[0] == pytest.approx(11 / 24)
    assert found[-1] < 1e-6


def test_what_has_no_mixture_is_refused():
    with pytest.raises(ValueError, match="needs perfect recall"):
        mixture(dataclasses.replace(TREE, merged=True), [by_first(0, 0)], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="of player 1; expected shares that sum to 1"):
        mixture(TREE, [by_first(0, 0)], [[1.0], [0.5]])
    with pytest.raises(ValueError, match="hides nothing from its players"):
        population_tree(load_game("tictactoe"))


def test_meta_strategies():
    """Who always bets wins a chip of who always folds."""
    folds, bets = by_first(0.0, 1.0), by_first(1.0, 0.0)
    assert meta_strategy(TREE, [folds], "alpharank").tolist() == [[1.0], [1.0]]
    assert meta_strategy(TREE, [folds, bets], "uniform").tolist() == [[0.5, 0.5], [0.5, 0.5]]
    ranked = meta_strategy(TREE, [folds, bets], "alpharank")
    assert ranked[0] == pytest.approx(ranked[1])
    won = payoff(TREE, bets, folds)
    assert won == pytest.approx(1)
    assert ranked[0][1] > 0.99
    assert meta_strategy(TREE, [folds, bets], "nash") == pytest.approx(np.array([[0, 1], [0, 1]]))
