"""The loss as pure functions of per-token numbers, and the metrics that are summed beside it.

    L = (1 / D) sum over action tokens of  w * L_pg  -  entropy_bonus * H  +  kl_coefficient * KL(pi || ref)

- D is a constant: the response budget times the number of samples, never an answer's own length, so that long
  reasoning is not punished (Dr. GRPO, arXiv 2503.20783). It is the same for every shard and micro-batch.
- w = min(pi_old / mu, cap) with gradient stopped corrects for behaviour log-probabilities mu that differ from the
  policy pi_old at the start of the update (truncated importance sampling, token by token).
- L_pg is the policy loss of a token, by default "ppo": see `spiral.training.losses`.
- Of expert games (`kind` "nll", `spiral.training.sft`) D is the number of action tokens, w is 1 and L_pg is
  -log pi, so that L is the mean negative log-likelihood of a token.
- H and KL(pi || ref), exact over the vocabulary, are computed in `logprobs.py`. The metric `kl_old` and the gaps are
  estimates from the sampled tokens, computed here.

Not supported: one weight w for a whole reply, which rejects long answers first.

Shapes: K action tokens of a micro-batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from torch import Tensor

from spiral.core.metrics import Metrics
from spiral.training.logprobs import TokenScores
from spiral.training.losses import PolicyLoss, TokenNumbers
from spiral.training.settings import NLL, LossConfig

GAPS = ("gap_mean", "gap_k3", "gap_over_0.1")
"""Between behaviour and learner log-probabilities: mean size and K3 in nats, share of tokens over 0.1."""

TOKEN_SUMS = ("tokens", "policy_loss", "clipped", "entropy", "kl_reference", "kl_old", "gap_tokens", "likeliest", *GAPS)
"""Metrics to sum over ranks; all others are equal on every rank."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossParts:
    """The loss of a micro-batch, divided by the constant D."""

    total: Tensor
    policy: Tensor
    """The part of the policy loss, without gradient."""
    clipped: Tensor
    """The number of tokens that were clipped."""


def importance_weights(old_logprobs_K: Tensor, behaviour_logprobs_K: Tensor, cap: float) -> Tensor:
    """Return min(pi_old / mu, cap), without gradient."""
    return (old_logprobs_K - behaviour_logprobs_K).detach().exp().clamp(max=cap)


def loss(
    scores: TokenScores, tokens: TokenNumbers, denominator: float, config: LossConfig, policy_loss: PolicyLoss
) -> LossParts:
    """Compute the loss of one micro-batch; those of all micro-batches add up to the loss of the whole batch.

    Args:
        scores: Log-probabilities, entropy and KL of the action tokens, with gradients.
        tokens: What the policy loss is computed from.
        denominator: The constant D.
        config: The cap, the entropy bonus and the coefficient of the KL.
        policy_loss: What `make_policy_loss(config)` returned.
    """
    policy_K, clipped_K = policy_loss(tokens)
    if config.kind != NLL:
        weights_K = importance_weights(tokens.old_logprobs_K, tokens.behaviour_logprobs_K, config.importance_cap)
        policy_K = weights_K * policy_K
    policy = policy_K.sum() / denominator
    total = policy
    if config.entropy_bonus:
        total = total - config.entropy_bonus * scores.entropy_K.sum() / denominator
    if config.kl_coefficient:
        total = total + config.kl_coefficient * scores.kl_K.sum() / denominator
    return LossParts(total=total, policy=policy.detach(), clipped=clipped_K.sum())


def loss_sums(parts: LossParts, scores: TokenScores, tokens: TokenNumbers) -> Metrics:
    """Return what a micro-batch adds to the metrics of an update, summed over its action tokens."""
    log_ratio_K = (tokens.logprobs_K - tokens.old_logprobs_K).detach()
    return {
        "tokens": float(len(log_ratio_K)),
        "policy_loss": float(parts.policy),
        "clipped": float(parts.clipped),
        "entropy": float(scores.entropy_K.detach().sum()),
        "kl_reference": float(scores.kl_K.detach().sum()),
        "kl_old": float((log_ratio_K.exp() - 1 - log_ratio_K).sum()),
    }


def likelihood_sums(parts: LossParts, scores: TokenScores, denominator: float) -> Metrics:
    """Return what a micro-batch of expert games adds to the metrics of an update."""
    return {
        "tokens": float(len(scores.logprobs_K)),
        "policy_loss": float(parts.policy) * denominator,
        "entropy": float(scores.entropy_K.detach().sum()),
        "kl_reference": float(scores.kl_K.detach().sum()),
        "likeliest": float(scores.likeliest_K.sum()),
    }


def gap_sums(learner_logprobs_K: Tensor, behaviour_logprobs_K: Tensor) -> Metrics:
    """Return how far behaviour log-probabilities are from the learner's, summed over action tokens.

    K3 estimates KL(behaviour || learner) as r - 1 - log r with r = learner / behaviour (Schulman, 2020).
    """
    log_ratio_K = learner_logprobs_K - behaviour_logprobs_K
    return {
        "gap_tokens": float(len(log_ratio_K)),
        "gap_mean": float(log_ratio_K.abs().sum()),
        "gap_k3": float((log_ratio_K.exp() - 1 - log_ratio_K).sum()),
        "gap_over_0.1": float((log_ratio_K.abs() > 0.1).sum()),
    }


def add(totals: Metrics, values: Mapping[str, float]) -> None:
    """Add every value to its total."""
    for key, value in values.items():
        totals[key] = totals.get(key, 0.0) + value


def averages(totals: Metrics, learning_rate: float, kind: str = "ppo") -> Metrics:
    """Turn sums into metrics: means over tokens or optimizer steps. What is not finite is left out, as in JSON.

    `kind` is that of the loss.
    """
    tokens = totals.get("tokens", 0.0) or math.nan
    steps = totals.get("optimizer_steps", 0.0) or math.nan
    if kind == NLL:
        losses = {
            "loss/nll": totals.get("policy_loss", 0.0) / tokens,
            "loss/accuracy": totals.get("likeliest", 0.0) / tokens,
        }
    else:
        losses = {
            "loss/policy": totals.get("policy_loss", 0.0) / steps,
            "loss/kl_old": totals.get("kl_old", 0.0) / tokens,
            "loss/clip_fraction": totals.get("clipped", 0.0) / tokens,
        }
    metrics = {
        **losses,
        "loss/entropy": totals.get("entropy", 0.0) / tokens,
        "loss/kl_reference": totals.get("kl_reference", 0.0) / tokens,
        "learner/grad_norm": totals.get("grad_norm", 0.0) / steps,
        "learner/learning_rate": learning_rate,
        "learner/skipped_steps": totals.get("skipped_steps", 0.0),
    }
    scored = totals.get("gap_tokens", 0.0) or math.nan
    metrics.update({f"sampler/{key}": totals.get(key, 0.0) / scored for key in GAPS})
    return {key: value for key, value in metrics.items() if math.isfinite(value)}
