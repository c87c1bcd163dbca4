"""Dr. GRPO (Liu et al., 2025, arXiv 2503.20783): GRPO without the division by the group's standard deviation.

    A_i = R_i - mean(R)

of n attempts at one deal, for each player. It is `grpo` with `std = false` under the name of its paper. The paper's
other half, a sum over tokens that is divided by a constant and never by the length of a reply, is how every loss here
is computed. Needs `selfplay.attempts` of at least 2.
"""

from __future__ import annotations

from spiral.training.advantages.grpo import GRPO


class DrGRPO(GRPO):
    """The return less the mean of the attempts at the same deal, for each player."""

    def __init__(self) -> None:
        super().__init__(std=False)
