"""How good a policy is: games against opponents, and exact game theory."""

from spiral.evaluation.arena import ArenaResult, evaluate
from spiral.evaluation.config import EvaluationConfig
from spiral.evaluation.exploitability import ExploitabilityResult, measure_exploitability
from spiral.evaluation.report import Report, measure, read_report

__all__ = [
    "ArenaResult",
    "EvaluationConfig",
    "ExploitabilityResult",
    "Report",
    "evaluate",
    "measure",
    "measure_exploitability",
    "read_report",
]
