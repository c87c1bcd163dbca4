"""Best responses to a fixed policy, exactly.

Backward induction over the responder's information states, deepest first: each takes the action with the largest
value summed over its states, weighted by the probability with which chance and the other player reach them (the
computation of exploitability in Lanctot et al., 2019, arXiv 1908.09453). Nothing is sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from spiral.games import Game
from spiral.theory.policy import TabularPolicy, policy_probabilities, table_from_probabilities
from spiral.theory.tree import Floats, GameTree, InformationState, Ints, build_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestResponse:
    """The best response of `player` to the other player's policy."""

    player: int
    value: float
    """The responder's expected return."""
    actions: Mapping[str, str]
    """The action at each of the responder's information states; if positions are merged, at one state per position."""
    policy: TabularPolicy
    """The same as a policy."""


def best_response(game: Game, policy: TabularPolicy, player: int, *, merge_positions: bool = False) -> BestResponse:
    """The best response of `player` against `policy`.

    Ties go to the first legal action, as do information states that the other player never reaches.

    Args:
        game: A game with exact theory.
        policy: The other player's policy, asked at that player's information states only.
        player: 0 or 1.
        merge_positions: For perfect information and a policy that depends on the position alone (see `tree`).

    Raises:
        ValueError: The game has no exact theory, or the policy is invalid.
    """
    if player not in (0, 1):
        raise ValueError(f"got player {player!r}; expected 0 or 1")
    tree = build_tree(game, merge_positions)
    probability_A = policy_probabilities(tree, [policy if other != player else None for other in (0, 1)])
    value, chosen_A = respond(tree, probability_A, player)
    actions = {
        tree.infosets[tree.infoset_A[slot]].name: _action(tree, int(slot))
        for slot in np.flatnonzero((chosen_A == 1.0) & (tree.player_A == player))
    }
    reply = table_from_probabilities(tree, chosen_A, [player])
    return BestResponse(player=player, value=value, actions=actions, policy=reply)


def respond(tree: GameTree, probability_A: Floats, player: int) -> tuple[float, Floats]:
    """The value of the best response of `player`, and `probability_A` with it as the player's policy, [A].

    The entries of `probability_A` for `player` itself are not read.
    """
    sign = 1.0 if player == 0 else -1.0
    weight_A = np.where(tree.player_A == player, 1.0, probability_A)
    weight_E = tree.edge_weights(weight_A)
    # In a merged tree every decision is its own information state, so its best action does not depend on its reach.
    reach_N = np.ones(len(tree.actor_N)) if tree.merged else tree.reach(weight_E)
    value_N = sign * tree.payoff_N
    for level in reversed(tree.levels):
        edges = np.arange(level.edges.start, level.edges.stop)[tree.actor_N[tree.source_E[level.edges]] == player]
        if edges.size:
            gain_E = reach_N[tree.source_E[edges]] * value_N[tree.target_E[edges]]
            chosen = _first_best_slots(tree, tree.slot_E[edges], gain_E)
            weight_A[tree.slot_E[edges]] = 0.0
            weight_A[chosen] = 1.0
            weight_E[edges] = weight_A[tree.slot_E[edges]]
        tree.back_up(level, weight_E, value_N)
    return float(value_N[0]), weight_A


def _first_best_slots(tree: GameTree, slot_E: Ints, gain_E: Floats) -> Ints:
    """For each information state among the edges, its first slot with the largest sum of gains."""
    slots, index_E = np.unique(slot_E, return_inverse=True)
    gain = np.bincount(index_E, gain_E, len(slots))
    infosets, first = np.unique(tree.infoset_A[slots], return_index=True)
    best = np.repeat(np.maximum.reduceat(gain, first), np.diff(np.append(first, len(slots))))
    winners = slots[gain == best]
    _, first_winner = np.unique(tree.infoset_A[winners], return_index=True)
    assert len(first_winner) == len(infosets)
    chosen: Ints = winners[first_winner]
    return chosen


def _action(tree: GameTree, slot: int) -> str:
    infoset: InformationState = tree.infosets[tree.infoset_A[slot]]
    return infoset.actions[slot - infoset.first_slot]
