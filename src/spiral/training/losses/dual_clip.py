"""PPO with a second clip for negative advantages (Ye et al., 2020, arXiv 1912.09729, equation 5).

    A >= 0:  -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)                  as PPO
    A < 0:   -max(min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), bound * A)    with bound > 1

PPO does not bound the ratio above where the advantage is negative: a token that the policy has made much likelier since
it was sampled gets a loss as large as the ratio. Beyond `bound` (3 in the paper) it has no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiral.training.losses.base import TokenNumbers
from spiral.training.losses.ppo import ppo


def dual_clip(
    tokens: TokenNumbers, *, clip_low: float = 0.2, clip_high: float = 0.2, bound: float = 3.0
) -> tuple[Tensor, Tensor]:
    """PPO's loss, which for a negative advantage is at most -bound * A."""
    loss_K, clipped_K = ppo(tokens, clip_low=clip_low, clip_high=clip_high)
    largest_K = -bound * tokens.advantages_K
    beyond_K = (tokens.advantages_K < 0) & (loss_K > largest_K)
    return torch.where(beyond_K, largest_K, loss_K), clipped_K | beyond_K
