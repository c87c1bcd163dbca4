"""Starting, resuming and executing a run, in one process or on a cluster.

What a step does is in `spiral.training.loop`; what a run leaves on disk is in `spiral.runs.directory`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from spiral.core.metrics import Metrics
from spiral.core.policy import NotPlayedError
from spiral.core.records import Episode
from spiral.core.steps import checkpoints_in, latest_checkpoint
from spiral.core.stopping import stop_requests
from spiral.distributed.run import assemble_cluster
from spiral.distributed.session import LearnerLostError
from spiral.games.failures import UserCodeError
from spiral.launch.local import assemble_local
from spiral.plan import check_plan, check_runnable
from spiral.policies.registry import model_config
from spiral.runs.agreement import WatchedLearner
from spiral.runs.checks import check_run
from spiral.runs.cluster import ClusterConfig
from spiral.runs.directory import RunDirectory, lasting_settings, read_metrics, read_reports
from spiral.runs.display import Watched
from spiral.runs.evaluation import EvaluationResults, evaluated_at
from spiral.runs.guards import Guards, GuardWatch
from spiral.runs.lock import hold_run, run_held
from spiral.runs.recipe import Recipe, validate_recipe
from spiral.runs.recorder import RunRecorder
from spiral.runs.trackers import Trackers
from spiral.training.advantages import Estimator
from spiral.training.checkpoint import STATE, checkpoint_state
from spiral.training.loop import Collector, Updater, train

logger = logging.getLogger(__name__)

Show = Callable[[int, Metrics], None]
MENDING = "put a good copy in its place; `spiral train RECIPE --dry-run` prints that of a recipe"


class RunStopped(Exception):  # noqa: N818 (the user asked for it; it is no error)
    """The run stopped on request after `step`, with a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class Run(Protocol):
    """The parts of a run, in one process or in many."""

    recipe: Recipe
    directory: RunDirectory
    estimator: Estimator

    @property
    def learner(self) -> Updater:
        """Owns the weights."""
        ...

    @property
    def collector(self) -> Collector:
        """Plays the games."""
        ...

    def publish(self) -> None:
        """Gives the learner's weights to the policy that plays."""
        ...

    def save(self, step: int) -> None:
        """Writes the checkpoint of `step`."""
        ...

    def measure(self, step: int) -> EvaluationResults:
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
        """Ends what the run has started, and lets go of its directory."""
        ...


def assemble(recipe: Recipe, path: Path, checkpoint: Path | None = None) -> Run:
    """Builds a run from its recipe, or from one of its checkpoints, which `checkpoint_state` has found whole.

    Raises `ValueError` for what does not fit.
    """
    if recipe.cluster.rollout_workers:
        return assemble_cluster(recipe, path, checkpoint)
    return assemble_local(recipe, path, checkpoint)


def start(recipe: Recipe, path: Path, ready: Callable[[], None] = lambda: None) -> Run:
    """A new run; keeps the untrained policy as the checkpoint of step 0 and measures it.

    The directory is new or empty, or holds a run that has done no step: that one is begun again. `ready()` is called
    when all that can be wrong with the recipe is behind us, before the first measurement. Raises `ValueError` for what
    does not fit, `RunHeldError` where another process has the directory.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(run_held(path))
        RunDirectory(path).refuse_existing()
        check_run(recipe)
        check_runnable(recipe, recipe.cluster.learner_workers)
        check_plan(recipe, model_config(recipe.model.path), this_machine=True)
        run = assemble(recipe, path)
        with _closed_on_error(run):
            run.directory.lock = hold_run(path)
            run.check_prompts()
            run.directory.start(run.recipe.model_dump())
            run.save(0)
            ready()
            run.directory.save_report(0, run.measure(0))
    return run


def resume(
    path: Path, steps: int | None = None, cluster: ClusterConfig | None = None, ready: Callable[[], None] = lambda: None
) -> Run:
    """The run in `path` at its last checkpoint, with `steps` and `cluster` in place of the recipe's when given.

    A run that has no checkpoint yet is begun again. `ready()` is called before the measurement of a policy that was not
    measured before training. Raises `ValueError` when there is no run, or a damaged one, `RunHeldError` where another
    process has it.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is not a run directory: there is no such directory")
    with contextlib.ExitStack() as held:
        held.enter_context(run_held(path))
        directory = RunDirectory(path)
        directory.refuse_foreign()
        recipe = saved_recipe(path)
        checkpoint = latest_checkpoint(directory.checkpoints)
        if checkpoint is None and (directory.done_steps() or checkpoints_in(directory.checkpoints)):
            raise ValueError(_no_checkpoint(path))
        done = -1 if checkpoint is None else int(checkpoint_state(checkpoint)["version"])
        if steps is not None and steps < done:
            raise ValueError(
                f"got --steps {steps}, but the run in {path} has done {done} already; expected {done} or more"
            )
        if steps is not None:
            recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": steps})})
        if cluster is not None:
            hardware = recipe.hardware.model_copy(update={"devices": cluster.learner_workers})
            recipe = recipe.model_copy(update={"cluster": cluster, "hardware": hardware})
        if checkpoint is None:
            return start(recipe, path, ready)
        run = assemble(recipe, path, checkpoint)
        with _closed_on_error(run):
            run.directory.lock = hold_run(path)
            run.directory.take_back(run.learner.version)
            run.directory.write_config(recipe.model_dump())
            if done == 0 and 0 not in dict(read_reports(path)):
                ready()
                run.directory.save_report(0, run.measure(0))
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
    """What to do where `latest` names no checkpoint of a run that has done steps."""
    root = path / "checkpoints"
    others = checkpoints_in(root)
    if others:
        last = others[-1][1].name
        return f"{root}/latest names no checkpoint; to go on, make it a link to {last} (or a file that holds this name)"
    return (
        f"{path} has no checkpoint to resume from, but results of steps; put its checkpoints back, or start the run"
        " again in another directory"
    )


def saved_recipe(path: Path) -> Recipe:
    """The recipe that a run directory was started with.

    Raises `ValueError` when there is none, when it is damaged, and when it differs from what the last checkpoint holds
    of it (`run_directory.lasting_settings`).
    """
    file = RunDirectory(path).config_file
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not a run directory: there is no {file.name} in it") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}; {MENDING}") from error
    if "run" not in values:
        raise ValueError(f"{file} is damaged: it has no section [run]; {MENDING}")
    recipe = validate_recipe(values, str(file))
    edited = _edited(recipe, path)
    if edited:
        raise ValueError(
            f"{file} is not as the run has written it: {'; '.join(edited)}; settings stay through a run, so put them"
            " back, or start a new run"
        )
    return recipe


def _edited(recipe: Recipe, path: Path) -> list[str]:
    """Where a recipe differs from that in the last checkpoint, if that holds one and is of this version."""
    checkpoint = latest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        return []
    try:
        kept = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["recipe"]
        lasting = lasting_settings(validate_recipe(kept, str(checkpoint / STATE)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.debug("%s holds no recipe: %s", checkpoint, error)
        return []
    return [
        f"{section}.{key} is {value!r} there and {lasting[section][key]!r} in the last checkpoint"
        for section, values in lasting_settings(recipe).items()
        for key, value in values.items()
        if value != lasting[section][key]
    ]


def execute(run: Run, show: Show) -> Run:
    """Trains to the last step. Ctrl-C or SIGTERM finishes the step, writes a checkpoint and raises `RunStopped`.

    Where a user's game or estimator fails, or no game can be played, the steps that are done are kept too.

    Where the learner is lost, the run goes on from its last checkpoint, as often as `cluster.restarts` allows. Returns
    the run that came to the end, which is still to be closed; one that fails is closed here. A run shortened to the
    steps it has done is only measured, so that its last report is of its last step.
    """
    losses = 0
    with run_held(run.directory.path):  # also between losing the learner and going back
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
    recipe, directory, done = run.recipe, run.directory, run.learner.version
    if done == recipe.run.steps and done not in dict(read_reports(directory.path)):
        directory.save_report(done, run.measure(done))
    rows = read_metrics(directory.path)
    guards = Guards.from_names(recipe.run.guards, recipe.run.guard_options)
    watch = GuardWatch(guards, Watched.from_recipe(recipe).trained, rows)
    trackers = Trackers.from_names(recipe.run.trackers, recipe.run.tracker_options, directory.path)
    recorder = RunRecorder(directory, trackers, recipe, first_step=done + 1)

    def evaluate(step: int) -> EvaluationResults | None:
        return run.measure(step) if evaluated_at(recipe, step) else None

    def after(step: int, metrics: Metrics) -> None:
        show(step, metrics)
        watch(step, metrics)

    with stop_requests() as stop_requested, contextlib.closing(recorder), _spared_from_collection():
        try:
            finished = train(
                recipe.run,
                recipe.credit,
                run.estimator,
                run.collector,
                WatchedLearner(run.learner, recipe),
                run.publish,
                recorder,
                evaluate=evaluate,
                save=run.save,
                more_metrics=run.metrics,
                watch=after,
                stop_requested=stop_requested,
            )
        except (UserCodeError, NotPlayedError):
            _save_done(run, recorder)
            raise
    if not finished:
        raise RunStopped(run.learner.version)


def _save_done(run: Run, recorder: RunRecorder) -> None:
    """Saves the last step on record, unless it is saved or the weights have moved on; the run cannot go on."""
    step = recorder.last_step
    if step == run.learner.version and step not in dict(checkpoints_in(run.directory.checkpoints)):
        recorder.sync()
        run.save(step)


@contextmanager
def _spared_from_collection() -> Iterator[None]:
    """What exists now lives as long as the run: Python need not look for garbage in it, which takes 0.3 s a time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
