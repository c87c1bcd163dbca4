"""Agreement in a run: which settings decide what is computed, and a watch on the first updates.

What the engine reported for the games of the first step is compared with what the learner computes of them; the games
of the second were sampled with the weights of the first update, so an engine that took them wrongly (a stale head,
layers in another order) shows there. Both numbers are in every update anyway (`sampler/gap_mean`).
"""

from __future__ import annotations

from typing import Any

from spiral.agreement import PLAINER, DisagreementError, tolerance_of
from spiral.core.metrics import Metrics
from spiral.runs.recipe import Recipe
from spiral.training.batch import Batch
from spiral.training.loop import Updater

GAP = "sampler/gap_mean"


def learner_options(recipe: Recipe) -> dict[str, Any]:
    """The settings that can make a learner compute something else than the plain forward pass."""
    values = recipe.model_dump()
    return {name: values[name.partition(".")[0]][name.partition(".")[2]] for name in PLAINER}


def computation(recipe: Recipe) -> dict[str, Any]:
    """The settings by which a run's agreement is known again, beside weights, context and temperature."""
    device = {"device": recipe.model.device, "head": recipe.model.head, "workers": recipe.cluster.rollout_workers}
    return {**learner_options(recipe), **device, "prompt": recipe.prompt.model_dump()}


class WatchedLearner:
    """An `Updater` that ends a run in which engine and learner disagree in its first updates."""

    def __init__(self, learner: Updater, recipe: Recipe) -> None:
        """Takes the limit and what is comparable from the recipe.

        Where top-p cuts the distribution, the learner computes another one by design.
        After the first step, schedules other than "sync" learn from games of older weights.
        """
        self._learner = learner
        self._engine = recipe.engine.kind
        sampling, compute = recipe.sampling, recipe.model.compute
        self._limit = tolerance_of(compute, sampling.temperature).mean
        if compute != "float32":
            self._limit = max(self._limit, recipe.loss.gap_limit)
        comparable = sampling.top_p == 1
        self._left = (2 if recipe.cluster.schedule == "sync" else 1) if comparable else 0

    @property
    def version(self) -> int:
        """How many updates there have been."""
        return self._learner.version

    def update(self, batch: Batch | None) -> Metrics:
        """One update. Raises `DisagreementError` after one of the first if what was sampled is not what is learned."""
        metrics = self._learner.update(batch)
        if self._left and GAP in metrics:
            self._left -= 1
            if not metrics[GAP] <= self._limit:
                raise DisagreementError(
                    f"engine.kind {self._engine!r} and the learner disagree about the games of step {self.version},"
                    f" played with the weights of update {self.version - 1}: {metrics[GAP]:.2g} nats a token in the"
                    f" mean, where rounding explains {self._limit:.2g}; what was sampled is not what is learned from."
                    " Try another engine.kind; `spiral check` says more"
                )
        return metrics
