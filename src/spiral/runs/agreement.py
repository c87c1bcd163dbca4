"""Agreement of engine and learner in a run: the settings that matter to it, and a check in every update.

The log-probabilities that the engine reported for the games of a step are compared with the learner's. The games of the
second step were sampled with the weights of the first update, so an engine that received them wrongly (a stale head,
experts in another order) is found there, and one that receives later weights wrongly in the step that follows. Every
update computes the difference anyway (`sampler/gap_mean`).
"""

from __future__ import annotations

import math
from typing import Any

from spiral.agreement import PLAIN_SETTINGS, DisagreementError, tolerance_of
from spiral.core.metrics import Metrics
from spiral.core.records import FloatArray
from spiral.runs.recipe import Recipe
from spiral.training.batch import Batch
from spiral.training.loop import Updater

GAP = "sampler/gap_mean"
FIRST_UPDATES = 2
RISE = 10
"""A run's difference may reach this multiple of its largest so far. A correct engine's stays: rounding in float32 gives
less than 1e-5 nats a token, as TF32 does up to 1e-3. Two swapped experts of a small model give 0.002 (gpt-oss) to 0.3
(Mixtral)."""
LATER = 5e-3
"""Nats a token at temperature 1 up to which a difference may rise after the first updates."""


def learner_options(recipe: Recipe) -> dict[str, Any]:
    """The settings under which a learner could compute something else than the plain forward pass."""
    values = recipe.model_dump()
    return {name: values[name.partition(".")[0]][name.partition(".")[2]] for name in PLAIN_SETTINGS}


def computation(recipe: Recipe) -> dict[str, Any]:
    """The settings under which a check of agreement is remembered, beside weights, context and temperature."""
    device = {"device": recipe.model.device, "head": recipe.model.head, "workers": recipe.cluster.rollout_workers}
    engine = {"tensor_parallel": recipe.engine.tensor_parallel, "sleep": recipe.engine.sleep}
    return {**learner_options(recipe), **device, **engine, "prompt": recipe.prompt.model_dump()}


class WatchedLearner:
    """An `Updater` that ends a run in which engine and learner disagree."""

    def __init__(self, learner: Updater, recipe: Recipe) -> None:
        """Takes the limit from the recipe.

        With top-p the engine samples from another distribution than the learner's by design, so nothing is compared.
        Schedules other than "sync" learn from games of older weights after the first step, so that only this one is
        compared.
        """
        self._learner = learner
        self._engine = recipe.engine.kind
        sampling, compute = recipe.sampling, recipe.model.compute
        tolerance = tolerance_of(compute, sampling.temperature)
        self._first = tolerance.mean
        if compute != "float32":
            self._first = max(self._first, recipe.loss.gap_limit)
        self._later = max(self._first, LATER * tolerance.mean / tolerance_of(compute).mean)
        self._done, self._largest = 0, 0.0
        comparable = sampling.top_p == 1
        self._watched = (math.inf if recipe.cluster.schedule == "sync" else 1) if comparable else 0

    @property
    def version(self) -> int:
        """Number of updates done."""
        return self._learner.version

    def score(self, batch: Batch, *, split: bool = False) -> FloatArray:
        """[A] The log-probabilities of a batch's action tokens, as the learner gives them."""
        return self._learner.score(batch, split=split)

    def update(self, batch: Batch | None) -> Metrics:
        """One update. Raises `DisagreementError` if engine and learner disagree; the run ends before it is saved."""
        later = max(self._first, min(self._later, RISE * self._largest))
        limit = self._first if self._done < FIRST_UPDATES else later
        metrics = self._learner.update(batch)
        if self._done < self._watched and GAP in metrics:
            self._done += 1
            if not metrics[GAP] <= limit:
                raise DisagreementError(
                    f"engine.kind {self._engine!r} and the learner disagree about the games of step {self.version},"
                    f" played with the weights of update {self.version - 1}: {metrics[GAP]:.2g} nats a token in the"
                    f" mean, where rounding explains {limit:.2g}; what was sampled is not what is learned from, and the"
                    " last checkpoint is from before. Try another engine.kind; `spiral check` says more"
                )
            self._largest = max(self._largest, metrics[GAP])
        return metrics
