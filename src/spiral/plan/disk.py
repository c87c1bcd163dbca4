"""What a run leaves on disk: its checkpoints and snapshots. Metrics, episodes and evaluations are small beside them."""

from __future__ import annotations

import dataclasses

from spiral.plan.memory import number_size
from spiral.rollout.opponents.loading import most_past_selves
from spiral.runs.hardware import GIB
from spiral.runs.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiskUse:
    """The models that a finished run has kept."""

    checkpoints: int
    checkpoint_gib: float
    """Of one: float32 weights, AdamW's moments and, where there are any, the reference and low-rank layers."""
    snapshots: int
    snapshot_gib: float
    """Of one: the weights, in the precision in which replies are generated."""

    past_selves: int = 0
    """Models that opponent samplers may choose, at most at one time; each as large as a snapshot."""

    @property
    def gib(self) -> float:
        """Of all."""
        return self.checkpoints * self.checkpoint_gib + (self.snapshots + self.past_selves) * self.snapshot_gib


def disk_use(recipe: Recipe, parameters: int, trainable: int) -> DiskUse:
    """The disk that a run needs for a model of that many parameters, of which some are trained.

    The newest checkpoint is written before an old one is removed, so one more is counted where some are removed.
    """
    run = recipe.run
    written = -(-run.steps // run.checkpoint_every)  # the last step has one, whenever it comes
    kept = 1 + (min(written, run.keep_checkpoints + 1) if run.keep_checkpoints else written)
    reference = number_size(recipe) * parameters if recipe.loss.kl_coefficient else 0
    adapter = 4 * trainable if recipe.lora.rank else 0
    return DiskUse(
        checkpoints=kept,
        checkpoint_gib=(4 * parameters + 8 * trainable + reference + adapter) / GIB,
        snapshots=sum(step <= run.steps for step in run.snapshots),
        snapshot_gib=number_size(recipe) * parameters / GIB,
        past_selves=most_past_selves(recipe.selfplay, run.steps, run.checkpoint_every),
    )
