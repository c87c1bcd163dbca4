"""The difference between two computations of the same log-probabilities, and its tolerance.

Shapes: T tokens of one reply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from spiral.core.records import FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest difference that rounding explains, in nats a token."""

    mean: float
    max: float
    """Of a single token: an error in a few of many tokens hardly changes the mean."""

    def scaled(self, temperature: float) -> Tolerance:
        """For log-probabilities at a temperature, which divides the logits and the rounding errors in them."""
        factor = max(1.0, 1.0 / temperature) if temperature else 1.0
        return Tolerance(mean=self.mean * factor, max=self.max * factor)


FLOAT32 = Tolerance(mean=1e-3, max=2e-2)
"""In float32: 1e-8 to 6e-7 in the mean and at most 3e-6 for one token, over forty families of random models,
and 1e-6 for SmolLM2. The smallest real fault (a mask, dropout, other rotary factors) was 0.07 in the mean."""

BFLOAT16 = Tolerance(mean=0.15, max=3.0)
"""bfloat16 keeps 8 bits. SmolLM2 differs from its float32 pass by 0.02 to 0.06 nats a token on these texts, where the
tokens of real games differ by 0.006 to 0.03."""


def tolerance_of(compute: str, temperature: float = 1.0) -> Tolerance:
    """The tolerance for a precision, "float32" or "bfloat16", at a sampling temperature."""
    return (FLOAT32 if compute == "float32" else BFLOAT16).scaled(temperature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Two computations compared, in nats a token."""

    pair: str
    """The two sides, such as "engine alone against the plain forward pass"."""
    mean: float
    max: float
    tokens: int
    worst: tuple[int, int]
    """Length of the prompt, and of prompt and reply together, of the sequence with the largest mean difference."""

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the difference is within `tolerance`; false if it is not finite."""
        return self.mean <= tolerance.mean and self.max <= tolerance.max

    def __str__(self) -> str:
        prompt, total = self.worst
        return (
            f"{self.pair}: {self.mean:.2g} nats a token in the mean, {self.max:.2g} at most, over {self.tokens} tokens"
            f" (worst in a sequence of {total} tokens, {prompt} of them prompt)"
        )


def difference(
    pair: str, lengths: Sequence[int], first: Sequence[FloatArray], second: Sequence[FloatArray]
) -> Difference:
    """Compares two lists of log-probabilities, one array [T] per sequence; `lengths` are those of the prompts.

    A value that is not finite on either side makes the difference infinite.
    """
    gaps = [np.abs(a.astype(np.float64) - b) for a, b in zip(first, second, strict=True)]
    gaps = [np.where(np.isfinite(gap), gap, np.inf) for gap in gaps]
    every = np.concatenate(gaps)
    worst = max(range(len(gaps)), key=lambda index: float(gaps[index].mean()) if len(gaps[index]) else -1.0)
    return Difference(
        pair=pair,
        mean=float(every.mean()),
        max=float(every.max()),
        tokens=len(every),
        worst=(lengths[worst], lengths[worst] + len(gaps[worst])),
    )


class DisagreementError(ValueError):
    """Engine, learner and the plain forward pass do not compute the same probabilities for this model."""
