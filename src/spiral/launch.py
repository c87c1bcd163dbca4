"""Starting or resuming a run: from a recipe to the objects that the training loop needs.

Everything here is wiring. What a step does is in `loop.py`; what it leaves on disk is in `run_directory.py`.
"""

from __future__ import annotations

import gc
import logging
import signal
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from spiral.cluster import ClusterConfig
from spiral.credit import RoleBaselines
from spiral.distributed.faults import LearnerLostError
from spiral.distributed.run import assemble_cluster
from spiral.evaluation import Report
from spiral.learner.checkpoint import checkpoint_step, latest_checkpoint
from spiral.local_run import assemble_local
from spiral.loop import Collector, Updater, train
from spiral.measures import Metrics
from spiral.plan import check_plan, check_runnable
from spiral.recipe import Recipe, validate_recipe
from spiral.records import Episode
from spiral.run_directory import RunDirectory, RunRecorder, read_reports
from spiral.seating import model_config

logger = logging.getLogger(__name__)

Show = Callable[[int, Metrics], None]


class Run(Protocol):
    """The parts of a run, in one process or in many."""

    recipe: Recipe
    directory: RunDirectory
    baselines: RoleBaselines

    @property
    def learner(self) -> Updater:
        """Owns the weights."""
        ...

    @property
    def collector(self) -> Collector:
        """Plays the games."""
        ...

    def save(self, step: int) -> None:
        """Writes the checkpoint of `step`."""
        ...

    def measure(self, step: int) -> Report:
        """Evaluates the current policy."""
        ...

    def sample_game(self, game: str, seed: int) -> Episode:
        """One game of the current policy against itself."""
        ...

    def check_prompts(self) -> None:
        """Raises `ValueError` when a game's first prompt leaves the model no room for an answer."""
        ...

    def metrics(self) -> Metrics:
        """What there is to tell of the step beside what the loop tells."""
        ...

    def close(self) -> None:
        """Ends what the run has started."""
        ...


def assemble(recipe: Recipe, path: Path, checkpoint: Path | None = None) -> Run:
    """Builds a run from its recipe, or from one of its checkpoints, which `checkpoint_step` has found whole.

    Raises `ValueError` for what does not fit.
    """
    if recipe.cluster.rollout_workers:
        return assemble_cluster(recipe, path, checkpoint)
    return assemble_local(recipe, path, checkpoint)


def start(recipe: Recipe, path: Path, ready: Callable[[], None] = lambda: None) -> Run:
    """A new run in an empty directory; measures the untrained policy and keeps its checkpoint as step 0.

    `ready()` is called when all that can be wrong with the recipe is behind us, before the first measurement.
    """
    directory = RunDirectory(path)
    directory.refuse_existing()
    check_runnable(recipe, recipe.cluster.learner_workers)
    check_plan(recipe, model_config(recipe.model.path), this_machine=True)
    run = assemble(recipe, path)
    with _closed_on_error(run):
        run.check_prompts()
        directory.start(run.recipe.model_dump())
        ready()
        directory.save_report(0, run.measure(0))
        run.save(0)
    return run


def resume(path: Path, steps: int | None = None, cluster: ClusterConfig | None = None) -> Run:
    """The run in `path` at its last checkpoint, with `steps` and `cluster` in place of the recipe's when given.

    Raises `ValueError` when there is no run, no checkpoint, or a damaged one.
    """
    recipe = saved_recipe(path)
    checkpoint = latest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        raise ValueError(_no_checkpoint(path))
    done = checkpoint_step(checkpoint)
    if steps is not None and steps < done:
        raise ValueError(f"got --steps {steps}, but the run in {path} has done {done} already; expected {done} or more")
    if steps is not None:
        recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": steps})})
    if cluster is not None:
        hardware = recipe.hardware.model_copy(update={"devices": cluster.learner_workers})
        recipe = recipe.model_copy(update={"cluster": cluster, "hardware": hardware})
    run = assemble(recipe, path, checkpoint)
    with _closed_on_error(run):
        run.directory.take_back(run.learner.version)
        run.directory.write_config(recipe.model_dump())
    return run


@contextmanager
def _closed_on_error(run: Run) -> Iterator[None]:
    """Ends what a run has started when it cannot begin."""
    try:
        yield
    except BaseException:
        run.close()
        raise


def _no_checkpoint(path: Path) -> str:
    """What to do where `latest` names no checkpoint."""
    others = sorted((path / "checkpoints").glob("step-*"))
    if others:
        return f"{path}/checkpoints/latest names no checkpoint; to go on, make it a link to {others[-1].name}"
    return f"{path} has no checkpoint to resume from; start the run again in another directory"


def saved_recipe(path: Path) -> Recipe:
    """The recipe that a run directory was started with."""
    file = RunDirectory(path).config_file
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} is not a run directory: there is no {file.name} in it") from error
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return validate_recipe(values, str(file))


def execute(run: Run, show: Show) -> Run:
    """Trains to the last step. Ctrl-C finishes the step, writes a checkpoint and raises `RunStopped`.

    Where the learner is lost, the run goes on from its last checkpoint, as often as `cluster.restarts` allows. Returns
    the run that came to the end, which is still to be closed; one that fails is closed here. A run shortened to the
    steps it has done is only measured, so that its last report is of its last step.
    """
    losses = 0
    while True:
        try:
            with _closed_on_error(run):
                _train(run, show)
            return run
        except LearnerLostError as error:
            losses += 1
            if losses > run.recipe.cluster.restarts:
                raise
            logger.warning("%s; the run goes back to its last checkpoint (%d times so far)", error, losses)
            run = resume(run.directory.path)


def _train(run: Run, show: Show) -> None:
    done = run.learner.version
    if done == run.recipe.run.steps and done not in dict(read_reports(run.directory.path)):
        run.directory.save_report(done, run.measure(done))
    with _interruptible() as stop_requested:
        recorder = RunRecorder(
            run.directory,
            run.recipe,
            save=run.save,
            measure=run.measure,
            more=run.metrics,
            show=show,
            stop_requested=stop_requested,
            first_step=run.learner.version + 1,
        )
        try:
            with _spared_from_collection():
                train(run.recipe.run, run.recipe.credit, run.baselines, run.collector, run.learner, recorder)
        finally:
            recorder.close()


@contextmanager
def _spared_from_collection() -> Iterator[None]:
    """What exists now lives as long as the run: Python need not look for garbage in it, which takes 0.3 s a time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop after the step; a second one stops at once."""
    asked = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
