"""Approximate equilibria by CFR+: counterfactual regret minimisation with clipped regrets.

In every iteration each player in turn adds to every action the regret of not having played it against the other's
current strategy, clips at zero, and plays in proportion to the regrets. The average strategy, with larger weights for
later iterations, converges to an equilibrium (Zinkevich et al., 2007; Tammelin, 2014, arXiv 1407.5042).

`equilibrium` picks the best method for a game: a closed form, perfect play, or CFR+.

Not supported: sampling and abstraction. Every iteration is a few numpy passes over the whole tree.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from spiral.games import Game
from spiral.theory.best_response import respond
from spiral.theory.kuhn import kuhn_equilibrium
from spiral.theory.minimax import perfect_play
from spiral.theory.policy import TablePolicy, TabularPolicy, table_from_probabilities
from spiral.theory.tree import Floats, GameTree, build_tree, has_perfect_information

CLOSE_ENOUGH = 2e-4
"""Exploitability at which CFR+ stops, as a share of the largest payoff: 0.0026 chips in Leduc poker."""
MAX_ITERATIONS = 1000
MIN_ITERATIONS = 100
MAX_NODE_VISITS = 20_000_000
"""Nodes times iterations, a few seconds; large trees get fewer iterations."""
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
    """An equilibrium of `game`, cached: exact if there is a closed form, else within `CLOSE_ENOUGH`.

    Kuhn poker has a closed form. In games of perfect information without chance, perfect play is an equilibrium. Other
    games are solved by CFR+. Raises `ValueError` for games without exact theory.
    """
    if game.spec == "kuhn_poker":
        return kuhn_equilibrium()
    try:
        is_open = has_perfect_information(game)
    except ValueError as error:
        raise ValueError(f"equilibrium cannot play {game.spec}: {error}") from error
    if is_open and not np.any(build_tree(game, True).chance_E < 1.0):
        return perfect_play(game).policy
    return _solve(build_tree(game))


def _solve(tree: GameTree) -> TablePolicy:
    """CFR+ until its exploitability is small enough or its iterations are used up."""
    iterations = min(MAX_ITERATIONS, max(MIN_ITERATIONS, MAX_NODE_VISITS // len(tree.actor_N)))
    target = CLOSE_ENOUGH * float(np.abs(tree.payoff_N).max())
    for iteration, average_A in enumerate(_averages(tree), 1):
        if iteration % CHECK_EVERY == 0 or iteration == iterations:
            probability_A = normalised(tree, average_A)
            exploitability = sum(respond(tree, probability_A, player)[0] for player in (0, 1)) / 2
            if exploitability <= target or iteration == iterations:
                break
    return table_from_probabilities(tree, probability_A)


def _averages(tree: GameTree) -> Iterator[Floats]:
    """The average policy after each iteration as unnormalised weights, [A]; one array, updated in place."""
    regret_A = np.zeros(len(tree.infoset_A))
    average_A = np.zeros(len(tree.infoset_A))
    for iteration in itertools.count(1):
        for player in (0, 1):
            strategy_A = normalised(tree, regret_A)
            regret_A = np.maximum(regret_A + _regrets(tree, strategy_A, player), 0.0)
            average_A += iteration * own_weights(tree, normalised(tree, regret_A), player)
        yield average_A


def normalised(tree: GameTree, weight_A: Floats) -> Floats:
    """Weights normalised to probabilities within each information state, [A]; uniform where all are zero."""
    total_A = np.bincount(tree.infoset_A, weight_A)[tree.infoset_A]
    uniform_A = 1.0 / np.bincount(tree.infoset_A)[tree.infoset_A]
    return np.where(total_A > 0.0, weight_A / np.where(total_A > 0.0, total_A, 1.0), uniform_A)


def _regrets(tree: GameTree, strategy_A: Floats, player: int) -> Floats:
    """Counterfactual regrets of `player`: gains weighted by the reach of chance and the other player, [A]."""
    sign = 1.0 if player == 0 else -1.0
    value_N = sign * tree.values(tree.edge_weights(strategy_A))
    others_reach_N = tree.reach(tree.edge_weights(np.where(tree.player_A == player, 1.0, strategy_A)))
    mine = tree.actor_N[tree.source_E] == player
    source, target = tree.source_E[mine], tree.target_E[mine]
    gain = others_reach_N[source] * (value_N[target] - value_N[source])
    regret_A: Floats = np.bincount(tree.slot_E[mine], gain, len(strategy_A)).astype(np.float64, copy=False)
    return regret_A


def own_weights(tree: GameTree, strategy_A: Floats, player: int) -> Floats:
    """The strategy of `player` times its own probability of reaching each information state, zero elsewhere, [A]."""
    weight_E = np.where(tree.actor_N[tree.source_E] == player, tree.edge_weights(strategy_A), 1.0)
    reach_N = tree.reach(weight_E)
    # By perfect recall the player's own probability is the same at every node of an information state.
    nodes = np.flatnonzero(tree.actor_N == player)
    reach_I = np.zeros(len(tree.infosets))
    reach_I[tree.infoset_N[nodes]] = reach_N[nodes]
    return np.where(tree.player_A == player, reach_I[tree.infoset_A] * strategy_A, 0.0)
