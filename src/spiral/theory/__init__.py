"""Exact game theory on whole game trees: best responses, NashConv, minimax, equilibria. Needs games and numpy only."""

from spiral.theory.kuhn import kuhn_equilibrium
from spiral.theory.minimax import Minimax, minimax_actions, minimax_value
from spiral.theory.policy import TabularPolicy, policy_from_table, uniform_policy
from spiral.theory.responses import BestResponse, best_response
from spiral.theory.solvers import solve_cfr
from spiral.theory.tree import information_states, tree_size
from spiral.theory.values import expected_returns, exploitability, nash_conv

__all__ = [
    "BestResponse",
    "Minimax",
    "TabularPolicy",
    "best_response",
    "expected_returns",
    "exploitability",
    "information_states",
    "kuhn_equilibrium",
    "minimax_actions",
    "minimax_value",
    "nash_conv",
    "policy_from_table",
    "solve_cfr",
    "tree_size",
    "uniform_policy",
]
