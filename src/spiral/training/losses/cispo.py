"""CISPO: the weight is clipped and no token loses its gradient (MiniMax, 2025, arXiv 2506.13585, equations 4 and 5).

    -sg(clip(r, 1 - low, 1 + high)) A log pi        with r = pi / pi_old, sg: no gradient

PPO gives a clipped token no gradient; here it keeps one, with a bounded weight. The paper does not bound the weight
below (`low` 1) and tunes `high` alone, whose value it does not state; the default 4 is ours. Two things differ: the
paper divides by the number of tokens of a group, while here the sum is divided by a constant, as for every loss; and
the importance weight of `spiral.training.loss` multiplies this one, so that r is counted from the start of the update.
"""

from __future__ import annotations

from torch import Tensor

from spiral.training.losses.base import TokenNumbers, ratios


def cispo(tokens: TokenNumbers, *, low: float = 1.0, high: float = 4.0) -> tuple[Tensor, Tensor]:
    """-sg(clip(r, 1 - low, 1 + high)) A log pi; clipped are tokens whose weight is at a bound."""
    ratio_K = ratios(tokens).detach()
    weight_K = ratio_K.clamp(1 - low, 1 + high)
    return -weight_K * tokens.advantages_K * tokens.logprobs_K, weight_K != ratio_K
