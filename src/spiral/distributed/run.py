"""A run in many processes: rollout workers, learner workers, and this process, the driver.

It is the run of one process (`spiral.launch.local`) with another collector and another learner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spiral.agreement import agreement_key, compare_with_learner, is_known, keep, sample_probes
from spiral.core.metrics import Metrics, episode_metrics
from spiral.core.records import Episode
from spiral.core.steps import step_name
from spiral.distributed.collector import ClusterCollector
from spiral.distributed.learner import ClusterLearner
from spiral.distributed.placement import gpus_per_rank, placed
from spiral.distributed.session import cluster_session
from spiral.distributed.status import STATUS_FILE, status_written
from spiral.distributed.weights.base import TransportContext
from spiral.distributed.weights.registry import check_transport
from spiral.inference.base import LanguagePolicy
from spiral.inference.engines import Weights, load_for_engine, make_policy
from spiral.models.loading import load_language_model, model_directory
from spiral.models.shapes import count_parameters, model_config
from spiral.policies.past_selves import check_past_selves, prune_past_selves
from spiral.rollout.opponents.loading import plays_past_selves
from spiral.runs.agreement import computation
from spiral.runs.answers import Answers
from spiral.runs.checks import check_prompts
from spiral.runs.directory import RunDirectory, lasting_settings
from spiral.runs.evaluation import evaluate_run, sample_game, warn_of_cut_off
from spiral.runs.evaluation_results import EvaluationResults
from spiral.runs.opponents import engine_share, make_opponents
from spiral.runs.recipe import Recipe
from spiral.training.advantages import Estimator, load_estimator


@dataclasses.dataclass(kw_only=True)
class ClusterRun:
    """The parts of a run on a cluster; `resources` closes them in the right order."""

    recipe: Recipe
    directory: RunDirectory
    estimator: Estimator
    answers: Answers
    learner: ClusterLearner
    collector: ClusterCollector
    resources: contextlib.ExitStack
    _last_metrics: float | None = None
    """Time of the last call of `metrics`."""
    _learners: list[int] = dataclasses.field(default_factory=list)
    _cut_off: set[str] = dataclasses.field(default_factory=set)
    """Opponents whose cut off replies in evaluations there was a warning of."""

    def prepare(self, step: int) -> None:
        """Nothing: on a cluster guards log or stop, as the recipe has been checked for."""

    def publish(self) -> None:
        """Gives the learner's weights to the rollout workers."""
        self.collector.receive_weights(self.learner.publish())

    def save(self, step: int) -> None:
        """Writes the checkpoint of `step`."""
        state = {
            "step": step,
            "estimator": self.estimator.state_dict(),
            **self.answers.state_dict(),
            **self.collector.state_dict(),
            "recipe": lasting_settings(self.recipe),
        }
        claim = self.directory.lock.claim if self.directory.lock else None
        self.learner.save(self.directory.checkpoints.absolute(), state, self.recipe.run.keep_checkpoints, claim)
        self.collector.add_checkpoint(step, self.directory.checkpoints / step_name(step))
        if plays_past_selves(self.recipe.selfplay):
            prune_past_selves(self.directory.past_selves, self.collector.past_selves())

    def keep(self, step: int) -> None:
        """Keeps the model of `step` as a past self, if the opponent sampler wants it."""
        if self.collector.keeps(step):
            self._write_model(self.directory.past_selves)
            self.collector.add_past_self(step)

    def snapshot(self) -> None:
        """Writes the model alone, to be kept for ever."""
        self._write_model(self.directory.snapshots)

    def _write_model(self, root: Path) -> None:
        """Writes the model alone under `root`."""
        claim = self.directory.lock.claim if self.directory.lock else None
        self.learner.save_snapshot(root.absolute(), claim)

    def evaluate(self, step: int) -> EvaluationResults:
        """Evaluates the current policy, on one of the rollout workers."""
        records = self.directory.records(step).absolute()
        report: EvaluationResults = self.collector.call_policy(
            evaluate_run, self.recipe, step, records, with_opponents=True
        )
        warn_of_cut_off(report, self._cut_off)
        return report

    def sample_game(self, game: str, seed: int) -> Episode:
        """One game of the current policy against itself."""
        episode: Episode = self.collector.call_policy(sample_game, game, seed)
        return episode

    def check_prompts(self) -> None:
        """Raises `ValueError` when a game's first prompt leaves the model no room for an answer."""
        self.collector.call_policy(check_prompts, self.recipe)

    def describe(self, episodes: Sequence[Episode], times: Metrics) -> Metrics:
        """The metrics of a step's episodes; `times` holds the seconds of each phase under its key."""
        return episode_metrics(episodes, times)

    def metrics(self) -> Metrics:
        """The metrics of the cluster for the last step, and corrections of the loop's own.

        `cluster/wall_s` is the time since the metrics of the step before: one step of the loop, and what followed the
        step before, with its checkpoint and its evaluation. The warning of a gap between engine and learner is cleared
        where turns are an update old, since their probabilities have changed.
        """
        metrics, now = self.collector.metrics(), time.monotonic()
        if self._last_metrics is not None:
            metrics["cluster/wall_s"] = now - self._last_metrics
        self._last_metrics = now
        if not self._learners:
            self._learners = self.learner.processes()
        if metrics.get("cluster/staleness"):
            metrics["sampler/gap_warning"] = 0.0
        return metrics

    def close(self) -> None:
        """Ends the workers and a private Ray, and releases the directory."""
        try:
            self.resources.close()
        finally:
            self.directory.release()

    def status(self) -> dict[str, Any]:
        """The status that `spiral cluster status` shows; may be called from any thread."""
        cluster = self.recipe.cluster
        self.directory.check()
        return {
            "version": self.learner.version,
            "steps": self.recipe.run.steps,
            "schedule": cluster.schedule,
            "workers": cluster.rollout_workers,
            "learners": self._learners,
            "rollout_workers": [dataclasses.asdict(worker) for worker in self.collector.statuses()],
            "metrics": self.collector.metrics(),
        }


def assemble_cluster(recipe: Recipe, path: Path, checkpoint: Path | None = None) -> ClusterRun:
    """Connects to Ray and starts the workers, from a checkpoint where one is given.

    Raises:
        ValueError or RuntimeError: a process could not be started; the message is its own.
    """
    check_transport(recipe.cluster)
    known = load_language_model(recipe.model, weights=False)
    if "prompt" not in recipe.model_fields_set and known.prompt is not None:
        recipe = recipe.model_copy(update={"prompt": known.prompt})
    dtype = torch.bfloat16 if recipe.model.compute == "bfloat16" else None
    with contextlib.ExitStack() as resources:
        again = f"to resume: spiral train --resume --run-dir {shlex.quote(str(path))}"
        resources.enter_context(cluster_session(recipe.cluster, again))
        placement = resources.enter_context(placed(recipe.cluster, gpus_per_rank(recipe.model.device)))
        transport = TransportContext(config=recipe.cluster, dtype=dtype, rank_gpus=min(placement.rank_gpus))
        learner = ClusterLearner(recipe, transport, checkpoint, placement=placement)
        resources.callback(learner.close)
        collector = resources.enter_context(
            ClusterCollector(
                functools.partial(make_worker_policy, recipe),
                recipe.selfplay,
                recipe.run.seed,
                recipe.cluster,
                vocabulary=int(model_config(recipe.model.path).vocab_size),
                last_step=recipe.run.steps,
                placements=placement.workers,
                load_opponent=make_opponents(recipe),
                transport=transport,
                sleep=recipe.engine.sleep,
                meanwhile=learner.wait,
                share=engine_share(recipe, path.absolute()),
                curriculum=recipe.curriculum,
            )
        )
        estimator = load_estimator(recipe.credit.estimator, recipe.credit.options)
        answers = Answers.from_recipe(recipe)
        if checkpoint is not None:
            estimator.restore(learner.state, checkpoint.name)
            answers.load_state_dict(learner.state)
            collector.load_state_dict(learner.state, checkpoint.name)
            check_past_selves(path, collector.past_selves())
            collector.add_checkpoint(learner.version, checkpoint)
        collector.receive_weights(learner.publish())
        check_engine(recipe, collector, learner)
        run = ClusterRun(
            recipe=recipe,
            directory=RunDirectory(path),
            estimator=estimator,
            answers=answers,
            learner=learner,
            collector=collector,
            resources=contextlib.ExitStack(),
        )
        resources.enter_context(status_written(path / STATUS_FILE, run.status))
        run.resources = resources.pop_all()
        return run


def check_engine(recipe: Recipe, collector: ClusterCollector, learner: ClusterLearner) -> None:
    """Compares the log-probabilities of a rollout worker's samples with the learner's, unless that was done before.

    Raises:
        DisagreementError: they do not agree.
    """
    name = recipe.model.path
    key = agreement_key(model_directory(name), {**computation(recipe), "engine": recipe.engine.model_dump()})
    if is_known(key):
        return
    device = "cuda" if recipe.model.device != "cpu" and torch.cuda.is_available() else "cpu"
    config, games = model_config(name), list(recipe.selfplay.games)
    replies = collector.call_policy(sample_probes, config, count_parameters(name), device, games)
    compare_with_learner(replies, learner, str(config.model_type), recipe.model.compute, recipe.engine.kind)
    keep(key, {"cluster": True})


def make_worker_policy(recipe: Recipe) -> LanguagePolicy:
    """The policy of a rollout worker; it gets the learner's weights before its first game."""
    loaded = load_for_engine(recipe.model, recipe.engine)
    return make_policy(recipe.engine, recipe.model, loaded, recipe.prompt, recipe.sampling, weights=Weights.RECEIVED)
