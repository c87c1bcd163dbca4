"""How far a policy is from equilibrium: expected returns, NashConv and exploitability, exactly.

NashConv is the sum over seats of what a best response would gain over the policy itself (Lanctot et al., 2017,
arXiv 1711.00832); zero means a Nash equilibrium. Exploitability is half of it: what a player who takes either seat
equally often loses, per game, to the best opponent, in units of the game's returns.
"""

from __future__ import annotations

from collections.abc import Sequence

from spiral.games import Game
from spiral.theory.policy import TabularPolicy, policy_probabilities
from spiral.theory.responses import respond
from spiral.theory.tree import build_tree


def expected_returns(
    game: Game, policies: Sequence[TabularPolicy], *, merge_positions: bool = False
) -> tuple[float, float]:
    """What each seat wins on average when seat 0 plays `policies[0]` and seat 1 plays `policies[1]`."""
    if len(policies) != game.num_players:
        raise ValueError(f"got {len(policies)} policies; expected one for each of the {game.num_players} seats")
    tree = build_tree(game, merge_positions)
    value = float(tree.values(tree.edge_weights(policy_probabilities(tree, policies)))[0])
    return (value, -value)


def nash_conv(game: Game, policy: TabularPolicy, *, merge_positions: bool = False) -> float:
    """The sum over seats of best-response value minus on-policy value, `policy` sitting in both seats.

    The game sums to zero, so the on-policy values cancel. `merge_positions` is for perfect information and a policy
    that depends on the position alone (see `tree`).
    """
    tree = build_tree(game, merge_positions)
    probability_A = policy_probabilities(tree, [policy, policy])
    return sum(respond(tree, probability_A, seat)[0] for seat in (0, 1))


def exploitability(game: Game, policy: TabularPolicy, *, merge_positions: bool = False) -> float:
    """NashConv / 2."""
    return nash_conv(game, policy, merge_positions=merge_positions) / 2.0
