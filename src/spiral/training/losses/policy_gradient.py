"""REINFORCE's loss, -A log pi, which is never clipped.

Expert games have it too (`kind` "nll"), with the advantage 1 for every token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiral.training.losses.base import TokenNumbers


def policy_gradient(tokens: TokenNumbers) -> tuple[Tensor, Tensor]:
    """-A log pi, which is never clipped."""
    return -tokens.advantages_K * tokens.logprobs_K, torch.zeros_like(tokens.advantages_K, dtype=torch.bool)
