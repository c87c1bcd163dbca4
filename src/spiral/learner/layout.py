"""How the samples of a batch are laid out as rows for a forward pass: padded, or packed.

"padded": one sample a row, samples of similar length together, so that little is wasted. "packed": several samples
a row, kept apart by an attention mask and by positions that start again at 0. Both give the same log-probabilities.
The last token of a sample is only ever a target, so it is not fed in.

Shapes: R rows of width W, K action tokens in the micro-batch, A action tokens in the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from spiral.batch import Batch

Layout = Literal["padded", "packed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows for one forward pass, and where in them the action tokens are predicted."""

    token_ids_RW: Tensor
    position_ids_RW: Tensor
    segment_ids_RW: Tensor
    """Which sample a token belongs to; -1 for padding."""
    predict_K: Tensor
    """Flat index into the rows: the hidden state there predicts action token `action_K`."""
    action_K: Tensor
    """Index of each action token among the A of the whole batch."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on `device`."""
        fields = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return MicroBatch(**fields)

    def attention_mask(self) -> Tensor | None:
        """[R, 1, W, W] true where a query may look; None where plain causal attention is right (padded rows)."""
        first_R1 = self.segment_ids_RW[:, :1]
        if ((self.segment_ids_RW == first_R1) | (self.segment_ids_RW < 0)).all():
            return None
        width = self.token_ids_RW.shape[1]
        same_RWW = self.segment_ids_RW[:, :, None] == self.segment_ids_RW[:, None, :]
        causal_WW = torch.ones(width, width, dtype=torch.bool, device=same_RWW.device).tril()
        return (same_RWW & causal_WW)[:, None]


def micro_batches(batch: Batch, samples: Tensor, layout: Layout, max_tokens: int) -> Iterator[MicroBatch]:
    """The given samples [n] of a batch as micro-batches of at most `max_tokens` tokens (at least one sample each).

    Padded rows are filled in order of length; packed rows are `max_tokens` wide at most and filled first-fit.
    """
    inputs = (batch.lengths_S - 1).tolist()
    chosen: list[int] = samples.tolist()
    if layout == "padded":
        chosen.sort(key=lambda sample: (inputs[sample], sample))
        for rows in _padded_groups(chosen, inputs, max_tokens):
            yield _build(batch, [[sample] for sample in rows], inputs)
    else:
        for row in _packed_rows(chosen, inputs, max_tokens):
            yield _build(batch, [row], inputs)


def _padded_groups(chosen: list[int], inputs: list[int], max_tokens: int) -> Iterator[list[int]]:
    """Runs of samples whose padded size stays within the limit; `chosen` is sorted by length."""
    group: list[int] = []
    for sample in chosen:
        if group and (len(group) + 1) * inputs[sample] > max_tokens:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _packed_rows(chosen: list[int], inputs: list[int], max_tokens: int) -> list[list[int]]:
    """First-fit decreasing bin packing of samples into rows of at most `max_tokens`."""
    rows: list[list[int]] = []
    room: list[int] = []
    for sample in sorted(chosen, key=lambda sample: (-inputs[sample], sample)):
        fits = next((row for row, left in enumerate(room) if left >= inputs[sample]), None)
        if fits is None:
            rows.append([sample])
            room.append(max_tokens - inputs[sample])
        else:
            rows[fits].append(sample)
            room[fits] -= inputs[sample]
    return rows


def _build(batch: Batch, rows: list[list[int]], inputs: list[int]) -> MicroBatch:
    """Places every sample of every row with whole-array operations."""
    flat = torch.tensor([sample for row in rows for sample in row])
    row_of = torch.tensor([index for index, row in enumerate(rows) for _ in row])
    lengths = torch.tensor([inputs[sample] for row in rows for sample in row])
    ends_in_row = torch.cat([torch.tensor([inputs[sample] for sample in row]).cumsum(0) for row in rows])
    width = int(ends_in_row.max())
    begins = row_of * width + ends_in_row - lengths
    offsets = _ramp(lengths)
    target = begins.repeat_interleave(lengths) + offsets
    source = batch.starts_S[flat].repeat_interleave(lengths) + offsets

    def rows_filled(value: int, content: Tensor) -> Tensor:
        out = torch.full((len(rows) * width,), value, dtype=torch.long)
        out[target] = content
        return out.view(len(rows), width)

    # Padding counts on, since positions that start again would pass for another packed sample.
    positions = torch.arange(width).repeat(len(rows))
    positions[target] = offsets
    prompts = batch.prompt_lengths_S[flat]
    actions = batch.lengths_S[flat] - prompts
    first_action_S = torch.cumsum(batch.lengths_S - batch.prompt_lengths_S, 0) - (
        batch.lengths_S - batch.prompt_lengths_S
    )
    steps = _ramp(actions)
    return MicroBatch(
        token_ids_RW=rows_filled(0, batch.token_ids_L[source]),
        position_ids_RW=positions.view(len(rows), width),
        segment_ids_RW=rows_filled(-1, flat.repeat_interleave(lengths)),
        predict_K=(begins + prompts - 1).repeat_interleave(actions) + steps,
        action_K=first_action_S[flat].repeat_interleave(actions) + steps,
    )


def _ramp(lengths: Tensor) -> Tensor:
    """0..n-1 for every n in `lengths`, end to end."""
    ends = lengths.cumsum(0)
    return torch.arange(int(ends[-1])) - (ends - lengths).repeat_interleave(lengths)
