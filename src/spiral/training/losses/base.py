"""The interface of a policy loss.

Shapes: K action tokens of a micro-batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenNumbers:
    """Per-token inputs of a policy loss, each [K]; log-probabilities in nats."""

    logprobs_K: Tensor
    """Of the sampled tokens under the current weights. The gradient flows through these alone."""
    old_logprobs_K: Tensor
    """The same at the start of the update."""
    behaviour_logprobs_K: Tensor
    """Under the distribution that was sampled from."""
    advantages_K: Tensor
    sample_K: Tensor
    """Which sample, one turn of a player, each token belongs to; all tokens of a sample are in one micro-batch."""


PolicyLoss = Callable[[TokenNumbers], tuple[Tensor, Tensor]]
"""[K] the loss of each token, and [K] whether it was clipped."""


def ratios(tokens: TokenNumbers) -> Tensor:
    """Return r = pi / pi_old for every token, [K]."""
    return (tokens.logprobs_K - tokens.old_logprobs_K).exp()
