"""GSPO: one ratio for a whole reply (Zheng et al., 2025, arXiv 2507.18071, equations 5 to 7; the token form, 13).

    s = exp(mean over the reply's tokens of log pi - log pi_old)
    -min(s A, clip(s, 1 - low, 1 + high) A)        for every token of the reply

A sequence is one turn: what a player wrote in one decision. Every token of it has the gradient of its own log pi times
s A, and all or none are clipped. The bounds are small, since a mean of log-ratios is: 3e-4 and 4e-4 in the paper.

One thing differs: the paper averages over the tokens of a reply, while here they are summed and divided by a constant,
as for every loss, so that a token weighs the same in a short and in a long reply.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiral.training.losses.base import TokenNumbers


def gspo(tokens: TokenNumbers, *, low: float = 3e-4, high: float = 4e-4) -> tuple[Tensor, Tensor]:
    """-min(s A, clip(s, 1 - low, 1 + high) A) with one s for all tokens of a sample."""
    log_ratio_K = tokens.logprobs_K.detach() - tokens.old_logprobs_K
    _, index_K = torch.unique(tokens.sample_K, return_inverse=True)
    sizes_S = torch.bincount(index_K)
    sums_S = torch.zeros(len(sizes_S), dtype=log_ratio_K.dtype, device=log_ratio_K.device)
    mean_K = (sums_S.index_add(0, index_K, log_ratio_K) / sizes_S)[index_K]
    ratio_K = (tokens.logprobs_K - tokens.logprobs_K.detach() + mean_K).exp()
    free_K = ratio_K * tokens.advantages_K
    bound_K = ratio_K.clamp(1 - low, 1 + high) * tokens.advantages_K
    return -torch.minimum(free_K, bound_K), bound_K < free_K
