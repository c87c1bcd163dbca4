"""What is known of every action token while a batch is learned from, and the loss of a micro-batch in terms of it.

Shapes: K action tokens of a micro-batch, A of all samples that this rank learns from, D hidden size.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from spiral.core.metrics import Metrics
from spiral.training.batch import Batch
from spiral.training.logprobs import TokenScores
from spiral.training.loss import loss
from spiral.training.packing import MicroBatch
from spiral.training.settings import LossConfig
from spiral.training.sums import gap_sums


@dataclasses.dataclass(kw_only=True)
class Targets:
    """Per-token numbers that do not change during the update; each [A] unless said."""

    action_ids: Tensor
    behaviour_logprobs: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    reference_hidden: Tensor | None = None
    """[A, D]"""
    untouched: bool = True
    """Whether no optimizer step of this update has been taken, so that scores are still those of the old policy."""

    def note_old_policy(self, rows: MicroBatch, scores: TokenScores, config: LossConfig) -> Metrics:
        """While the weights are those that the update began with, scores are the old policy's: no pass of its own.

        Returns sums of the gap to the sampler.
        """
        index, logprobs_K = rows.action_K, scores.logprobs_K.detach()
        if config.old_logprobs == "learner":
            self.old_logprobs[index] = logprobs_K
        return gap_sums(logprobs_K, self.behaviour_logprobs[index])


def targets_of(batch: Batch, device: torch.device) -> Targets:
    """What the batch itself says, with the sampler for the old policy until that is noted."""
    behaviour = batch.behaviour_logprobs_A.to(device)
    return Targets(
        action_ids=batch.action_ids_A.to(device),
        behaviour_logprobs=behaviour,
        advantages=batch.advantages_A.to(device),
        old_logprobs=behaviour.clone(),
    )


def micro_batch_loss(
    rows: MicroBatch, scores: TokenScores, targets: Targets, denominator: float, config: LossConfig
) -> tuple[Tensor, Metrics]:
    """The loss of one micro-batch and its sums over tokens."""
    index = rows.action_K
    parts = loss(
        scores,
        targets.old_logprobs[index],
        targets.behaviour_logprobs[index],
        targets.advantages[index],
        denominator,
        config,
    )
    ratio = (scores.logprobs_K - targets.old_logprobs[index]).detach()
    return parts.total, {
        "tokens": float(len(index)),
        "policy_loss": float(parts.policy),
        "clipped": float(parts.clipped),
        "entropy": float(scores.entropy_K.detach().sum()),
        "kl_reference": float(scores.kl_K.detach().sum()),
        "kl_old": float((ratio.exp() - 1 - ratio).sum()),
    }
