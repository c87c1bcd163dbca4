"""Training runs in processes of their own that can be killed at a given moment, and what they leave on disk.

Processes are forked from a server that has imported everything, which saves seconds a run. Each is a process by
itself with nothing of another run in it, and dies by SIGKILL: no handler, no `finally`, no flush.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet as pq
import safetensors.torch
import torch

import spiral.training.checkpoint
from spiral.core.records import Episode
from spiral.launch import execute, resume, start
from spiral.rollout.collector import SelfPlay
from spiral.runs.directory import RunDirectory
from spiral.runs.recipe import load_recipe
from spiral.runs.trackers.jsonl import JsonlTracker

SETTINGS = (
    "run.steps=20",
    "run.checkpoint_every=5",
    "run.episodes_every=5",
    "run.snapshots=[0, 3, 7, 10]",
    "selfplay.games={tictactoe=0.5, kuhn_poker=0.5}",
    "selfplay.episodes_per_step=24",
    "selfplay.opening_plies={tictactoe=2}",
    "loss.kl_coefficient=0.15",
    "loss.reference_refresh_steps=6",
    "learner.epochs=1",
    "learner.minibatches=2",
    "learner.learning_rate=2e-3",
    "learner.final_learning_rate_share=0.2",
    "learner.warmup_steps=3",
    "evaluation.opponents=['random']",
    "evaluation.episodes=4",
    "evaluation.episodes_between=4",
    "evaluation.every=10",
)
KILLED = -signal.SIGKILL

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["spiral.launch", "torch._dynamo", "torch.utils.tensorboard.writer", "transformers.models.llama.modeling_llama"]
)


def run(path: Path, moment: str = "", settings: tuple[str, ...] = ()) -> int:
    """Starts a run in `path` and returns the process's exit code."""
    return _in_process(_start, path, moment, (*SETTINGS, *settings))


def go_on(path: Path, moment: str = "", steps: int | None = None) -> int:
    """Resumes the run in `path` and returns the process's exit code."""
    return _in_process(_resume, path, moment, steps)


def _in_process(target: Callable[..., None], *arguments: object) -> int:
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _start(path: Path, moment: str, settings: tuple[str, ...]) -> None:
    _prepare(moment)
    execute(start(load_recipe("nano", settings), path), _show(moment)).close()


def _resume(path: Path, moment: str, steps: int | None) -> None:
    _prepare(moment)
    execute(resume(path, steps), _show(moment)).close()


def _prepare(moment: str) -> None:
    """Lays the trap. Results are the same bit for bit for one number of threads, so that is fixed."""
    torch.set_num_threads(1)
    if moment in TRAPS:
        TRAPS[moment]()


def _show(moment: str) -> Callable[[int, dict[str, float]], None]:
    """The display, which is called when a step is complete; "after step N" kills there."""

    def show(step: int, metrics: dict[str, float]) -> None:
        if moment == f"after step {step}":
            die()

    return show


def die() -> NoReturn:
    """Ends this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be caught")


def _trap(module: Any, name: str, sprung: Callable[..., bool]) -> None:
    """Replaces `module.name` by a function that kills instead of working when `sprung(*arguments)`."""
    original = getattr(module, name)

    def replacement(*arguments: Any, **options: Any) -> Any:
        if sprung(*arguments):
            die()
        return original(*arguments, **options)

    setattr(module, name, replacement)


def _during_a_checkpoint() -> None:
    """At step 10, when the model is written and the optimizer is not."""
    _trap(safetensors.torch, "save_file", lambda tensors, path: "step-000010" in str(path))


def _before_latest() -> None:
    """The checkpoint of step 10 is whole, but `latest` does not name it yet."""
    _trap(spiral.training.checkpoint, "point_to", lambda link, target: target == "step-000010")


def _before_the_first_checkpoint() -> None:
    """The recipe is written, and nothing else."""
    _trap(spiral.training.checkpoint, "write_directory_atomically", lambda path, *_: path.name == "step-000000")


def _during_the_first_checkpoint() -> None:
    """When the model is written and the optimizer is not."""
    _trap(safetensors.torch, "save_file", lambda tensors, path: "step-000000" in str(path))


def _before_evaluation() -> None:
    """The checkpoint of step 0 is there, its evaluation is not."""
    _trap(RunDirectory, "save_evaluation", lambda self, step, report: step == 0)


def _during_an_episode_file() -> None:
    """At step 10, before anything of that step is in the metrics."""
    original = pq.write_table

    def write_half(table: Any, path: Path, **options: Any) -> None:
        original(table, path, **options)
        if "step-000010" in path.name:
            os.truncate(path, path.stat().st_size // 2)
            die()

    pq.write_table = write_half


def _during_a_metrics_line() -> None:
    """Half of step 13's line is on disk."""
    original = JsonlTracker.metrics

    def append_half(self: JsonlTracker, step: int, metrics: dict[str, float]) -> None:
        original(self, step, metrics)
        if step == 13:
            os.truncate(self.file, self.file.stat().st_size - 500)
            die()

    JsonlTracker.metrics = append_half  # type: ignore[method-assign]


def _during_games() -> None:
    """In step 13, when some replies are given and others are under way."""
    original = SelfPlay.collect

    def collect(self: SelfPlay, step: int) -> list[Episode]:
        if step == 13:
            polls = iter(range(3))
            _trap(self.policy, "poll", lambda: next(polls) == 2)
        return original(self, step)

    SelfPlay.collect = collect  # type: ignore[method-assign]


TRAPS = {
    "during a checkpoint": _during_a_checkpoint,
    "before latest": _before_latest,
    "before the first checkpoint": _before_the_first_checkpoint,
    "during the first checkpoint": _during_the_first_checkpoint,
    "before evaluation": _before_evaluation,
    "during an episode file": _during_an_episode_file,
    "during a metrics line": _during_a_metrics_line,
    "during games": _during_games,
}


def metrics_rows(path: Path) -> list[str]:
    """The lines of `metrics.jsonl` as text, so that every bit of every number counts; times of day left out."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [json.dumps({key: row[key] for key in row if not key.startswith("time/")}) for row in rows]


def contents(path: Path) -> dict[str, object]:
    """Everything a run left, by file name: bytes, the targets of links, and the rows of the metrics.

    TensorBoard's files are left out: they hold times, and a resumed run adds one. So is the name of the run's directory
    in the checkpoints.
    """
    found: dict[str, object] = {"metrics.jsonl": metrics_rows(path)}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_symlink():
            found[name] = os.readlink(file)
        elif file.is_file() and name not in found and not name.startswith("tensorboard"):
            found[name] = file.read_bytes()
        if file.name == "spiral.json":
            found[name] = {key: value for key, value in json.loads(file.read_text()).items() if key != "run"}
        if file.name == "manifest.json":
            found[name] = {key: value for key, value in json.loads(file.read_text()).items() if key != "spiral.json"}
    return found
