"""A population of policies in a game with exact theory: payoffs, meta-strategies, exploitability, and no game played.

Each policy is its action probabilities in every information state, and plays both players. The payoff of one against
another is its expected return, averaged over both players. A meta-strategy is each player's share of every policy, and
its exploitability that of the mixture in which each player draws a policy before the game.
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
from spiral.theory.metagame import FloatArray, alpha_rank, zero_sum_equilibrium
from spiral.theory.tree import Floats, GameTree

SAMPLES = 200
"""Replies in each information state, of a policy whose probabilities cannot be computed."""


def _nash(tree: GameTree, policies: Sequence[Floats]) -> FloatArray:
    first = np.array([[_first_return(tree, row, column) for column in policies] for row in policies])
    return np.stack(zero_sum_equilibrium(first))


def _alpharank(tree: GameTree, policies: Sequence[Floats]) -> FloatArray:
    return np.stack([alpha_rank(payoffs(tree, policies))] * 2)


def _uniform(tree: GameTree, policies: Sequence[Floats]) -> FloatArray:  # noqa: ARG001 - the signature of every solver
    return np.full((2, len(policies)), 1 / len(policies))


META_SOLVERS: Mapping[str, Callable[[GameTree, Sequence[Floats]], FloatArray]] = {
    "nash": _nash,
    "alpharank": _alpharank,
    "uniform": _uniform,
}
"""Each returns the players' shares of the policies, [2, N]: an equilibrium of the game in which either player chooses a
policy, alpha-rank's long-run shares for both, or equal ones, which is fictitious play."""


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
    return (_first_return(tree, row_A, column_A) - _first_return(tree, column_A, row_A)) / 2


def _first_return(tree: GameTree, first_A: Floats, second_A: Floats) -> float:
    """The expected return of the first player."""
    together_A = np.where(tree.player_A == 0, first_A, second_A)
    return float(tree.values(tree.edge_weights(together_A))[0])


def payoffs(tree: GameTree, policies: Sequence[Floats]) -> FloatArray:
    """Return the payoff of every policy against every other, [N, N]."""
    return np.array([[payoff(tree, row, column) for column in policies] for row in policies])


def meta_strategy(tree: GameTree, policies: Sequence[Floats], solver: str) -> FloatArray:
    """Return both players' shares of the policies by one of `META_SOLVERS`, [2, N].

    Raises:
        ValueError: The solver needs a package that is not installed.
    """
    return np.ones((2, 1)) if len(policies) == 1 else META_SOLVERS[solver](tree, policies)


def exploitability(tree: GameTree, policy_A: Floats) -> float:
    """Return what a best response wins against a policy, averaged over both players."""
    return (respond(tree, policy_A, 0)[0] + respond(tree, policy_A, 1)[0]) / 2
