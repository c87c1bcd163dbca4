"""What an update measures of itself: sums over action tokens and optimizer steps, and the averages reported."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from spiral.core.metrics import Metrics

GAPS = ("gap_mean", "gap_k3", "gap_over_0.1")
"""Of the sampler's log-probabilities from the learner's: mean size and K3 in nats, share of tokens over 0.1."""

TOKEN_SUMS = ("tokens", "policy_loss", "clipped", "entropy", "kl_reference", "kl_old", "gap_tokens", *GAPS)
"""What each rank adds up over its own samples; what else is counted is the same on all ranks."""


def add(totals: Metrics, values: Mapping[str, float]) -> None:
    """Adds every value to its total."""
    for key, value in values.items():
        totals[key] = totals.get(key, 0.0) + value


def gap_sums(learner: Tensor, sampler: Tensor) -> Metrics:
    """How far the sampler's log-probabilities are from the learner's, summed over action tokens.

    K3 estimates KL(sampler || learner) as r - 1 - log r with r = learner / sampler (Schulman, 2020).
    """
    log_ratio = learner - sampler
    return {
        "gap_tokens": float(len(log_ratio)),
        "gap_mean": float(log_ratio.abs().sum()),
        "gap_k3": float((log_ratio.exp() - 1 - log_ratio).sum()),
        "gap_over_0.1": float((log_ratio.abs() > 0.1).sum()),
    }


def averages(totals: Metrics, learning_rate: float) -> Metrics:
    """Metrics by name: means over tokens or optimizer steps. What is not finite is left out; JSON cannot hold it."""
    tokens = totals.get("tokens", 0.0) or math.nan
    steps = totals.get("optimizer_steps", 0.0) or math.nan
    metrics = {
        "loss/policy": totals.get("policy_loss", 0.0) / steps,
        "loss/entropy": totals.get("entropy", 0.0) / tokens,
        "loss/kl_reference": totals.get("kl_reference", 0.0) / tokens,
        "loss/kl_old": totals.get("kl_old", 0.0) / tokens,
        "loss/clip_fraction": totals.get("clipped", 0.0) / tokens,
        "learner/grad_norm": totals.get("grad_norm", 0.0) / steps,
        "learner/learning_rate": learning_rate,
        "learner/skipped_steps": totals.get("skipped_steps", 0.0),
    }
    scored = totals.get("gap_tokens", 0.0) or math.nan
    metrics.update({f"sampler/{key}": totals.get(key, 0.0) / scored for key in GAPS})
    return {key: value for key, value in metrics.items() if math.isfinite(value)}
