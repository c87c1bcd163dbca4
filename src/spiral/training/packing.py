"""How the samples of a batch are laid out as rows for a forward pass: padded, or packed.

"padded": one sample a row, samples of similar length together, so that little is wasted. "packed": samples end to end
in one row without any padding, kept apart in attention (`attention.py`) and by their positions; samples whose prompts
begin alike (a chat template, a worked example, the rules of a game) have that beginning in the row once. Both give the
same log-probabilities. The last token of a sample is only ever a target, so it is not fed in.

Shapes: R rows of width W, K action tokens in the micro-batch, A action tokens in the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from spiral.training.attention import Segments, Stretch
from spiral.training.batch import Batch
from spiral.training.prefixes import Family, packed_rows, shared_prefixes
from spiral.training.settings import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows for one forward pass, and where in them the action tokens are predicted."""

    token_ids_RW: Tensor
    position_ids_RW: Tensor
    predict_K: Tensor
    """Flat index into the rows: the hidden state there predicts action token `action_K`."""
    action_K: Tensor
    """Index of each action token among the A of the whole batch."""
    segments: Segments | None
    """The samples of a packed row; None for padded rows, where plain causal attention is right."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on `device`."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved: dict[str, Any] = {name: part if part is None else part.to(device) for name, part in parts.items()}
        return MicroBatch(**moved)


def micro_batches(batch: Batch, samples: Tensor, layout: Layout, max_tokens: int) -> Iterator[MicroBatch]:
    """The given samples [n] of a batch as micro-batches of at most `max_tokens` tokens (at least one sample each).

    Padded rows are filled in order of length; a packed row is one micro-batch, filled first-fit.
    """
    inputs = (batch.lengths_S - 1).tolist()
    chosen: list[int] = samples.tolist()
    if layout == "padded":
        chosen.sort(key=lambda sample: (inputs[sample], sample))
        for rows in _padded_groups(chosen, inputs, max_tokens):
            yield _build(batch, [[sample] for sample in rows], inputs)
    else:
        for row in packed_rows(shared_prefixes(batch, chosen), inputs, max_tokens):
            yield _build_packed(batch, row, inputs)


def empty_micro_batch() -> MicroBatch:
    """One token that nothing is learned from: a pass through the model for a rank that has nothing left to pass."""
    nothing = torch.zeros(0, dtype=torch.long)
    token = torch.zeros(1, 1, dtype=torch.long)
    return MicroBatch(token_ids_RW=token, position_ids_RW=token, predict_K=nothing, action_K=nothing, segments=None)


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

    token_ids = torch.zeros(len(rows) * width, dtype=torch.long)
    token_ids[target] = batch.token_ids_L[source]
    positions = torch.arange(width).repeat(len(rows))
    positions[target] = offsets
    prompts = batch.prompt_lengths_S[flat]
    actions = batch.lengths_S[flat] - prompts
    first_action_S = torch.cumsum(batch.lengths_S - batch.prompt_lengths_S, 0) - (
        batch.lengths_S - batch.prompt_lengths_S
    )
    steps = _ramp(actions)
    return MicroBatch(
        token_ids_RW=token_ids.view(len(rows), width),
        position_ids_RW=positions.view(len(rows), width),
        predict_K=(begins + prompts - 1).repeat_interleave(actions) + steps,
        action_K=first_action_S[flat].repeat_interleave(actions) + steps,
        segments=None,
    )


def _build_packed(batch: Batch, row: list[Family], inputs: list[int]) -> MicroBatch:
    """One row: each family's prefix, then the rest of each of its samples."""
    sources, positions, stretches, predicts, actions = [], [], [], [], []
    lengths, prompts = batch.lengths_S.tolist(), batch.prompt_lengths_S.tolist()
    starts = batch.starts_S.tolist()
    counts = batch.lengths_S - batch.prompt_lengths_S
    first_action_S = (torch.cumsum(counts, 0) - counts).tolist()
    filled = 0
    for family in row:
        shared, prefix_start = family.shared, filled
        if shared:
            sources.append(torch.arange(shared) + starts[family.samples[0]])
            positions.append(torch.arange(shared))
            stretches.append(Stretch(shared))
            filled += shared
        for sample in family.samples:
            rest = torch.arange(shared, inputs[sample])
            steps = torch.arange(lengths[sample] - prompts[sample])
            sources.append(rest + starts[sample])
            positions.append(rest)
            stretches.append(Stretch(len(rest), prefix_start if shared else 0, shared))
            predicts.append(filled + prompts[sample] - 1 - shared + steps)
            actions.append(first_action_S[sample] + steps)
            filled += len(rest)
    return MicroBatch(
        token_ids_RW=batch.token_ids_L[torch.cat(sources)][None],
        position_ids_RW=torch.cat(positions)[None],
        predict_K=torch.cat(predicts),
        action_K=torch.cat(actions),
        segments=Segments(stretches),
    )


def _ramp(lengths: Tensor) -> Tensor:
    """0..n-1 for every n in `lengths`, end to end."""
    ends = lengths.cumsum(0)
    return torch.arange(int(ends[-1])) - (ends - lengths).repeat_interleave(lengths)
