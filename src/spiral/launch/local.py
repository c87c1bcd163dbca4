"""A run in one process: engine and learner side by side, sharing the model where both compute in float32."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from spiral.agreement import run_check
from spiral.core.metrics import Metrics, episode_metrics
from spiral.core.progress import shown
from spiral.core.records import Episode
from spiral.core.steps import checkpoints_in, step_name
from spiral.inference.base import LanguagePolicy
from spiral.inference.engines import Weights, make_policy
from spiral.models.card import training_card
from spiral.models.loading import LanguageModel, load_language_model, model_directory
from spiral.policies.opponents import Opponents
from spiral.policies.past_selves import SharedEngine, check_past_selves, prune_past_selves
from spiral.rollout.collector import SelfPlay
from spiral.rollout.opponents.loading import plays_past_selves
from spiral.runs.agreement import computation, learner_options
from spiral.runs.answers import Answers
from spiral.runs.checks import check_prompts
from spiral.runs.directory import RunDirectory, lasting_settings
from spiral.runs.evaluation import evaluate_run, sample_game, warn_of_cut_off
from spiral.runs.evaluation_results import EvaluationResults
from spiral.runs.opponents import engine_share, make_opponents
from spiral.runs.recipe import Recipe
from spiral.training.advantages import Estimator, load_estimator
from spiral.training.checkpoint import load_checkpoint, roll_back, save_checkpoint, save_snapshot
from spiral.training.learner import Learner
from spiral.training.settings import NLL
from spiral.training.sft import ExpertGames, imitation
from spiral.training.value_head import ValueHead


@dataclasses.dataclass(kw_only=True)
class LocalRun:
    """The parts of a run in one process."""

    recipe: Recipe
    directory: RunDirectory
    language_model: LanguageModel
    policy: LanguagePolicy
    learner: Learner
    estimator: Estimator
    collector: SelfPlay | ExpertGames
    answers: Answers
    opponents: Opponents
    """Opponents in training and evaluation, loaded once."""
    shared_engine: SharedEngine | None = None
    """Shares out the engine among the policy, its past selves and other opponents, where some share it."""
    _cut_off: set[str] = dataclasses.field(default_factory=set)
    """Opponents whose cut off replies in evaluations there was a warning of."""

    @classmethod
    def from_recipe(cls, recipe: Recipe, path: Path, checkpoint: Path | None = None) -> Self:
        """Builds a run from its recipe, or from one of its checkpoints, which `checkpoint_state` has found undamaged.

        Raises:
            ValueError: Some settings do not fit the model or this machine.
        """
        source = recipe.model
        if checkpoint is not None and not recipe.lora.rank:
            source = source.model_copy(update={"path": str(checkpoint)})
        shown().stage(f"loading {source.path}")
        loaded = load_language_model(source)
        if "prompt" not in recipe.model_fields_set and loaded.prompt is not None:
            recipe = recipe.model_copy(update={"prompt": loaded.prompt})
        directory = model_directory(source.path)
        if recipe.engine.kind != "transformers":
            shown().stage(f"starting {recipe.engine.kind}")
        policy = make_policy(recipe.engine, source, loaded, recipe.prompt, recipe.sampling, weights=Weights.SHARED)
        with _closed_on_error(policy):
            expert = _expert_games(recipe, policy)
            if expert is not None and checkpoint is None:
                recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": expert.steps})})
            learner = _checked_learner(recipe, loaded, policy, directory)
            share = engine_share(recipe, path) if expert is None else None
        opponents = make_opponents(recipe)
        shared_engine = None if share is None else SharedEngine(policy, share)
        with _closed_on_error(policy, opponents):
            collector = expert if expert is not None else _selfplay(recipe, policy, opponents, shared_engine)
            estimator = (
                load_estimator(recipe.credit.estimator, recipe.credit.options) if expert is None else imitation()
            )
        if estimator.needs_values:
            estimator.value_head = ValueHead(learner, recipe.credit)
        run = cls(
            recipe=recipe,
            directory=RunDirectory(path),
            language_model=loaded,
            policy=policy,
            learner=learner,
            estimator=estimator,
            answers=Answers.from_recipe(recipe),
            collector=collector,
            opponents=opponents,
            shared_engine=shared_engine,
        )
        if checkpoint is not None:
            run._restore(checkpoint)
        if shared_engine is not None:
            shared_engine.load_weights(learner.weights(), learner.version)
        return run

    def _restore(self, checkpoint: Path) -> None:
        """Takes up the training state of a checkpoint, whose model is loaded."""
        state = load_checkpoint(checkpoint, self.learner, self.estimator.value_head)
        self.estimator.restore(state, checkpoint.name)
        self.answers.load_state_dict(state)
        self.collector.load_state_dict(state, checkpoint.name)
        if isinstance(self.collector, SelfPlay):
            check_past_selves(self.directory.path, self.collector.past_selves())
        self.collector.add_checkpoint(self.learner.version, checkpoint)
        self.policy.load_weights(self.learner.weights(), self.learner.version)

    def prepare(self, step: int) -> None:
        """Puts in force what the answers of guards change in a step."""
        answers = self.answers
        if answers.rollback_due:
            checkpoints = dict(checkpoints_in(self.directory.checkpoints))
            target = answers.rollback_to([*checkpoints])
            state = roll_back(checkpoints[target], self.learner, self.estimator.value_head)
            self.estimator.restore(state, checkpoints[target].name)
            answers.rolled_back(target, step - 1)
            self.publish()
        loss = self.recipe.loss
        self.learner.rate_factor = answers.rate
        self.learner.loss_config = loss.model_copy(update={"kl_coefficient": loss.kl_coefficient * answers.pull(step)})
        if isinstance(self.collector, SelfPlay):
            self.collector.mix_in(answers.config.anchor, answers.anchor_share(step))

    def publish(self) -> None:
        """Gives the learner's weights to the policy that plays."""
        engine = self.shared_engine or self.policy
        engine.load_weights(self.learner.weights(), self.learner.version)

    def save(self, step: int) -> None:
        """Writes the checkpoint of `step`."""
        save_checkpoint(
            self.directory.checkpoints,
            learner=self.learner,
            tokenizer=self.language_model.tokenizer,
            card=training_card(self.recipe.model_dump(mode="json")),
            state={
                "step": step,
                "estimator": self.estimator.state_dict(),
                **self.answers.state_dict(),
                **self.collector.state_dict(),
                "recipe": lasting_settings(self.recipe),
            },
            value_head=self.estimator.value_head,
            keep=self.recipe.run.keep_checkpoints,
            check=self.directory.check,
        )
        self.collector.add_checkpoint(step, self.directory.checkpoints / step_name(step))
        if isinstance(self.collector, SelfPlay) and plays_past_selves(self.recipe.selfplay):
            prune_past_selves(self.directory.past_selves, self.collector.past_selves())

    def keep(self, step: int) -> None:
        """Keeps the model of `step` as a past self, if the opponent sampler wants it."""
        if isinstance(self.collector, SelfPlay) and self.collector.keeps(step):
            self._write_model(self.directory.past_selves)
            self.collector.add_past_self(step)

    def snapshot(self) -> None:
        """Writes the model alone, to be kept for ever."""
        self._write_model(self.directory.snapshots)

    def _write_model(self, root: Path) -> None:
        """Writes the model alone under `root`."""
        save_snapshot(
            root,
            learner=self.learner,
            tokenizer=self.language_model.tokenizer,
            card=training_card(self.recipe.model_dump(mode="json")),
            compute=self.recipe.model.compute,
            check=self.directory.check,
        )

    def evaluate(self, step: int) -> EvaluationResults:
        """Evaluates the current policy."""
        records = self.directory.records(step)
        results = evaluate_run(self.policy, self.recipe, step, records, self.opponents, self.shared_engine)
        warn_of_cut_off(results, self._cut_off)
        return results

    def sample_game(self, game: str, seed: int) -> Episode:
        """One game of the current policy against itself."""
        return sample_game(self.policy, game, seed)

    def check_prompts(self) -> None:
        """Raises `ValueError` when a game's first prompt leaves the model no room for an answer."""
        check_prompts(self.policy, self.recipe)

    def describe(self, episodes: Sequence[Episode], times: Metrics) -> Metrics:
        """The metrics of a step's episodes; `times` holds the seconds of each phase under its key."""
        if isinstance(self.collector, ExpertGames):
            return self.collector.describe(episodes, times)
        return episode_metrics(episodes, times)

    def metrics(self) -> Metrics:
        """Metrics of the last step that the training loop does not know."""
        return self.collector.metrics()

    def close(self) -> None:
        """Frees the engine's memory and releases the directory."""
        with contextlib.ExitStack() as closed:
            closed.callback(self.directory.release)
            closed.callback(self.policy.close)
            closed.callback(self.opponents.close)


def _checked_learner(recipe: Recipe, loaded: LanguageModel, policy: LanguagePolicy, directory: str) -> Learner:
    """The learner, once it and the engine are measured to compute what the model does."""
    shared = getattr(policy, "model", None) is loaded.model
    games = list(recipe.selfplay.games)
    check = run_check(
        policy,
        lambda: loaded.model,
        directory,
        recipe.model.compute,
        computation(recipe),
        games=games,
        reload=not shared,
        sleeps=recipe.engine.sleep,
    )
    trained = copy.deepcopy(loaded.model) if shared and recipe.lora.rank else loaded.model
    learner = Learner.from_recipe(recipe, trained)
    if check is not None:
        check.learner(learner, learner_options(recipe), shares_model=shared and learner.model is loaded.model)
        check.keep()
    return learner


def _selfplay(
    recipe: Recipe, policy: LanguagePolicy, opponents: Opponents, shared_engine: SharedEngine | None
) -> SelfPlay:
    return SelfPlay(
        policy,
        recipe.selfplay,
        recipe.run.seed,
        load_opponent=opponents,
        sleep=(partial(policy.sleep, until_weights=True), opponents.sleep) if recipe.engine.sleep else (),
        shared_engine=shared_engine,
        curriculum=recipe.curriculum,
    )


def _expert_games(recipe: Recipe, policy: LanguagePolicy) -> ExpertGames | None:
    """The games that a fine-tuning run learns from, in the words of its model; None for a run of self-play."""
    if recipe.loss.kind != NLL:
        return None
    return ExpertGames.read(
        recipe.sft,
        recipe.run.seed,
        policy.codec,
        max_reply=recipe.sampling.max_new_tokens,
        context=policy.context,
    )


@contextmanager
def _closed_on_error(*engines: LanguagePolicy | Opponents) -> Iterator[None]:
    """Frees the engines' memory if an exception passes."""
    try:
        yield
    except BaseException:
        for engine in engines:
            engine.close()
        raise
