"""Attention within packed samples: every token looks back as far as its own sample begins.

Linear layers take packed rows as they are and waste nothing. For attention alone the row is regrouped: samples of
similar length are put side by side, attended causally by PyTorch's fused kernel, and put back. That kernel
exists on every backend, needs no [W, W] mask, and its work grows with the samples' lengths, not with the row's.

Samples that begin with the same tokens may share them: the beginning is in the row once, and the rest of each sample
looks back into it. Its keys and values are the same for all of them, so scores and gradients are those of the samples
one by one.

The function is registered with transformers as an attention implementation and gets its `Segments` as a keyword
argument of the forward pass. Without one it is plain scaled-dot-product attention, as sampling needs it.

Shapes: R rows of width W, T = R W tokens, H heads of size E, n samples of a group padded to g tokens after a prefix of
p tokens, G slots in all groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "spiral_segments"
MIN_SHARE = 0.75
"""Shortest sample in a group over the longest, at least; it limits the padding."""


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Consecutive tokens of a row that are attended causally."""

    length: int
    prefix_start: int = 0
    prefix_length: int = 0
    """Tokens elsewhere in the row that all of the stretch can look back to as well."""


class Segments:
    """The positions of the samples in a packed row, by which attention regroups them. Moved to a device with `to`."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        """Stretches [S] lie end to end and fill the row."""
        lengths = [stretch.length for stretch in stretches]
        starts = [0, *accumulate(lengths)]
        self.groups: list[Group] = []
        indices, paddings = [], []
        for members in _similar(stretches):
            longest, first = lengths[members[0]], stretches[members[0]]
            ramp_g = torch.arange(longest)
            padding_ng = ramp_g >= torch.tensor([lengths[member] for member in members])[:, None]
            index_ng = torch.tensor([starts[member] for member in members])[:, None] + ramp_g
            self.groups.append(Group(len(members), longest, first.prefix_start, first.prefix_length))
            indices.append(index_ng.masked_fill(padding_ng, 0).flatten())
            paddings.append(padding_ng.flatten())
        self.index_G = torch.cat(indices)
        """[G] the token in each slot of the groups laid end to end; 0 where there is none."""
        self.padding_G = torch.cat(paddings)
        """[G] true where there is none."""
        self.slot_T = torch.empty(starts[-1], dtype=torch.long)
        """[T] the slot of each token."""
        self.slot_T[self.index_G[~self.padding_G]] = torch.arange(len(self.index_G))[~self.padding_G]
        self.uses = 0
        """Number of layers that have attended; 0 after a pass shows a model that ignores its keyword arguments."""
        self.windows = 0
        """Number of these that have a window."""

    def to(self, device: torch.device) -> Segments:
        """Move to `device`."""
        self.index_G = self.index_G.to(device)
        self.padding_G = self.padding_G.to(device)
        self.slot_T = self.slot_T.to(device)
        return self


class Group(NamedTuple):
    """Stretches that are attended together."""

    n: int
    g: int
    prefix_start: int
    prefix_length: int


class _Take(torch.autograd.Function):
    """`rows.index_select(0, index)`, whose gradient is taken back by the inverse instead of being added up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, unused: Tensor | None) -> Tensor:
        """Every used row is taken exactly once; `unused` marks rows that nothing is taken from."""
        ctx.save_for_backward(inverse, unused)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Every used row has exactly one gradient."""
        inverse, unused = ctx.saved_tensors
        gradient = gradients[0].index_select(0, inverse)
        if unused is not None:
            gradient.masked_fill_(unused.view(-1, *[1] * (gradient.dim() - 1)), 0.0)
        return gradient, None, None, None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment; query, key and value are [R, heads, W, E], the result [R, W, H, E].

    Packing as such is described by Krell et al. (2021), arXiv 2107.02027.

    Args:
        module: The layer's attention.
        query: Queries.
        key: Keys.
        value: Values.
        attention_mask: A mask for rows without segments.
        segments: The samples of a packed row.
        sliding_window: Tokens that a token of this layer attends to, itself included; None for all before it.
        kwargs: What else the model passes on to attention.
    """
    if segments is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return plain
    unknown = [name for name in ("s_aux", "softcap") if kwargs.get(name) is not None]
    if unknown:
        raise ValueError(f"attention of packed rows knows nothing of {' and '.join(unknown)}, which this model needs")
    segments.uses += 1
    segments.windows += sliding_window is not None
    taken = [
        _Take.apply(  # type: ignore[no-untyped-call]
            states.transpose(1, 2).flatten(0, 1), segments.index_G, segments.slot_T, None
        )
        for states in (query, key, value)
    ]
    parts = []
    sizes = [group.n * group.g for group in segments.groups]
    for group, *states in zip(segments.groups, *(part.split(sizes) for part in taken), strict=True):
        q, k, v = (part.unflatten(0, (group.n, group.g)).transpose(1, 2) for part in states)
        mask = None
        if group.prefix_length:
            k, v = (_after_prefix(own, whole, group) for own, whole in ((k, key), (v, value)))
        hidden = sliding_window is not None and k.shape[2] > sliding_window
        if group.prefix_length or hidden:
            mask = torch.ones(group.g, k.shape[2], dtype=torch.bool, device=k.device).tril(group.prefix_length)
        if mask is not None and sliding_window is not None and hidden:
            mask = mask.triu(group.prefix_length - sliding_window + 1)
        attended, _ = sdpa_attention_forward(module, q, k, v, mask, **kwargs)
        parts.append(attended.flatten(0, 1))
    together: Tensor = _Take.apply(  # type: ignore[no-untyped-call]
        torch.cat(parts), segments.slot_T, segments.index_G, segments.padding_G
    )
    return together.view(query.shape[0], query.shape[2], *together.shape[1:]), None


def use_segment_attention(model: Any) -> None:
    """Make a transformers model attend through `segment_attention`.

    No mask function is registered under the name, so transformers builds no mask and passes a given one on.
    """
    AttentionInterface.register(NAME, segment_attention)
    model.set_attn_implementation(NAME)


def _after_prefix(own_nHgE: Tensor, row_1HWE: Tensor, group: Group) -> Tensor:
    """Return the keys or values [n, H, p + g, E] of a group, with those of its prefix before each."""
    prefix = row_1HWE[:, :, group.prefix_start : group.prefix_start + group.prefix_length]
    return torch.cat([prefix.expand(group.n, -1, -1, -1), own_nHgE], dim=2)


def _similar(stretches: Sequence[Stretch]) -> list[list[int]]:
    """Group the stretches' numbers by prefix and similar length, longest first."""

    def order(number: int) -> tuple[int, int, int]:
        return (stretches[number].prefix_start, stretches[number].prefix_length, -stretches[number].length)

    groups: list[list[int]] = []
    for number in sorted(range(len(stretches)), key=order):
        leader = stretches[groups[-1][0]] if groups else None
        alike = leader is not None and order(number)[:2] == (leader.prefix_start, leader.prefix_length)
        if leader is not None and alike and stretches[number].length >= MIN_SHARE * leader.length:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
