"""What every move is worth where nothing is hidden, and what a table of probabilities amounts to.

Backward induction over positions gives the value of every move for the seat that makes it, chance averaged over. An
illegal reply gives away all that there is to lose: it counts as the worst ending for the seat that gave it.

Legend: I positions in which somebody decides, A their moves one after another, N rows of a table, F figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from spiral.evaluation.probabilities import StateRow, decision_tree
from spiral.games import Game
from spiral.theory.minimax import optimal_values
from spiral.theory.tree import Floats, GameTree

TIE = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimality:
    """Figures of play averaged over positions."""

    share: float
    """The probability of an optimal move."""
    top: float | None
    """The share of positions whose most likely legal move is optimal; of several equally likely, their share."""
    regret: float
    """The value given away by one move."""
    illegal: float
    """The probability of a reply that is not legal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """What every move of a game is worth; I positions in which somebody decides, A their moves one after another."""

    tree: GameTree
    optimal_A: npt.NDArray[np.bool_]
    regret_A: Floats
    forfeit_I: Floats
    """The regret of an illegal reply."""


def judge_game(game: Game) -> Judge:
    """What every move of a game of perfect information is worth, by backward induction."""
    tree = decision_tree(game)
    value_N = optimal_values(tree)
    moves = tree.slot_E >= 0
    sign_A = np.where(tree.player_A == 0, 1.0, -1.0)
    regret_A = np.zeros(len(sign_A))
    regret_A[tree.slot_E[moves]] = value_N[tree.source_E[moves]] - value_N[tree.target_E[moves]]
    regret_A *= sign_A
    nodes = np.flatnonzero(tree.infoset_N >= 0)
    value_I = np.zeros(len(tree.infosets))
    value_I[tree.infoset_N[nodes]] = value_N[nodes]
    first_I = np.array([infoset.player == 0 for infoset in tree.infosets])
    forfeit_I = np.where(first_I, value_I - tree.payoff_N.min(), tree.payoff_N.max() - value_I)
    return Judge(tree=tree, optimal_A=regret_A <= TIE, regret_A=regret_A, forfeit_I=forfeit_I)


def figures(judge: Judge, rows: Sequence[StateRow], places: Iterable[int]) -> Floats:
    """[F, N] the figures of `Optimality`, in their order, for N rows of a table that belong to the positions given."""
    found_NF = []
    for row, place in zip(rows, places, strict=True):
        first = judge.tree.infosets[place].first_slot
        slots = slice(first, first + len(row.probabilities))
        probabilities, optimal = np.array(list(row.probabilities.values())), judge.optimal_A[slots]
        top = (probabilities >= probabilities.max() - TIE) & (probabilities > 0.0)
        found_NF.append(
            (
                probabilities @ optimal,
                int(np.sum(top & optimal)) / max(1, int(np.sum(top))),
                probabilities @ judge.regret_A[slots] + row.illegal * judge.forfeit_I[place],
                row.illegal,
            )
        )
    return np.array(found_NF).T


def average(figures_FN: Floats, weight_N: Floats) -> Optimality:
    """The figures averaged over positions, each weighing what it is given."""
    share, top, regret, illegal = (float(value) for value in np.average(figures_FN, axis=1, weights=weight_N))
    return Optimality(share=share, top=top, regret=regret, illegal=illegal)


def visits(tree: GameTree, probability_A: Floats) -> Floats:
    """[I] how often a game meets each position; mass on illegal replies ends the game."""
    nodes = np.flatnonzero(tree.infoset_N >= 0)
    visits_I = np.zeros(len(tree.infosets))
    visits_I[tree.infoset_N[nodes]] = tree.reach(tree.edge_weights(probability_A))[nodes]
    return visits_I


def random_visits(tree: GameTree) -> Floats:
    """[I] how often a game of random play meets each position."""
    return visits(tree, 1.0 / np.bincount(tree.infoset_A)[tree.infoset_A])
