"""From logits to a token and its exact log-probability.

The distribution sampled from is temperature first, then top-p (the smallest set of tokens, most likely first,
whose mass reaches p; Holtzman et al., 2020, arXiv 1904.09751), then renormalised. The log-probability returned is
under that distribution. A token is drawn by inverting the cumulative distribution at a given uniform number, so
the same number and the same logits always give the same token.

Shapes: N rows, V tokens in the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiral.core.policy import SamplingConfig


def sample_tokens(logits_NV: Tensor, uniforms_N: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Draws one token a row: ids [N] and log-probabilities [N] in nats, float32.

    `uniforms_N` are numbers in [0, 1). At temperature 0 the most likely token has log-probability 0.
    """
    logprobs_NV = sampling_logprobs(logits_NV, config)
    # Apple's GPUs have no float64; a draw there has the resolution of float32.
    wide = torch.float32 if logits_NV.device.type == "mps" else torch.float64
    cumulative_NV = logprobs_NV.to(wide).exp().cumsum(dim=-1)
    # Scaling by the last entry keeps the draw inside the support whatever the sum rounds to.
    thresholds_N1 = (
        uniforms_N.to(wide).clamp(max=1 - 2**-24 if wide == torch.float32 else 1).to(cumulative_NV)[:, None]
        * cumulative_NV[:, -1:]
    )
    tokens_N = torch.searchsorted(cumulative_NV, thresholds_N1, right=True).squeeze(-1)
    tokens_N = tokens_N.clamp(max=logits_NV.shape[-1] - 1)
    return tokens_N, logprobs_NV.gather(-1, tokens_N[:, None]).squeeze(-1)


def sampling_logprobs(logits_NV: Tensor, config: SamplingConfig) -> Tensor:
    """[N, V] log-probabilities of the distribution sampled from, in nats, float32; minus infinity outside top-p.

    Logits that are not finite give log-probabilities that are not finite, at every temperature.
    """
    if config.temperature == 0:
        certain_NV = torch.full_like(logits_NV, -torch.inf, dtype=torch.float32)
        token_N1 = logits_NV.argmax(dim=-1, keepdim=True)
        best_N1 = logits_NV.gather(-1, token_N1).float()
        return certain_NV.scatter_(-1, token_N1, best_N1 - best_N1)  # 0, but nan when the logit is not finite
    logprobs_NV = torch.log_softmax(logits_NV.float() / config.temperature, dim=-1)
    return _keep_top_p(logprobs_NV, config.top_p) if config.top_p < 1 else logprobs_NV


def _keep_top_p(logprobs_NV: Tensor, top_p: float) -> Tensor:
    """Log-probabilities renormalised over the nucleus, minus infinity outside it."""
    ordered_NV, order_NV = logprobs_NV.sort(dim=-1, descending=True, stable=True)
    probabilities_NV = ordered_NV.exp()
    before_NV = probabilities_NV.cumsum(dim=-1) - probabilities_NV
    ordered_NV = ordered_NV.masked_fill(before_NV >= top_p, -torch.inf)
    kept_NV = torch.empty_like(ordered_NV).scatter_(-1, order_NV, ordered_NV)
    return torch.log_softmax(kept_NV, dim=-1)
