"""Starting or resuming a run: from a recipe to the objects that the training loop needs.

Everything here is wiring. What a step does is in `train.py`; what it leaves on disk is in `run_directory.py`.
"""

from __future__ import annotations

import copy
import dataclasses
import signal
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from spiral.credit import RoleBaselines
from spiral.evaluation import Report, measure
from spiral.learner.checkpoint import (
    checkpoint_step,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from spiral.learner.learner import Learner
from spiral.measures import Metrics
from spiral.plan import check_plan, check_runnable
from spiral.policies.engines import make_policy
from spiral.policies.language import LanguagePolicy
from spiral.policies.loading import LanguageModel, load_language_model, model_directory
from spiral.recipe import Recipe, validate_recipe
from spiral.run_directory import RunDirectory, RunRecorder, read_reports
from spiral.seating import model_config
from spiral.selfplay import SelfPlay
from spiral.text import ChatCodec
from spiral.train import train

Show = Callable[[int, Metrics], None]


@dataclasses.dataclass(kw_only=True)
class Run:
    """The parts of a run in one process. Sampler and learner share the model where both compute in float32."""

    recipe: Recipe
    directory: RunDirectory
    language_model: LanguageModel
    policy: LanguagePolicy
    learner: Learner
    baselines: RoleBaselines
    collector: SelfPlay

    def save(self, step: int) -> None:
        """Writes the checkpoint of `step`."""
        save_checkpoint(
            self.directory.checkpoints,
            learner=self.learner,
            tokenizer=self.language_model.tokenizer,
            prompt=self.recipe.prompt,
            state={"step": step, "baselines": self.baselines.state_dict()},
            keep=self.recipe.run.keep_checkpoints,
        )

    def measure(self, step: int) -> Report:
        """Evaluates the current policy: fully before the first and after the last step, lightly in between."""
        config = self.recipe.evaluation
        full = step in (0, self.recipe.run.steps)
        training = self.policy.sampling
        self.policy.sampling = training.model_copy(update={"temperature": config.temperature, "top_p": config.top_p})
        try:
            return measure(self.policy, config, config.episodes if full else config.episodes_between)
        finally:
            self.policy.sampling = training


def assemble(recipe: Recipe, path: Path, checkpoint: Path | None = None) -> Run:
    """Builds a run from its recipe, or from one of its checkpoints, which `checkpoint_step` has found whole.

    Raises `ValueError` for what does not fit.
    """
    source = recipe.model
    if checkpoint is not None and not recipe.lora.rank:
        source = source.model_copy(update={"path": str(checkpoint)})
    loaded = load_language_model(source)
    if "prompt" not in recipe.model_fields_set and loaded.prompt is not None:
        recipe = recipe.model_copy(update={"prompt": loaded.prompt})
    codec = ChatCodec(loaded.tokenizer, recipe.prompt)
    directory = model_directory(source.path)
    policy = make_policy(recipe.engine, loaded, directory, codec, recipe.sampling, compute=recipe.model.compute)
    shared = getattr(policy, "model", None) is loaded.model
    learner = Learner(
        copy.deepcopy(loaded.model) if shared and recipe.lora.rank else loaded.model,
        config=recipe.learner,
        loss_config=recipe.loss,
        sampling=recipe.sampling,
        total_steps=recipe.run.steps,
        seed=recipe.run.seed,
        compute=recipe.model.compute,
        compiled=recipe.model.compile,
        lora=recipe.lora,
    )
    baselines = RoleBaselines(recipe.credit.decay)
    if checkpoint is not None:
        state = load_checkpoint(checkpoint, learner)
        baselines.load_state_dict(state["baselines"])
        policy.load_weights(learner.weights(), learner.version)
    return Run(
        recipe=recipe,
        directory=RunDirectory(path),
        language_model=loaded,
        policy=policy,
        learner=learner,
        baselines=baselines,
        collector=SelfPlay(policy, recipe.selfplay, recipe.run.seed),
    )


def start(recipe: Recipe, path: Path, ready: Callable[[], None] = lambda: None) -> Run:
    """A new run in an empty directory; measures the untrained policy and keeps its checkpoint as step 0.

    `ready()` is called when all that can be wrong with the recipe is behind us, before the first measurement.
    """
    directory = RunDirectory(path)
    directory.refuse_existing()
    check_runnable(recipe)
    check_plan(recipe, model_config(recipe.model.path), this_machine=True)
    run = assemble(recipe, path)
    check_prompts(run)
    directory.start(run.recipe.model_dump())
    ready()
    directory.save_report(0, run.measure(0))
    run.save(0)
    return run


def check_prompts(run: Run) -> None:
    """Raises `ValueError` when a game's first prompt leaves the model no room for an answer."""
    context = run.policy.context
    for match in run.collector.matches(1):
        state = match.game.initial_state()
        while state.is_chance:
            state = state.apply(state.chance_outcomes()[0][0])
        style = run.policy.codec.config.observation
        length = len(run.policy.codec.encode(state.observation(state.current_player, style), match.game))
        if length >= context:
            raise ValueError(
                f"the first prompt of {match.game.spec} has {length} tokens, and {run.recipe.model.path} takes"
                f" {context} with the answer; expected a shorter prompt, such as with prompt.observation = 'compact'"
            )


def resume(path: Path, steps: int | None = None) -> Run:
    """The run in `path` at its last checkpoint, with `steps` in place of the recipe's when given.

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
    run = assemble(recipe, path, checkpoint)
    run.directory.take_back(run.learner.version)
    run.directory.write_config(recipe.model_dump())
    return run


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


def execute(run: Run, show: Show) -> None:
    """Trains to the last step. Ctrl-C finishes the step, writes a checkpoint and raises `RunStopped`.

    A run shortened to the steps it has done is only measured, so that its last report is of its last step.
    """
    done = run.learner.version
    if done == run.recipe.run.steps and done not in dict(read_reports(run.directory.path)):
        run.directory.save_report(done, run.measure(done))
    with _interruptible() as stop_requested:
        recorder = RunRecorder(
            run.directory,
            run.recipe,
            save=run.save,
            measure=run.measure,
            show=show,
            stop_requested=stop_requested,
            first_step=run.learner.version + 1,
        )
        try:
            train(run.recipe.run, run.recipe.credit, run.baselines, run.collector, run.learner, recorder)
        finally:
            recorder.close()


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
