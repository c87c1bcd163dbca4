"""Exact game theory on whole game trees: best responses, NashConv, minimax, equilibria.

For two-player zero-sum games with listed actions. Needs only `games` and numpy.
"""

from spiral.theory.best_response import BestResponse, best_response
from spiral.theory.cfr import equilibrium, solve_cfr
from spiral.theory.depth_limited import DepthLimited
from spiral.theory.exploitability import expected_returns, exploitability, nash_conv
from spiral.theory.kuhn import kuhn_equilibrium, kuhn_quantities
from spiral.theory.minimax import Minimax, minimax_actions, minimax_value
from spiral.theory.policy import TabularPolicy, policy_from_table, uniform_policy
from spiral.theory.tree import (
    has_perfect_information,
    information_states,
    require_two_player_zero_sum,
    tree_size,
)

__all__ = [
    "BestResponse",
    "DepthLimited",
    "Minimax",
    "TabularPolicy",
    "best_response",
    "equilibrium",
    "expected_returns",
    "exploitability",
    "has_perfect_information",
    "information_states",
    "kuhn_equilibrium",
    "kuhn_quantities",
    "minimax_actions",
    "minimax_value",
    "nash_conv",
    "policy_from_table",
    "require_two_player_zero_sum",
    "solve_cfr",
    "tree_size",
    "uniform_policy",
]
