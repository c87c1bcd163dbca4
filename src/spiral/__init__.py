"""SPIRAL: language models that learn to reason by playing zero-sum games against themselves.

    import spiral

    result = spiral.train("nano", "runs/first", steps=20)
    print(result.metrics["rollout/illegal"])

The public names are imported when they are first used, so that `import spiral` costs nothing and loads no torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spiral.evaluation import evaluate
    from spiral.evaluation.reasoning import grade
    from spiral.games import load_game
    from spiral.games.testing import check_game
    from spiral.launch import TrainResult, train
    from spiral.policies.registry import load_policy
    from spiral.rollout.loop import Match, play
    from spiral.runs.directory import read_episodes, read_metrics
    from spiral.text import parse_action
    from spiral.theory import best_response, expected_returns, exploitability, minimax_value, nash_conv
    from spiral.training.advantages import RAE

    __version__: str

_HOMES = {
    "spiral.evaluation": ("evaluate",),
    "spiral.evaluation.reasoning": ("grade",),
    "spiral.games": ("load_game",),
    "spiral.games.testing": ("check_game",),
    "spiral.launch": ("TrainResult", "train"),
    "spiral.policies.registry": ("load_policy",),
    "spiral.rollout.loop": ("Match", "play"),
    "spiral.runs.directory": ("read_episodes", "read_metrics"),
    "spiral.text": ("parse_action",),
    "spiral.theory": ("best_response", "expected_returns", "exploitability", "minimax_value", "nash_conv"),
    "spiral.training.advantages": ("RAE",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "RAE",
    "Match",
    "TrainResult",
    "__version__",
    "best_response",
    "check_game",
    "evaluate",
    "expected_returns",
    "exploitability",
    "grade",
    "load_game",
    "load_policy",
    "minimax_value",
    "nash_conv",
    "parse_action",
    "play",
    "read_episodes",
    "read_metrics",
    "train",
]


def __getattr__(name: str) -> object:
    """Imports a public name from its module (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("spiral-selfplay")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _let_waiting_threads_sleep() -> None:
    """Keeps PyTorch's threads from spinning while they wait for each other, unless the environment says otherwise.

    Where another program takes one of their cores, threads that spin wait for it at full speed: a step of the built-in
    recipe takes several times as long. OpenMP reads this when torch is imported, here and in every process we start.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ["KMP_BLOCKTIME"] = "0"  # LLVM's and Intel's OpenMP


_let_waiting_threads_sleep()
