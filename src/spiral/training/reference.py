"""The reference policy of the KL term: a copy of the model that is never trained, whole on every rank.

Shapes: A action tokens of a batch, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from spiral.models.loading import cast_parameters
from spiral.training.attention import use_segment_attention
from spiral.training.packing import MicroBatch
from spiral.training.scorer import hidden_states


def frozen_copy(model: Any, compute: str, *, packed: bool) -> Any:
    """A copy that is never trained, in the precision of the computation; `packed` says how rows are laid out."""
    copied = copy.deepcopy(model).eval()
    if packed:
        use_segment_attention(copied)
    cast_parameters(copied, getattr(torch, compute))
    return copied.requires_grad_(False)


@torch.no_grad()
def copy_weights(reference: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copies weights by parameter name into the reference."""
    own = dict(reference.named_parameters())
    for name, tensor in weights:
        own[name].copy_(tensor)


@torch.no_grad()
def reference_hidden(reference: Any, rows: Iterable[MicroBatch], action_tokens: int) -> Tensor:
    """[A, D] the reference's hidden states, in the order of the action tokens, of which all are in the rows."""
    result: Tensor | None = None
    for micro_batch in rows:
        part = hidden_states(reference, micro_batch)
        if result is None:
            result = part.new_empty((action_tokens, part.shape[1]))
        result[micro_batch.action_K] = part
    if result is None:  # a rank without samples
        head: Tensor = reference.get_output_embeddings().weight
        return head.new_empty((0, head.shape[1]))
    return result
