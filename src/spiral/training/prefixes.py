"""Which samples share the beginning of their prompts, and how they fill packed rows.

All prompts of a game begin with the same chat template, worked example and rules, and a turn is learned from at every
step of a game. What samples share need only be computed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from spiral.training.batch import Batch

SHORTEST_PREFIX = 16
"""Tokens worth sharing: taking a prefix apart costs something in attention."""


@dataclasses.dataclass(frozen=True)
class Family:
    """Samples whose first `shared` tokens are the same."""

    samples: tuple[int, ...]
    shared: int = 0

    def size(self, inputs: Sequence[int]) -> int:
        """Tokens in a row, `inputs` being the tokens that each sample feeds in."""
        return self.shared + sum(inputs[sample] - self.shared for sample in self.samples)


def shared_prefixes(batch: Batch, chosen: Sequence[int]) -> list[Family]:
    """The chosen samples in families; one that shares nothing is a family of its own.

    Samples in the order of their prompts' tokens stand beside those they share most with; one joins the family before
    it when that saves more tokens than it costs. The token before the first action is never shared, since each sample
    needs its own hidden state there.
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
            if common >= SHORTEST_PREFIX and members * common >= (members - 1) * shared[-1]:
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
    """Rows of at most `max_tokens` tokens (or one sample): large families split, then first-fit decreasing."""
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
    """The family in parts that fit into a row, each with the prefix."""
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


def _common(first: tuple[int, ...], second: tuple[int, ...], most: int) -> int:
    """How many tokens two prompts begin with alike, counted up to `most`."""
    length = min(len(first), len(second), most)
    if first[:length] == second[:length]:
        return length
    return next(place for place in range(length) if first[place] != second[place])
