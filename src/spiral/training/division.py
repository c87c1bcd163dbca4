"""Which rank learns from which samples of a batch.

A sample belongs to one rank for the whole update, since what is known of it (the old policy's log-probabilities, the
reference's hidden states) is noted where it was computed. The rule is longest first, always to the rank with the
fewest tokens so far (Graham, 1969, "Bounds on multiprocessing timing anomalies"), so all ranks know it without asking.

Left out: a balance within each minibatch, whose samples change with every pass, and keeping samples that begin alike
on one rank.

Shapes: S samples of the whole batch, A action tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from spiral.training.batch import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """A rank's samples as a batch of their own."""

    batch: Batch
    place_S: Tensor | None
    """Where each sample of the whole batch stands in the share, -1 for not at all; None when the share is the whole."""

    def of(self, samples: Tensor) -> Tensor:
        """Those of the whole batch's `samples` that are in the share, by their place in it and in their order."""
        if self.place_S is None:
            return samples
        places = self.place_S[samples]
        return places[places >= 0]


def owners(lengths: Sequence[int], ranks: int) -> list[int]:
    """[S] the rank of each sample, given its tokens: longest first to whom has least; ties go to the lower number."""
    tokens = [0] * ranks
    result = [0] * len(lengths)
    for sample in sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample)):
        rank = tokens.index(min(tokens))
        result[sample] = rank
        tokens[rank] += lengths[sample]
    return result


def share_of(batch: Batch, rank: int, ranks: int) -> Share:
    """The part of a batch that one of `ranks` ranks learns from; it may be without samples."""
    if ranks == 1:
        return Share(batch=batch, place_S=None)
    mine = torch.tensor(owners(batch.lengths_S.tolist(), ranks)) == rank
    place_S = torch.where(mine, mine.cumsum(0) - 1, -1)
    return Share(batch=_only(batch, mine), place_S=place_S)


def _only(batch: Batch, mine_S: Tensor) -> Batch:
    """The marked samples, end to end."""
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
