"""Evaluation of policies: games against opponents, exact game theory, reasoning benchmarks.

Names are imported on first use, since most of them need torch and grading an answer does not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spiral.evaluation.arena import ArenaResult, evaluate
    from spiral.evaluation.exploitability import (
        ExploitabilityResult,
        TheoryResult,
        evaluate_exploitability,
        evaluate_theory,
    )
    from spiral.evaluation.optimality import OptimalityResult, evaluate_optimality
    from spiral.evaluation.settings import EvaluationConfig

__all__ = [
    "ArenaResult",
    "EvaluationConfig",
    "ExploitabilityResult",
    "OptimalityResult",
    "TheoryResult",
    "evaluate",
    "evaluate_exploitability",
    "evaluate_optimality",
    "evaluate_theory",
]
_MODULES = {
    "arena": ("ArenaResult", "evaluate"),
    "settings": ("EvaluationConfig",),
    "exploitability": ("ExploitabilityResult", "TheoryResult", "evaluate_exploitability", "evaluate_theory"),
    "optimality": ("OptimalityResult", "evaluate_optimality"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
