"""Runs from start to end: `train` is the whole of one; `start`, `resume` and `execute` are its parts.

`local` is a run in one process, `spiral.distributed.run` one on a cluster; `lifecycle` treats both alike.
"""

from spiral.launch.lifecycle import Run, RunStopped, assemble, execute, resume, start
from spiral.launch.saved import saved_recipe
from spiral.launch.train import TrainResult, setting_differences, train

__all__ = [
    "Run",
    "RunStopped",
    "TrainResult",
    "assemble",
    "execute",
    "resume",
    "saved_recipe",
    "setting_differences",
    "start",
    "train",
]
