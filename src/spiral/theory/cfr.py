"""Approximate equilibria by CFR+: counterfactual regret minimisation with clipped regrets.

Each player in turn walks the tree against the other's current strategy, adds to every action the regret of not having
played it, clips at zero, and plays in proportion to what is left; the average strategy, later iterations weighing
more, approaches equilibrium (Zinkevich et al., 2007; Tammelin, 2014, arXiv 1407.5042).

`equilibrium` picks the best of what theory knows for a game: a closed form, perfect play, or CFR+.

Left out: sampling and abstraction. The whole tree is walked, as a few numpy passes per iteration.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from spiral.games import Game
from spiral.theory.best_response import respond
from spiral.theory.kuhn import kuhn_equilibrium
from spiral.theory.minimax import Minimax
from spiral.theory.policy import TablePolicy, TabularPolicy, table_from_probabilities
from spiral.theory.tree import Floats, GameTree, build_tree, has_perfect_information

CLOSE_ENOUGH = 2e-4
"""Exploitability at which CFR+ stops, as a share of the largest payoff: 0.0026 chips in Leduc poker."""
MOST_ITERATIONS = 1000
LEAST_ITERATIONS = 100
MOST_NODE_VISITS = 20_000_000
"""Nodes times iterations, which is some seconds; large trees get fewer iterations."""
CHECK_EVERY = 50


def solve_cfr(game: Game, iterations: int) -> TablePolicy:
    """The average policy of both players after `iterations` of CFR+ with alternating updates and linear averaging."""
    if iterations < 1:
        raise ValueError(f"got {iterations} iterations; expected 1 or more")
    tree = build_tree(game)
    average_A = next(itertools.islice(_averages(tree), iterations - 1, None))
    return table_from_probabilities(tree, normalised(tree, average_A))


@functools.lru_cache(maxsize=8)
def equilibrium(game: Game) -> TabularPolicy:
    """An equilibrium of `game`, kept for the next call: exact where theory has one, else within `CLOSE_ENOUGH`.

    Kuhn poker has a closed form, and where nothing is hidden or random perfect play is an equilibrium; other games are
    solved by CFR+. Raises `ValueError` for games without exact theory.
    """
    if game.spec == "kuhn_poker":
        return kuhn_equilibrium()
    try:
        open_game = has_perfect_information(game)
    except ValueError as error:
        raise ValueError(f"equilibrium cannot play {game.spec}: {error}") from error
    if open_game and not np.any(build_tree(game, True).chance_E < 1.0):
        return Minimax().policy
    return _solve(build_tree(game))


def _solve(tree: GameTree) -> TablePolicy:
    """CFR+ until it is close enough, or has taken long enough."""
    most = min(MOST_ITERATIONS, max(LEAST_ITERATIONS, MOST_NODE_VISITS // len(tree.actor_N)))
    target = CLOSE_ENOUGH * float(np.abs(tree.payoff_N).max())
    for iteration, average_A in enumerate(_averages(tree), 1):
        if iteration % CHECK_EVERY == 0 or iteration == most:
            probability_A = normalised(tree, average_A)
            exploitability = sum(respond(tree, probability_A, player)[0] for player in (0, 1)) / 2
            if exploitability <= target or iteration == most:
                break
    return table_from_probabilities(tree, probability_A)


def _averages(tree: GameTree) -> Iterator[Floats]:
    """The average policy after each iteration, as weights that are not normalised; one array, changed in place. [A]"""
    regret_A = np.zeros(len(tree.infoset_A))
    average_A = np.zeros(len(tree.infoset_A))
    for iteration in itertools.count(1):
        for player in (0, 1):
            strategy_A = normalised(tree, regret_A)
            regret_A = np.maximum(regret_A + _regrets(tree, strategy_A, player), 0.0)
            average_A += iteration * _own_weights(tree, normalised(tree, regret_A), player)
        yield average_A


def normalised(tree: GameTree, weight_A: Floats) -> Floats:
    """Weights as probabilities within each information state; uniform where all are zero. [A]"""
    total_A = np.bincount(tree.infoset_A, weight_A)[tree.infoset_A]
    uniform_A = 1.0 / np.bincount(tree.infoset_A)[tree.infoset_A]
    return np.where(total_A > 0.0, weight_A / np.where(total_A > 0.0, total_A, 1.0), uniform_A)


def _regrets(tree: GameTree, strategy_A: Floats, player: int) -> Floats:
    """What `player` would have gained by each action, weighted by the reach of chance and the other player. [A]"""
    sign = 1.0 if player == 0 else -1.0
    value_N = sign * tree.values(tree.edge_weights(strategy_A))
    others_reach_N = tree.reach(tree.edge_weights(np.where(tree.player_A == player, 1.0, strategy_A)))
    mine = tree.actor_N[tree.source_E] == player
    source, target = tree.source_E[mine], tree.target_E[mine]
    gain = others_reach_N[source] * (value_N[target] - value_N[source])
    regret_A: Floats = np.bincount(tree.slot_E[mine], gain, len(strategy_A)).astype(np.float64, copy=False)
    return regret_A


def _own_weights(tree: GameTree, strategy_A: Floats, player: int) -> Floats:
    """The strategy of `player` times its own probability of getting to each information state, zero elsewhere. [A]"""
    weight_E = np.where(tree.actor_N[tree.source_E] == player, tree.edge_weights(strategy_A), 1.0)
    reach_N = tree.reach(weight_E)
    # By perfect recall the player's own probability is the same at every node of an information state.
    nodes = np.flatnonzero(tree.actor_N == player)
    reach_I = np.zeros(len(tree.infosets))
    reach_I[tree.infoset_N[nodes]] = reach_N[nodes]
    return np.where(tree.player_A == player, reach_I[tree.infoset_A] * strategy_A, 0.0)
