"""DPPO: a trust region by divergence instead of by ratio (Qi et al., 2026, arXiv 2602.04879; its binary masks).

    -m r A        with r = pi / pi_old, and m 0 or 1, no gradient
    "tv":   m = 0 where A > 0 and pi - mu > limit, or A < 0 and mu - pi > limit
    "kl":   m = 0 where A > 0 and pi > mu, or A < 0 and pi < mu, and KL(mu || pi) > limit

A ratio says little about how far two distributions are apart: a token of probability 1e-4 may become ten times as
likely while nothing else moves. So what counts is the divergence between taking this token and taking any other, the
"binary" one, which needs no other probabilities: |pi - mu|, or

    KL(mu || pi) = mu log(mu / pi) + (1 - mu) log((1 - mu) / (1 - pi))

A token is masked where it is too far from mu already, and its advantage pushes it further. mu is the distribution that
the token was sampled from, as in the paper, whatever `loss.old_logprobs` says. r is counted from the start of the
update; the importance weight of `spiral.training.loss`, min(pi_old / mu, loss.importance_cap), makes it the paper's
pi / mu, of which the paper cuts off larger values. The default limit 0.1 is ours, and so is the constant that the sum
is divided by. The paper's top-k divergences need the engine's other probabilities and are not here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiral.training.losses.base import TokenNumbers, ratios

ALMOST_ONE = 1 - 1e-6
"""Largest probability in log(1 - p)."""


def dppo(tokens: TokenNumbers, *, divergence: str = "tv", limit: float = 0.1) -> tuple[Tensor, Tensor]:
    """-r A where the token may move on in the direction of its advantage, else 0 without gradient."""
    log_pi_K, log_mu_K = tokens.logprobs_K.detach(), tokens.behaviour_logprobs_K
    pi_K, mu_K = log_pi_K.exp(), log_mu_K.exp()
    if divergence == "tv":
        distance_K = (pi_K - mu_K).abs()
    else:
        rest_K = torch.log1p(-mu_K.clamp(max=ALMOST_ONE)) - torch.log1p(-pi_K.clamp(max=ALMOST_ONE))
        distance_K = mu_K * (log_mu_K - log_pi_K) + (1 - mu_K) * rest_K
    away_K = (pi_K - mu_K) * tokens.advantages_K > 0
    masked_K = away_K & (distance_K > limit)
    return (-ratios(tokens) * tokens.advantages_K).masked_fill(masked_K, 0.0), masked_K
