"""PPO's clip (Schulman et al., 2017, arXiv 1707.06347), and clip-higher (DAPO, Yu et al., 2025, arXiv 2503.14476).

    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)        with r = pi / pi_old

Clip-higher is a `clip_high` above `clip_low`, such as 0.28 and 0.2: rare tokens may grow more before they are clipped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiral.training.losses.base import TokenNumbers, ratios


def ppo(tokens: TokenNumbers, *, clip_low: float = 0.2, clip_high: float = 0.2) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = pi / pi_old."""
    ratio_K = ratios(tokens)
    free_K = ratio_K * tokens.advantages_K
    bound_K = ratio_K.clamp(1 - clip_low, 1 + clip_high) * tokens.advantages_K
    return -torch.minimum(free_K, bound_K), bound_K < free_K
