"""Log-probabilities, entropy and KL of the action tokens, in chunks.

The logits of all tokens, [tokens, vocabulary] in float32, are what fills a GPU first. Here they exist only for one
chunk of action tokens at a time: each chunk is computed under activation checkpointing, so the backward pass
computes it again instead of keeping it. The KL to a reference is exact over the vocabulary and costs no more
memory, because only the reference's hidden states [K, D] are kept, not its logits.

Shapes: K action tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25
"""Logits held at once: 128 MiB in float32."""


class TokenScores(NamedTuple):
    """What the policy says of the action tokens; each [K], in nats."""

    logprobs_K: Tensor
    entropy_K: Tensor
    kl_K: Tensor
    """KL(policy || reference), exact over the vocabulary; zeros without a reference."""


def score_tokens(
    hidden_KD: Tensor,
    head: Any,
    targets_K: Tensor,
    temperature: float,
    reference: tuple[Tensor, Any] | None = None,
    *,
    entropy_gradient: bool = True,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> TokenScores:
    """Scores `targets_K` under softmax(head(hidden) / temperature).

    `reference` is `(hidden states [K, D'], output head)` of the reference model. At temperature 0 the policy's own
    distribution (temperature 1) is scored, since a greedy one has no gradient. A loss without the entropy has to say so
    with `entropy_gradient`: what is computed again for a gradient that is never asked for would stay in memory.
    """
    temperature = temperature or 1.0
    vocabulary = head.weight.shape[0]
    size = max(1, chunk_elements // vocabulary)
    parts = []
    for start in range(0, max(1, len(targets_K)), size):  # of no tokens too, so that all weights are passed through
        chunk = slice(start, start + size)
        reference_chunk = None if reference is None else (reference[0][chunk], reference[1])
        arguments = (hidden_KD[chunk], head, targets_K[chunk], temperature, reference_chunk, entropy_gradient)
        if torch.is_grad_enabled() and len(targets_K) > size:
            parts.append(checkpoint(_score_chunk, *arguments, use_reentrant=False))
        else:
            parts.append(_score_chunk(*arguments))
    logprobs, entropy, kl = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenScores(logprobs_K=logprobs, entropy_K=entropy, kl_K=kl)


def _score_chunk(
    hidden_KD: Tensor,
    head: Any,
    targets_K: Tensor,
    temperature: float,
    reference: tuple[Tensor, Any] | None,
    entropy_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Everything that needs the logits of one chunk."""
    log_p_KV = torch.log_softmax(head(hidden_KD).float() / temperature, dim=-1)
    logprobs_K = log_p_KV.gather(-1, targets_K[:, None]).squeeze(-1)
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_gradient):
        entropy_K = -(log_p_KV.exp() * log_p_KV).sum(-1)
    if reference is None:
        return logprobs_K, entropy_K, torch.zeros_like(logprobs_K)
    with torch.no_grad():
        log_q_KV = torch.log_softmax(reference[1](reference[0]).float() / temperature, dim=-1)
    return logprobs_K, entropy_K, (log_p_KV.exp() * (log_p_KV - log_q_KV)).sum(-1)
