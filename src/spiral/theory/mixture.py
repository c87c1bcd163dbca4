"""Mixtures of policies as one policy: a player draws one before a game and keeps it to the end.

The mixture is not the mean of the policies' action probabilities: that a player is in an information state says
something about which policy it has drawn. By Kuhn's theorem the policy

    p(a | I) = sum_i share_i reach_i(I) p_i(a | I)  /  sum_i share_i reach_i(I)

plays as the mixture does against every opponent, where reach_i(I) is the product of the probabilities that policy i
gives to its own actions on the way to I. It holds with perfect recall, so not in a tree whose positions are merged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiral.theory.cfr import normalised, own_weights
from spiral.theory.tree import Floats, GameTree


def mixture(tree: GameTree, policies: Sequence[Floats], shares: Sequence[Sequence[float]]) -> Floats:
    """Return the policy that plays as a mixture of policies, [A].

    Args:
        tree: The game, with perfect recall.
        policies: The action probabilities of each, [A].
        shares: For each of the two players, the probability that it draws each policy; they sum to one.

    Raises:
        ValueError: The tree's positions are merged, or there is not one share for each player and policy.
    """
    if tree.merged:
        raise ValueError("a mixture needs perfect recall; expected a tree whose positions are not merged")
    weight_A = np.zeros(len(tree.infoset_A))
    for player, own in zip((0, 1), shares, strict=True):
        if len(policies) != len(own) or min(own, default=-1) < 0 or abs(sum(own) - 1) > 1e-6:
            raise ValueError(
                f"got {len(policies)} policies and the shares {list(own)} of player {player}; expected shares that sum"
                " to 1"
            )
        for policy_A, share in zip(policies, own, strict=True):
            weight_A += share * own_weights(tree, policy_A, player)
    return normalised(tree, weight_A)
