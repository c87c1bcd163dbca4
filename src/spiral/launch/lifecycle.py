"""Starting, resuming and executing a run, in one process or on a cluster.

What a step does is in `spiral.training.loop`; what a run leaves on disk is in `spiral.runs.directory`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
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
from spiral.launch.local import LocalRun
from spiral.launch.saved import changes, continued_as, saved_recipe
from spiral.plan import check_plan, check_runnable
from spiral.policies.registry import checked_model_config
from spiral.runs.agreement import WatchedLearner
from spiral.runs.answers import Answers
from spiral.runs.checks import check_problems, check_run, with_expert_games
from spiral.runs.cluster import ClusterConfig
from spiral.runs.directory import RunDirectory, read_evaluations, read_metrics
from spiral.runs.display import Watched
from spiral.runs.evaluation import evaluated_at
from spiral.runs.evaluation_results import EvaluationResults
from spiral.runs.guard_record import GuardRecord
from spiral.runs.guards import Guards, GuardWatch
from spiral.runs.lock import hold_run, run_held
from spiral.runs.recipe import Recipe
from spiral.runs.recorder import RunRecorder
from spiral.runs.trackers import Trackers
from spiral.training.advantages import Estimator
from spiral.training.checkpoint import checkpoint_state
from spiral.training.loop import Collector, Hooks, Updater, train

logger = logging.getLogger(__name__)

Show = Callable[[int, Metrics], None]
Ends = Callable[[int, Metrics], bool]
MANY_OBJECTS = 100_000
"""Searching this many for garbage takes some hundredths of a second."""


class RunStopped(Exception):  # noqa: N818 (the user requested it; it is no error)
    """The run stopped on request, of the user or of a guard, after `step`, with a checkpoint."""

    def __init__(self, step: int, reason: str = "") -> None:
        super().__init__(f"stopped after step {step}{': ' + reason if reason else ''}")
        self.step = step
        self.reason = reason
        """What a guard found; empty where the user requested it."""


class Run(Protocol):
    """The parts of a run, in one process or on a cluster."""

    recipe: Recipe
    directory: RunDirectory
    estimator: Estimator
    answers: Answers

    def prepare(self, step: int) -> None:
        """Puts in force what the answers of guards change in a step."""
        ...

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

    def snapshot(self) -> None:
        """Writes the model alone, to be kept for ever."""
        ...

    def keep(self, step: int) -> None:
        """Keeps the model of `step` as a past self, if the opponent sampler wants it."""
        ...

    def evaluate(self, step: int) -> EvaluationResults:
        """Evaluates the current policy."""
        ...

    def sample_game(self, game: str, seed: int) -> Episode:
        """One game of the current policy against itself."""
        ...

    def check_prompts(self) -> None:
        """Raises `ValueError` when a game's first prompt leaves the model no room for an answer."""
        ...

    def describe(self, episodes: Sequence[Episode], times: Metrics) -> Metrics:
        """The metrics of a step's episodes; `times` holds the seconds of each phase under its key."""
        ...

    def metrics(self) -> Metrics:
        """Metrics of the step that the training loop does not know."""
        ...

    def close(self) -> None:
        """Stops what the run has started and releases its directory."""
        ...


def assemble(recipe: Recipe, path: Path, checkpoint: Path | None = None) -> Run:
    """Builds a run from its recipe, or from one of its checkpoints, which `checkpoint_state` has found undamaged.

    Raises:
        ValueError: Some settings do not fit the model or this machine.
    """
    if recipe.cluster.rollout_workers:
        return assemble_cluster(recipe, path, checkpoint)
    return LocalRun.from_recipe(recipe, path, checkpoint)


def start(recipe: Recipe, path: Path, ready: Callable[[], None] = lambda: None) -> Run:
    """Starts a new run: saves the untrained model as the checkpoint of step 0 and evaluates it.

    Args:
        recipe: The run's settings.
        path: A directory that is new or empty, or holds a run that has done no step; that run is started again.
        ready: Called after all checks, before the first evaluation.

    Raises:
        ValueError: The recipe does not fit the model or this machine, or the directory holds a run.
        RunHeldError: Another process uses the directory.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(run_held(path))
        RunDirectory(path).refuse_existing()
        recipe = with_expert_games(recipe)
        _check_fits(recipe)
        run = assemble(recipe, path)
        with _closed_on_error(run):
            run.directory.lock = hold_run(path)
            run.check_prompts()
            run.directory.start(run.recipe.model_dump())
            run.keep(0)
            run.save(0)
            _snapshot_if_due(run)
            ready()
            run.directory.save_evaluation(0, run.evaluate(0))
    return run


def _check_fits(recipe: Recipe) -> None:
    """Raises `ValueError` for a recipe that does not fit its games, its model or this machine."""
    check_run(recipe)
    check_problems(recipe)
    check_runnable(recipe, recipe.cluster.learner_workers)
    check_plan(recipe, checked_model_config(recipe.model.path), this_machine=True)


def resume(
    path: Path,
    steps: int | None = None,
    cluster: ClusterConfig | None = None,
    ready: Callable[[], None] = lambda: None,
    changed_recipe: Recipe | None = None,
) -> Run:
    """Resumes a run from its last checkpoint; a run that has no checkpoint yet is started again.

    Args:
        path: The run directory.
        steps: In place of the recipe's `run.steps`.
        cluster: In place of the recipe's `[cluster]`.
        ready: Called before the evaluation of a model that was not evaluated before training.
        changed_recipe: A recipe whose opponents, in training and in evaluations, processes, trackers and guards take
            the place of the run's (`continued_as`). Opponents may have changed in `config.toml` too.

    Raises:
        ValueError: There is no run, it is damaged, or new opponents do not fit it or this machine.
        RunHeldError: Another process uses the directory.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is not a run directory: there is no such directory")
    with contextlib.ExitStack() as held:
        held.enter_context(run_held(path))
        directory = RunDirectory(path)
        directory.refuse_foreign()
        recipe = saved_recipe(path, new_opponents=changed_recipe is not None)
        checkpoint = latest_checkpoint(directory.checkpoints)
        if checkpoint is None and (directory.has_steps() or checkpoints_in(directory.checkpoints)):
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
        if changed_recipe is not None:
            recipe = continued_as(recipe, changed_recipe)
        if checkpoint is None:
            return start(recipe, path, ready)
        against_others = changed_recipe is not None and any(changes(recipe, path))
        if against_others:
            _check_fits(recipe)
        run = assemble(recipe, path, checkpoint)
        with _closed_on_error(run):
            run.directory.lock = hold_run(path)
            run.directory.take_back(run.learner.version)
            run.directory.write_config(recipe.model_dump())
            if against_others:
                run.save(done)  # a checkpoint holds the recipe that the run goes on with
            _snapshot_if_due(run)
            if done == 0 and 0 not in dict(read_evaluations(path)):
                ready()
                run.directory.save_evaluation(0, run.evaluate(0))
    return run


def _snapshot_if_due(run: Run) -> None:
    """Writes the snapshot of the step that the run is at, if it is wanted and not there."""
    step = run.learner.version
    if step in run.recipe.run.snapshots and step not in dict(checkpoints_in(run.directory.snapshots)):
        run.snapshot()


@contextmanager
def _closed_on_error(run: Run) -> Iterator[None]:
    """Closes the run if an exception passes."""
    try:
        yield
    except BaseException:
        run.close()
        raise


def _no_checkpoint(path: Path) -> str:
    """The error for a run that has done steps and whose `latest` names no checkpoint."""
    root = path / "checkpoints"
    others = checkpoints_in(root)
    if others:
        last = others[-1][1].name
        return (
            f"{root}/latest names no checkpoint; to resume, make it a link to {last} (or a file that holds this name)"
        )
    return (
        f"{path} has no checkpoint to resume from, but results of steps; put its checkpoints back, or start a new run"
        " in another directory"
    )


def never(_step: int, _metrics: Metrics) -> bool:
    """End no run before its last step."""
    return False


def execute(run: Run, show: Show, guards: Guards | None = None, ends: Ends = never) -> Run:
    """Trains to the last step.

    If the learner is lost, the run resumes from its last checkpoint, at most `cluster.restarts` times. A run shortened
    to the steps that it has done is only evaluated. A run that fails is closed; where a user's code fails or no game
    can be played, finished steps are saved.

    Args:
        run: A run that was started or resumed.
        show: Called with every step and its metrics.
        guards: Those of the recipe, if the caller asks them again later; one that fails is disabled for both.
        ends: Called with every step and its metrics; whether the run ends with this step, before the last one of its
            recipe. It is saved, but not evaluated.

    Returns:
        The run, for the caller to close.

    Raises:
        RunStopped: Ctrl-C or SIGTERM; the step was finished and a checkpoint written.
    """
    losses = 0
    with run_held(run.directory.path):  # also between the loss of a learner and the resume
        while True:
            try:
                with _closed_on_error(run):
                    guards = guards or Guards.from_names(run.recipe.run.guards, run.recipe.run.guard_options)
                    _train(run, show, guards, ends)
                return run
            except LearnerLostError as error:
                losses += 1
                if losses > run.recipe.cluster.restarts:
                    raise
                logger.warning("%s; resuming from the last checkpoint (%d times so far)", error, losses)
                run = resume(run.directory.path)


def _train(run: Run, show: Show, guards: Guards, ends: Ends) -> None:
    recipe, directory, done = run.recipe, run.directory, run.learner.version
    if done == recipe.run.steps and done not in dict(read_evaluations(directory.path)):
        directory.save_evaluation(done, run.evaluate(done))
    rows = read_metrics(directory.path)
    record = GuardRecord(directory.path, directory.check)
    guard = GuardWatch(guards, Watched.from_recipe(recipe).trained, rows, run.answers, record)
    trackers = Trackers.from_names(
        recipe.run.trackers, recipe.run.tracker_options, directory.path, seconds=recipe.run.tracker_seconds
    )
    recorder = RunRecorder(directory, trackers, recipe, first_step=done + 1)

    ended = False

    def evaluate(step: int) -> EvaluationResults | None:
        return run.evaluate(step) if evaluated_at(recipe, step) else None

    def judge(step: int, metrics: Metrics) -> Metrics:
        nonlocal ended
        ended = ends(step, metrics)
        return guard(step, metrics)

    with stop_requests() as stop_requested, contextlib.closing(recorder), _existing_objects_frozen():
        try:
            finished = train(
                recipe.run,
                recipe.credit,
                run.estimator,
                run.collector,
                WatchedLearner(run.learner, recipe),
                run.publish,
                recorder,
                Hooks(
                    prepare=run.prepare,
                    describe=run.describe,
                    more_metrics=run.metrics,
                    evaluate=evaluate,
                    judge=judge,
                    stop_requested=lambda: ended or stop_requested() or bool(run.answers.stop_reason),
                    snapshot=lambda _step: run.snapshot(),
                    keep=run.keep,
                    save=run.save,
                    watch=show,
                ),
            )
        except (UserCodeError, NotPlayedError):
            _save_done(run, recorder)
            raise
        ended = ended and not stop_requested() and not run.answers.stop_reason
    if not finished and not ended:
        raise RunStopped(run.learner.version, run.answers.stop_reason)


def _save_done(run: Run, recorder: RunRecorder) -> None:
    """Saves the last recorded step of a run that cannot continue, if it is not saved and the weights are still its."""
    step = recorder.last_step
    if step == run.learner.version and step not in dict(checkpoints_in(run.directory.checkpoints)):
        recorder.sync()
        _snapshot_if_due(run)
        run.save(step)


@contextmanager
def _existing_objects_frozen() -> Iterator[None]:
    """Keeps Python from searching the objects that exist now for garbage, which takes 0.3 s each time.

    Does nothing where there are few to search, as after the `spiral` command has frozen what it imported, and where
    others froze some, which are not ours to thaw. Counting frozen objects takes as long as searching them, so it comes
    last.
    """
    if len(gc.get_objects(generation=2)) < MANY_OBJECTS or gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
