"""A population of policies in a game with exact theory: payoffs, meta-strategies, exploitability, and no game played.

Each policy is its action probabilities in every information state. The payoff of one against another is its expected
return, averaged over both players; a meta-strategy is a share of each, and its exploitability that of the mixture in
which a player draws a policy before the game.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from spiral.evaluation.policy_table import decision_tree, decisions, known_table, sampled_table
from spiral.games import Game
from spiral.inference.base import LanguagePolicy
from spiral.theory import TabularPolicy, has_perfect_information
from spiral.theory.best_response import respond
from spiral.theory.cfr import normalised
from spiral.theory.metagame import FloatArray, alpha_rank, nash_average
from spiral.theory.mixture import mixture
from spiral.theory.tree import Floats, GameTree

SAMPLES = 200
"""Replies in each information state, of a policy whose probabilities cannot be computed."""


def uniform(payoffs: FloatArray) -> FloatArray:
    """Return the same share for every policy, [N]: fictitious play by PSRO."""
    return np.full(len(payoffs), 1 / len(payoffs))


META_SOLVERS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "nash": nash_average,
    "alpharank": alpha_rank,
    "uniform": uniform,
}


def population_tree(game: Game) -> GameTree:
    """Return the tree of a game with hidden information.

    Raises:
        ValueError: The game has no exact theory, or no hidden information.
    """
    if has_perfect_information(game):
        raise ValueError(
            f"{game.spec} hides nothing from its players, and its positions are too many to keep the histories of a"
            " mixture apart; expected a game with hidden information and exact theory, such as 'kuhn_poker'"
        )
    return decision_tree(game)


def policy_array(policy: LanguagePolicy | TabularPolicy, game: Game, seed: int) -> tuple[Floats, str]:
    """Return a policy's action probabilities, [A], without its illegal replies, and how they were found."""
    table = known_table(policy, game)
    if table is None:
        assert isinstance(policy, LanguagePolicy)  # the others are always known
        table = sampled_table(policy, game, decisions(game), samples=SAMPLES, seed=seed, purpose="population")
    return normalised(decision_tree(game), table.to_array()), table.method


def payoff(tree: GameTree, row_A: Floats, column_A: Floats) -> float:
    """Return the expected return of one policy against another, averaged over both players."""

    def first(one_A: Floats, other_A: Floats) -> float:
        together_A = np.where(tree.player_A == 0, one_A, other_A)
        return float(tree.values(tree.edge_weights(together_A))[0])

    return (first(row_A, column_A) - first(column_A, row_A)) / 2


def payoffs(tree: GameTree, policies: Sequence[Floats]) -> FloatArray:
    """Return the payoff of every policy against every other, [N, N]."""
    return np.array([[payoff(tree, row, column) for column in policies] for row in policies])


def meta_strategy(payoffs_NN: FloatArray, solver: str) -> FloatArray:
    """Return the share of each policy by one of `META_SOLVERS`, [N].

    Raises:
        ValueError: The solver needs a package that is not installed.
    """
    return np.ones(1) if len(payoffs_NN) == 1 else META_SOLVERS[solver](payoffs_NN)


def mixture_exploitability(tree: GameTree, policies: Sequence[Floats], shares: Sequence[float]) -> float:
    """Return what a best response wins against a meta-strategy, averaged over both players."""
    mixed_A = mixture(tree, policies, shares)
    return (respond(tree, mixed_A, 0)[0] + respond(tree, mixed_A, 1)[0]) / 2
