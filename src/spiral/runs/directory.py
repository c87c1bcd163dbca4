"""The files of a run.

    runs/NAME/
      config.toml       the whole recipe, every default spelled out
      metrics.jsonl     one JSON object a step: `step` first, then the keys of docs/metrics.md
      guards.jsonl      what the guards found and what was done, a line a change; where they found anything
      tensorboard/      the same numbers, with the tracker of that name
      episodes/         step-000010.parquet: one row a turn
      evaluation/       step-000000.json before training, and so on; step-000000/ holds its games and replies
      checkpoints/      step-000100/ ..., latest
      snapshots/        step-000016/ ...: the models of the steps in run.snapshots, kept for ever
      past_selves/      step-000010/ ...: the models that the opponent sampler may choose, as long as it may
      cluster.json      the status of a run on a cluster, written every few seconds
      .lock             held by the process that uses the directory (`spiral.runs.lock`)

On resume everything after the checkpoint is removed, so that the files look as if the run had never stopped. Files that
a run does not write itself are left alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tomli_w

from spiral.core.files import read_json, remove, remove_unfinished, write_atomically, write_text_atomically
from spiral.core.locks import Lock
from spiral.core.records import Episode
from spiral.core.steps import PAST_SELVES, SNAPSHOTS, checkpoints_in, numbered, step_name
from spiral.core.storage import write_episodes
from spiral.runs.evaluation_results import EvaluationResults, read_evaluation
from spiral.runs.guard_record import take_back_guard_record
from spiral.runs.old_metrics import with_current_keys
from spiral.runs.recipe import Recipe
from spiral.training.loop import Evaluation

logger = logging.getLogger(__name__)


WATCHING = (
    "trackers",
    "tracker_options",
    "tracker_seconds",
    "guards",
    "guard_options",
    "snapshots",
    "record_learner",
)
"""Settings of `[run]` that change no number of a run, so that they may change on resume."""


class RunDirectory:
    """Writes a run's files, and removes those of later steps on resume."""

    def __init__(self, path: Path, lock: Lock | None = None) -> None:
        """With `lock`, every write first checks that this process still holds it."""
        self.path = path
        self.lock = lock
        self.checkpoints = path / "checkpoints"
        self.snapshots = path / SNAPSHOTS
        self.past_selves = path / PAST_SELVES
        self.episodes = path / "episodes"
        self.evaluation = path / "evaluation"
        self.tensorboard = path / "tensorboard"
        self.metrics_file = path / "metrics.jsonl"
        self.config_file = path / "config.toml"

    def check(self) -> None:
        """Raises `LockLostError` if another process has taken over the run; called before every write."""
        if self.lock is not None:
            self.lock.check()

    def release(self) -> None:
        """Releases the lock."""
        lock, self.lock = self.lock, None
        if lock is not None:
            lock.release()

    def refuse_existing(self) -> None:
        """Raises `ValueError` if the directory holds a run that has done a step."""
        self.refuse_foreign()
        if self.has_steps() and not self.begun():
            raise ValueError(
                f"{self.path} holds metrics, episodes or evaluations, but neither {self.config_file.name} nor a"
                " checkpoint of a run; choose another --run-dir, or move them away"
            )
        if self.has_steps():
            raise ValueError(f"{self.path} already holds a run; resume it with --resume, or choose another --run-dir")

    def refuse_foreign(self) -> None:
        """Raises `ValueError` if a file has the name of a run's directory, or the other way round."""
        models = (self.checkpoints, self.snapshots, self.past_selves)
        for directory in (*models, self.episodes, self.evaluation, self.tensorboard):
            if directory.exists() and not directory.is_dir():
                raise ValueError(f"{directory} is a file, where a run keeps a directory of that name; move it away")
        for file in (self.metrics_file, self.config_file):
            if file.is_dir():
                raise ValueError(f"{file} is a directory, where a run keeps a file of that name; move it away")
        for root, kind in zip(models, ("checkpoint", "snapshot", "past self"), strict=True):
            for _, path in numbered(root):
                if not path.is_dir():
                    raise ValueError(f"{path} is not a directory, but has the name of a {kind}; move it away")

    def has_steps(self) -> bool:
        """Whether a step has left any file."""
        found = (
            *numbered(self.episodes, ".parquet"),
            *numbered(self.evaluation, ".json"),
            *checkpoints_in(self.checkpoints),
            *checkpoints_in(self.snapshots),
            *checkpoints_in(self.past_selves),
        )
        has_metrics = self.metrics_file.is_file() and self.metrics_file.stat().st_size > 0
        return has_metrics or any(step > 0 for step, _ in found)

    def begun(self) -> bool:
        """Whether there is a recipe or a checkpoint."""
        return self.config_file.exists() or bool(checkpoints_in(self.checkpoints))

    def start(self, recipe: dict[str, Any]) -> None:
        """Creates the directory and writes the recipe; replaces a run that has done no step."""
        self.refuse_existing()
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        self.take_back(-1)
        self.episodes.mkdir(exist_ok=True)
        self.write_config(recipe)

    def write_config(self, recipe: dict[str, Any]) -> None:
        """Writes `config.toml`."""
        self.check()
        write_text_atomically(self.config_file, tomli_w.dumps(recipe))

    def take_back(self, step: int) -> None:
        """Removes the files of steps after `step`, and temporary files that a kill has left."""
        self.check()
        records = [path for _, path in numbered(self.evaluation) if path.is_dir()]
        models = (self.checkpoints, self.snapshots, self.past_selves)
        for directory in (self.path, self.episodes, self.evaluation, *models, *records):
            remove_unfinished(directory)
        self._take_back_metrics(step)
        take_back_guard_record(self.path, step)
        files = [*numbered(self.episodes, ".parquet"), *numbered(self.evaluation, ".json")]
        directories = [*numbered(self.evaluation), *(found for root in models for found in checkpoints_in(root))]
        for found, are_directories in ((files, False), (directories, True)):
            for at, path in found:
                if at > step and path.is_dir() == are_directories:
                    remove(path)
        if step < 0:
            remove(self.checkpoints / "latest")

    def _take_back_metrics(self, step: int) -> None:
        """Removes the lines after `step`, and warns about missing ones before it."""
        lines = _metrics_lines(self.metrics_file) if self.metrics_file.exists() else []
        kept = {at: line for at, line in lines if at <= step}
        missing = [at for at in range(1, step + 1) if at not in kept]
        if missing:
            named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            logger.warning("%s lacks the rows of %d steps: %s", self.metrics_file, len(missing), named)
        content = b"".join(line for at, line in lines if at <= step)
        if not self.metrics_file.exists() or content != self.metrics_file.read_bytes():
            write_atomically(self.metrics_file, lambda temporary: temporary.write_bytes(content))

    def records(self, step: int) -> Path:
        """The directory for the games and replies of an evaluation."""
        return self.evaluation / step_name(step)

    def save_evaluation(self, step: int, report: Evaluation) -> None:
        """Writes the results of the evaluation after a step."""
        self.check()
        self.evaluation.mkdir(exist_ok=True)
        write_text_atomically(self.evaluation / f"{step_name(step)}.json", json.dumps(report.to_json(), indent=2))

    def save_episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Writes a step's episodes."""
        self.check()
        self.episodes.mkdir(exist_ok=True)
        write_episodes(self.episodes / f"{step_name(step)}.parquet", episodes)


def lasting_settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The settings that stay through a run, by section: not its length, its processes, its trackers and guards.

    How guards are answered may change too, so that a run that a guard has stopped can go on without it.
    """
    values = recipe.model_dump(exclude={"summary", "cluster"})
    del values["hardware"]["devices"], values["sft"]["data"]  # which a hash in the checkpoint identifies
    del values["answer"]["guards"]
    for key in ("steps", *WATCHING):
        del values["run"][key]
    return values


def read_episodes(run_dir: str | Path) -> list[dict[str, Any]]:
    """One row a turn of every episode that the run has kept, with its training `step`.

    The other columns are those of the Parquet files in `RUN_DIR/episodes`. Raises `ValueError` if there is no run.
    """
    check_is_run(Path(run_dir))
    files = numbered(Path(run_dir) / "episodes", ".parquet")
    return [{"step": step, **row} for step, file in files for row in pq.read_table(file).to_pylist()]


def check_is_run(path: Path) -> None:
    """Raises `ValueError` unless the path is a directory that holds some file of a run."""
    directory = RunDirectory(path)
    if path.is_file():
        runs = [parent for parent in path.parents if RunDirectory(parent).metrics_file.exists()]
        where = f"the run directory, {runs[0]}" if runs else "a run directory, such as runs/nano-0"
        raise ValueError(f"no run at {path}, which is a file; give {where}")
    if not path.is_dir():
        raise ValueError(f"no run at {path}: there is no such directory; give a run directory, such as runs/nano-0")
    if not (directory.begun() or directory.metrics_file.exists() or directory.episodes.is_dir()):
        raise ValueError(
            f"no run at {path}: it holds none of {directory.config_file.name}, {directory.metrics_file.name},"
            " episodes and checkpoints; give a run directory, such as runs/nano-0"
        )


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """One row a step, `step` first, rows of earlier versions under the current keys.

    `pandas.DataFrame(read_metrics(run_dir))` is a table. A damaged line is left out with a warning, a last line that a
    kill has cut short without one. Raises `ValueError` if there is no run.
    """
    check_is_run(Path(run_dir))
    file = Path(run_dir) / "metrics.jsonl"
    if file.is_dir():
        raise ValueError(f"{file} is a directory, where a run keeps a file of that name; move it away")
    return [with_current_keys(read_json(line)) for _, line in _metrics_lines(file)] if file.exists() else []


def _metrics_lines(file: Path) -> list[tuple[int, bytes]]:
    """The undamaged lines of `metrics.jsonl` with their steps."""
    *lines, last = file.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate([*lines, last], 1):
        try:
            row = read_json(line.decode("utf-8"))
            step = row["step"]
            if type(step) is not int or step < 0:
                raise ValueError("its step is not a whole number from 0")
        except (ValueError, TypeError, KeyError) as error:
            if number <= len(lines):
                logger.warning("%s, line %d is damaged and left out: %s", file, number, _damage(error))
            continue
        found.append((step, line + b"\n"))
    return found


def _damage(error: Exception) -> str:
    """Why a line is not a row."""
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f"no UTF-8 at byte {error.start + 1}"
    return "no object with a step" if isinstance(error, TypeError | KeyError) else str(error)


def read_evaluations(path: Path) -> list[tuple[int, EvaluationResults]]:
    """The evaluations of a run as `(step, results)`, in the order of the steps.

    A damaged file is left out, with a warning.
    """
    found = []
    for step, file in numbered(path / "evaluation", ".json"):
        try:
            found.append((step, read_evaluation(file)))
        except ValueError as error:
            logger.warning("%s; it is left out", error)
    return found
