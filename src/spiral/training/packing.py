"""The rows of a forward pass: which samples a rank learns from, and how they are laid out, padded or packed.

"padded": one sample a row, samples of similar length together, so that little is wasted. "packed": samples end to end
in one row without any padding, separated in attention (`attention.py`) and by their positions. Packed samples whose
prompts begin alike (a chat template, a worked example, the rules of a game) have that beginning in the row once.

A hidden state depends only on the tokens up to its own. So in both layouts a sample with whose tokens another one
begins has no tokens of its own: the same reply in the same position, which is frequent in small games, or an earlier
turn with `prompt.history_thoughts = "keep"`. Both layouts give the same log-probabilities. The last token of a sample
is only ever a target, so it is not fed in.

With several ranks a sample belongs to one rank for the whole update, since what is known of it (the old policy's
log-probabilities, the reference's hidden states) is kept where it was computed. The rule is longest first, always to
the rank with the fewest tokens so far (Graham, 1969, "Bounds on multiprocessing timing anomalies"), so all ranks know
it without communication. Not supported: a balance within each minibatch, whose samples change with every pass, and
keeping samples with a common beginning on one rank.

Shapes: R rows of width W, K action tokens in the micro-batch, S samples and A action tokens in the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spiral.training.attention import Segments, Stretch
from spiral.training.batch import Batch
from spiral.training.settings import RowLayout

MIN_PREFIX = 16
"""Shortest beginning, in tokens, that is worth sharing, since attention takes more work with one."""


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
    """The samples of a packed row; None for padded rows, which are attended causally."""

    def to(self, device: torch.device) -> MicroBatch:
        """Return the same micro-batch on `device`."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved: dict[str, Any] = {name: part if part is None else part.to(device) for name, part in parts.items()}
        return MicroBatch(**moved)


def micro_batches(batch: Batch, samples: Tensor, layout: RowLayout, max_tokens: int) -> Iterator[MicroBatch]:
    """Lay samples out as micro-batches of at most `max_tokens` tokens (or one sample).

    Padded rows are filled in order of length; a packed row is one micro-batch, filled first-fit.
    """
    inputs = (batch.lengths_S - 1).tolist()
    chosen: list[int] = samples.tolist()
    held: dict[int, list[int]] = {}
    for sample, holder in holders(batch, chosen).items():
        held.setdefault(holder, []).append(sample)
    if layout == "padded":
        for rows in _padded_groups(sorted(held, key=lambda sample: (inputs[sample], sample)), inputs, max_tokens):
            yield _build_padded(batch, rows, inputs, held)
    else:
        for row in packed_rows(shared_prefixes(batch, sorted(held)), inputs, max_tokens):
            yield _build_packed(batch, row, inputs, held)


def empty_micro_batch() -> MicroBatch:
    """Return one token that nothing is learned from, for a rank with fewer micro-batches than the others."""
    nothing = torch.zeros(0, dtype=torch.long)
    token = torch.zeros(1, 1, dtype=torch.long)
    return MicroBatch(token_ids_RW=token, position_ids_RW=token, predict_K=nothing, action_K=nothing, segments=None)


def _padded_groups(chosen: list[int], inputs: list[int], max_tokens: int) -> Iterator[list[int]]:
    """Split samples, sorted by length, into runs whose padded size stays within the limit."""
    group: list[int] = []
    for sample in chosen:
        if group and (len(group) + 1) * inputs[sample] > max_tokens:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _build_padded(batch: Batch, rows: list[int], inputs: list[int], held: dict[int, list[int]]) -> MicroBatch:
    """Lay out one sample a row with whole-array operations; `held` has the samples that are found in each row."""
    row_of = torch.tensor([index for index, sample in enumerate(rows) for _ in held[sample]])
    samples = torch.tensor([one for sample in rows for one in held[sample]])
    holders = torch.tensor(rows)
    lengths = batch.lengths_S[holders] - 1
    width = max(inputs[sample] for sample in rows)
    offsets = _ramp(lengths)
    target = (torch.arange(len(rows)) * width).repeat_interleave(lengths) + offsets
    token_ids = torch.zeros(len(rows) * width, dtype=torch.long)
    token_ids[target] = batch.token_ids_L[batch.starts_S[holders].repeat_interleave(lengths) + offsets]
    positions = torch.arange(width).repeat(len(rows))
    prompts = batch.prompt_lengths_S[samples]
    actions = batch.lengths_S[samples] - prompts
    steps = _ramp(actions)
    return MicroBatch(
        token_ids_RW=token_ids.view(len(rows), width),
        position_ids_RW=positions.view(len(rows), width),
        predict_K=(row_of * width + prompts - 1).repeat_interleave(actions) + steps,
        action_K=_first_actions(batch)[samples].repeat_interleave(actions) + steps,
        segments=None,
    )


def _first_actions(batch: Batch) -> Tensor:
    """[S] index of each sample's first action token among the A of the whole batch."""
    counts_S = batch.lengths_S - batch.prompt_lengths_S
    return torch.cumsum(counts_S, 0) - counts_S


def _build_packed(batch: Batch, row: list[Family], inputs: list[int], held: dict[int, list[int]]) -> MicroBatch:
    """Lay out one packed row: each family's prefix, then the rest of each of its samples.

    `held` has the samples that are found in the tokens of each, itself among them.
    """
    sources, positions, stretches, predicts, actions = [], [], [], [], []
    lengths, prompts = batch.lengths_S.tolist(), batch.prompt_lengths_S.tolist()
    starts = batch.starts_S.tolist()
    first_action_S = _first_actions(batch).tolist()
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
            sources.append(rest + starts[sample])
            positions.append(rest)
            stretches.append(Stretch(len(rest), prefix_start if shared else 0, shared))
            for one in held[sample]:
                steps = torch.arange(lengths[one] - prompts[one])
                place = prompts[one] - 1 + steps
                predicts.append(torch.where(place < shared, prefix_start + place, filled - shared + place))
                actions.append(first_action_S[one] + steps)
            filled += len(rest)
    return MicroBatch(
        token_ids_RW=batch.token_ids_L[torch.cat(sources)][None],
        position_ids_RW=torch.cat(positions)[None],
        predict_K=torch.cat(predicts),
        action_K=torch.cat(actions),
        segments=Segments(stretches),
    )


def _ramp(lengths: Tensor) -> Tensor:
    """Return 0..n-1 for every n in `lengths`, end to end."""
    ends = lengths.cumsum(0)
    return torch.arange(int(ends[-1])) - (ends - lengths).repeat_interleave(lengths)


@dataclasses.dataclass(frozen=True)
class Family:
    """Samples whose first `shared` tokens are the same."""

    samples: tuple[int, ...]
    shared: int = 0

    def size(self, inputs: Sequence[int]) -> int:
        """Return the tokens that the family takes in a row; `inputs` has those that each sample feeds in."""
        return self.shared + sum(inputs[sample] - self.shared for sample in self.samples)


def holders(batch: Batch, chosen: Sequence[int]) -> dict[int, int]:
    """Return for each of the chosen samples the one whose row it is found in: itself, or one that begins with it.

    Of equal samples one holds the others. What counts are the tokens that are fed in, all but the last, and not where
    the reply begins.
    """
    tokens = batch.token_ids_L.numpy().astype(">u4").tobytes()  # bytes in the order of the tokens
    lengths, starts = batch.lengths_S.tolist(), batch.starts_S.tolist()
    fed = {sample: tokens[4 * starts[sample] : 4 * (starts[sample] + lengths[sample] - 1)] for sample in chosen}
    found: dict[int, int] = {}
    holder = -1
    # In the order of their tokens, what begins with a sample comes right after it.
    for sample in sorted(chosen, key=lambda sample: (fed[sample], sample), reverse=True):
        if holder < 0 or not fed[holder].startswith(fed[sample]):
            holder = sample
        found[sample] = holder
    return found


def shared_prefixes(batch: Batch, chosen: Sequence[int]) -> list[Family]:
    """Group the chosen samples into families; one that shares nothing is a family by itself.

    In the order of their prompts' tokens, samples are next to those that they share most with; one joins the family
    before it when that saves more tokens than it costs. The token before the first action is never shared, since each
    sample needs its own hidden state there.
    """
    lengths = batch.prompt_lengths_S.tolist()
    prompts = {
        sample: tuple(batch.token_ids_L[start : start + lengths[sample] - 1].tolist())
        for sample, start in ((sample, int(batch.starts_S[sample])) for sample in chosen)
    }
    families: list[list[int]] = []
    shared: list[int] = []
    for sample in sorted(chosen, key=lambda sample: (prompts[sample], sample)):
        if families:
            members = len(families[-1])
            common = _common(prompts[families[-1][-1]], prompts[sample], shared[-1])
            if common >= MIN_PREFIX and members * common >= (members - 1) * shared[-1]:
                families[-1].append(sample)
                shared[-1] = common
                continue
        families.append([sample])
        shared.append(len(prompts[sample]))
    return [
        Family(tuple(members), common if len(members) > 1 else 0)
        for members, common in zip(families, shared, strict=True)
    ]


def packed_rows(families: Sequence[Family], inputs: Sequence[int], max_tokens: int) -> list[list[Family]]:
    """Fill rows of at most `max_tokens` tokens (or one sample): split large families, then first-fit decreasing."""
    parts = [part for family in families for part in _split(family, inputs, max_tokens)]
    rows: list[list[Family]] = []
    room: list[int] = []
    for part in sorted(parts, key=lambda part: (-part.size(inputs), part.samples)):
        size = part.size(inputs)
        fits = next((row for row, left in enumerate(room) if left >= size), None)
        if fits is None:
            rows.append([part])
            room.append(max_tokens - size)
        else:
            rows[fits].append(part)
            room[fits] -= size
    return rows


def _split(family: Family, inputs: Sequence[int], max_tokens: int) -> list[Family]:
    """Split a family into parts that fit into a row, each with the prefix."""
    parts: list[list[int]] = []
    left = 0
    for sample in family.samples:
        rest = inputs[sample] - family.shared
        if not parts or left < rest:
            parts.append([])
            left = max_tokens - family.shared
        parts[-1].append(sample)
        left -= rest
    return [Family(tuple(part), family.shared if len(part) > 1 else 0) for part in parts]


def _common(first: tuple[int, ...], second: tuple[int, ...], limit: int) -> int:
    """Return the length of the common beginning of two prompts, at most `limit`."""
    length = min(len(first), len(second), limit)
    if first[:length] == second[:length]:
        return length
    return next(index for index in range(length) if first[index] != second[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """A rank's samples as a separate batch."""

    batch: Batch
    index_S: Tensor | None
    """Index in the share of each sample of the whole batch, -1 for those of other ranks; None when it has all."""

    def of(self, samples: Tensor) -> Tensor:
        """Return the indices in the share of those of the whole batch's `samples` that it has, in their order."""
        if self.index_S is None:
            return samples
        indices = self.index_S[samples]
        return indices[indices >= 0]


def owners(lengths: Sequence[int], ranks: int) -> list[int]:
    """Return the rank of each sample [S]: longest first, to the rank with the fewest tokens, or the lower of two."""
    tokens = [0] * ranks
    result = [0] * len(lengths)
    for sample in sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample)):
        rank = tokens.index(min(tokens))
        result[sample] = rank
        tokens[rank] += lengths[sample]
    return result


def share_of(batch: Batch, rank: int, ranks: int) -> Share:
    """Return the part of a batch that one of `ranks` ranks learns from; it may have no samples."""
    if ranks == 1:
        return Share(batch=batch, index_S=None)
    mine = torch.tensor(owners(batch.lengths_S.tolist(), ranks)) == rank
    index_S = torch.where(mine, mine.cumsum(0) - 1, -1)
    return Share(batch=_only(batch, mine), index_S=index_S)


def _only(batch: Batch, mine_S: Tensor) -> Batch:
    """Return a batch of the marked samples."""
    token_mine_L = mine_S.repeat_interleave(batch.lengths_S)
    action_mine_A = mine_S[batch.action_sample_A]
    lengths, prompts = batch.lengths_S[mine_S], batch.prompt_lengths_S[mine_S]
    return Batch(
        token_ids_L=batch.token_ids_L[token_mine_L],
        starts_S=lengths.cumsum(0) - lengths,
        lengths_S=lengths,
        prompt_lengths_S=prompts,
        action_ids_A=batch.action_ids_A[action_mine_A],
        behaviour_logprobs_A=batch.behaviour_logprobs_A[action_mine_A],
        advantages_A=batch.advantages_A[action_mine_A],
        action_sample_A=torch.arange(len(lengths)).repeat_interleave(lengths - prompts),
    )
