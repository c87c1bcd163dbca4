"""`spiral.train`: a whole run from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from spiral.core.metrics import Metrics
from spiral.launch.lifecycle import execute, start
from spiral.launch.lifecycle import resume as resume_run
from spiral.launch.saved import saved_recipe
from spiral.runs.directory import RunDirectory, read_metrics
from spiral.runs.recipe import Recipe, load_recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A run that has reached its last step."""

    run_dir: Path
    step: int
    """Training steps done."""
    metrics: dict[str, float]
    """Metrics of the last step, its evaluation included; empty if no step was done."""


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
        resume: Resume from the run's last checkpoint; where there is no run yet, start one. Its settings must be those
            given here, except `steps`.
        overrides: Settings as on the command line, such as `"learner.epochs=1"`.
        show: Called with the step and its metrics after every step.

    Raises:
        ValueError: The recipe is wrong, the run does not fit this machine, or the directory holds a run or is used by
            another process.
        spiral.launch.RunStopped: Ctrl-C or SIGTERM; there is a checkpoint, from which `resume=True` continues.
    """
    given = load_recipe(str(recipe), [*overrides, *([f"run.steps={steps}"] if steps is not None else [])])
    path = Path(run_dir)
    if resume and RunDirectory(path).begun():
        changed = setting_differences(saved_recipe(path), given)
        if changed:
            raise ValueError(f"a run resumes with its own settings: {'; '.join(changed.values())}")
        run = resume_run(path, given.run.steps if steps is not None else None)
    else:
        run = start(given, path)
    try:
        run = execute(run, show)
        step = run.learner.version
    finally:
        run.close()
    rows = read_metrics(path)
    metrics = {key: value for key, value in rows[-1].items() if key != "step"} if rows else {}
    return TrainResult(run_dir=path, step=step, metrics=metrics)


def setting_differences(saved: Recipe, given: Recipe) -> dict[str, str]:
    """The settings in which two recipes differ, except the run length: `section.key` and a description."""
    found = {}
    mine, other = saved.model_dump(exclude={"summary"}), given.model_dump(exclude={"summary"})
    for section, values in mine.items():
        for key in dict.fromkeys((*values, *other[section])):  # tables of opponents may be in one of them alone
            name, value, given_value = f"{section}.{key}", values.get(key), other[section].get(key)
            if given_value != value and name != "run.steps":
                found[name] = f"{name} is {value!r} in the run and {given_value!r} here"
    return found
