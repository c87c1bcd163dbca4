"""The loss, as pure functions of per-token numbers.

    L = (1 / D) sum over action tokens of  w * L_pg  -  entropy_bonus * H  +  kl_coefficient * KL(pi || ref)

- D is a constant: the response budget times the number of samples, never an answer's own length, so that long
  reasoning is not punished (Dr. GRPO, arXiv 2503.20783). It is the same for every shard and micro-batch.
- w = min(pi_old / mu, cap) with gradient stopped corrects for a sampler mu that differs from the policy pi_old at
  the start of the update (truncated importance sampling, token by token).
- "policy_gradient": L_pg = -A log pi. "ppo": L_pg = -min(r A, clip(r, 1 - low, 1 + high) A) with r = pi / pi_old
  (arXiv 1707.06347); a larger `clip_high` is clip-higher (DAPO, arXiv 2503.14476).

Left out: whole-sequence importance weights, which reject long answers first.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from spiral.training.logprobs import TokenScores
from spiral.training.settings import LossConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossParts:
    """The loss and what it is made of; sums over action tokens divided by the constant D."""

    total: Tensor
    policy: Tensor
    clipped: Tensor
    """How many tokens the clip cut off (a count)."""


def importance_weights(old_logprobs_K: Tensor, behaviour_logprobs_K: Tensor, cap: float) -> Tensor:
    """min(pi_old / mu, cap), no gradient."""
    return (old_logprobs_K - behaviour_logprobs_K).detach().exp().clamp(max=cap)


def policy_loss_tokens(
    logprobs_K: Tensor, old_logprobs_K: Tensor, advantages_K: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """The policy-gradient term of every token, and whether the clip cut it off."""
    if config.kind == "policy_gradient":
        return -advantages_K * logprobs_K, torch.zeros_like(advantages_K, dtype=torch.bool)
    ratio_K = (logprobs_K - old_logprobs_K).exp()
    clipped_K = ratio_K.clamp(1 - config.clip_low, 1 + config.clip_high)
    free, bound = ratio_K * advantages_K, clipped_K * advantages_K
    return -torch.minimum(free, bound), bound < free


def loss(
    scores: TokenScores,
    old_logprobs_K: Tensor,
    behaviour_logprobs_K: Tensor,
    advantages_K: Tensor,
    denominator: float,
    config: LossConfig,
) -> LossParts:
    """The loss of one micro-batch; adding up micro-batches gives the loss of the whole batch."""
    weights_K = importance_weights(old_logprobs_K, behaviour_logprobs_K, config.importance_cap)
    policy_K, clipped_K = policy_loss_tokens(scores.logprobs_K, old_logprobs_K, advantages_K, config)
    policy = (weights_K * policy_K).sum() / denominator
    total = policy
    if config.entropy_bonus:
        total = total - config.entropy_bonus * scores.entropy_K.sum() / denominator
    if config.kl_coefficient:
        total = total + config.kl_coefficient * scores.kl_K.sum() / denominator
    return LossParts(total=total, policy=policy.detach(), clipped=clipped_K.sum())
