"""What Python programs call for whole runs: train one, read what it left, load who plays.

The parts (games, theory, the game loop, evaluation) are called where they are; `spiral/__init__.py` names them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from spiral.core.metrics import Metrics
from spiral.core.steps import numbered
from spiral.games import Game, load_game
from spiral.launch import execute, saved_recipe, start
from spiral.launch import resume as resume_run
from spiral.policies import Policy, registry
from spiral.runs.directory import RunDirectory
from spiral.runs.directory import read_metrics as metrics_rows
from spiral.runs.recipe import Recipe, load_recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A run that has come to its last step."""

    run_dir: Path
    step: int
    """Training steps done."""
    metrics: dict[str, float]
    """Those of the last step, with what was measured after it; empty when no step was taken."""


def train(
    recipe: str | Path,
    run_dir: str | Path,
    *,
    steps: int | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    show: Callable[[int, Metrics], None] = lambda _step, _metrics: None,
) -> TrainResult:
    """Trains a run to its last step, as `spiral train RECIPE --run-dir RUN_DIR` does.

    Args:
        recipe: A built-in recipe's name or a TOML file.
        run_dir: Where the run's files go. Its last checkpoint is a MODEL for everything that takes one.
        steps: Training steps, in place of the recipe's `run.steps`.
        resume: Go on from the run's last checkpoint; where there is no run yet, begin one. Its settings, `steps` apart,
            have to be those given here.
        overrides: Settings as on the command line, such as `"learner.epochs=1"`.
        show: Called with the step and its metrics after every step.

    Raises:
        ValueError: The recipe is wrong, the run does not fit this machine, or the directory already holds a run, or
            another process has it.
        spiral.launch.RunStopped: Ctrl-C or SIGTERM; there is a checkpoint, and `resume=True` goes on from it.
    """
    given = load_recipe(str(recipe), [*overrides, *([f"run.steps={steps}"] if steps is not None else [])])
    path = Path(run_dir)
    if resume and RunDirectory(path).begun():
        changed = differences(saved_recipe(path), given)
        if changed:
            raise ValueError(f"a run goes on with its own settings: {'; '.join(changed.values())}")
        run = resume_run(path, given.run.steps if steps is not None else None)
    else:
        run = start(given, path)
    try:
        run = execute(run, show)
        step = run.learner.version
    finally:
        run.close()
    rows = metrics_rows(path)
    metrics = {key: value for key, value in rows[-1].items() if key != "step"} if rows else {}
    return TrainResult(run_dir=path, step=step, metrics=metrics)


def differences(saved: Recipe, given: Recipe) -> dict[str, str]:
    """The settings, run length apart, in which two recipes differ: `section.key` and what to say about it."""
    found = {}
    mine, other = saved.model_dump(exclude={"summary"}), given.model_dump(exclude={"summary"})
    for section, values in mine.items():
        for key, value in values.items():
            name = f"{section}.{key}"
            if other[section][key] != value and name != "run.steps":
                found[name] = f"{name} is {value!r} in the run and {other[section][key]!r} here"
    return found


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """One row a step, `step` first; `pandas.DataFrame(read_metrics(run_dir))` is a table."""
    return metrics_rows(Path(run_dir))


def read_episodes(run_dir: str | Path) -> list[dict[str, Any]]:
    """One row a turn of every episode that the run has kept, with its training `step`.

    The other columns are those of the Parquet files in `RUN_DIR/episodes`.
    """
    files = numbered(Path(run_dir) / "episodes", ".parquet")
    return [{"step": step, **row} for step, file in files for row in pq.read_table(file).to_pylist()]


def load_policy(name: str, game: str | Game, **options: Any) -> Policy:
    """The player that a MODEL's name stands for: a scripted one, a model, a run, or `endpoint:NAME`.

    Args:
        name: As on the command line, such as "minimax", "nano", "runs/r1" or "runs/r1@15".
        game: The game that it is to play.
        options: Fields of `spiral.policies.registry.PolicyOptions`, such as `temperature=0.0`.
    """
    rules = load_game(game) if isinstance(game, str) else game
    return registry.load_policy(name, rules, registry.PolicyOptions(**options))
