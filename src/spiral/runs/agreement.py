"""Agreement of engine and learner in a run: the settings that matter to it, and a check in the first updates.

The log-probabilities that the engine reported for the games of the first step are compared with the learner's. The
games of the second step were sampled with the weights of the first update, so an engine that received them wrongly (a
stale head, layers in another order) is found there. Every update computes the difference anyway (`sampler/gap_mean`).
"""

from __future__ import annotations

from typing import Any

from spiral.agreement import PLAINER, DisagreementError, tolerance_of
from spiral.core.metrics import Metrics
from spiral.core.records import FloatArray
from spiral.runs.recipe import Recipe
from spiral.training.batch import Batch
from spiral.training.loop import Updater

GAP = "sampler/gap_mean"


def learner_options(recipe: Recipe) -> dict[str, Any]:
    """The settings under which a learner could compute something else than the plain forward pass."""
    values = recipe.model_dump()
    return {name: values[name.partition(".")[0]][name.partition(".")[2]] for name in PLAINER}


def computation(recipe: Recipe) -> dict[str, Any]:
    """The settings under which a check of agreement is remembered, beside weights, context and temperature."""
    device = {"device": recipe.model.device, "head": recipe.model.head, "workers": recipe.cluster.rollout_workers}
    return {**learner_options(recipe), **device, "prompt": recipe.prompt.model_dump()}


class WatchedLearner:
    """An `Updater` that ends a run in which engine and learner disagree in its first updates."""

    def __init__(self, learner: Updater, recipe: Recipe) -> None:
        """Takes the limit from the recipe.

        With top-p the engine samples from another distribution than the learner's by design, so nothing is compared.
        Schedules other than "sync" learn from games of older weights after the first step.
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
        """Number of updates done."""
        return self._learner.version

    def score(self, batch: Batch, *, split: bool = False) -> FloatArray:
        """[A] The log-probabilities of a batch's action tokens, as the learner gives them."""
        return self._learner.score(batch, split=split)

    def update(self, batch: Batch | None) -> Metrics:
        """One update. Raises `DisagreementError` if engine and learner disagree in one of the first."""
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
