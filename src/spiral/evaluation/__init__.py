"""How good a policy is: games against opponents, and exact game theory.

Names are imported when they are asked for, since most of them need torch and grading an answer does not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spiral.evaluation.arena import ArenaResult, evaluate
    from spiral.evaluation.exploitability import ExploitabilityResult, measure_exploitability
    from spiral.evaluation.optimality import OptimalityResult, TheoryResult, measure_optimality, measure_theory
    from spiral.evaluation.report import Report, measure, measure_benchmarks, read_report
    from spiral.evaluation.settings import EvaluationConfig

__all__ = [
    "ArenaResult",
    "EvaluationConfig",
    "ExploitabilityResult",
    "OptimalityResult",
    "Report",
    "TheoryResult",
    "evaluate",
    "measure",
    "measure_benchmarks",
    "measure_exploitability",
    "measure_optimality",
    "measure_theory",
    "read_report",
]
_MODULES = {
    "arena": ("ArenaResult", "evaluate"),
    "settings": ("EvaluationConfig",),
    "exploitability": ("ExploitabilityResult", "measure_exploitability"),
    "optimality": ("OptimalityResult", "TheoryResult", "measure_optimality", "measure_theory"),
    "report": ("Report", "measure", "measure_benchmarks", "read_report"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
