"""Group-relative advantages (GRPO, Shao et al., 2024, arXiv 2402.03300, section 4.1).

Of n attempts at one deal, each has its return normalised within the group:

    A_i = (R_i - mean(R)) / std(R)

with the standard deviation of the group itself (divided by n). Where all returns are equal, A is 0. Dividing by the
standard deviation gives deals that are nearly always or hardly ever won more weight; Dr. GRPO (Liu et al., 2025, arXiv
2503.20783) leaves it out, and so does the option `std = false`. There is no state. Needs `selfplay.attempts` of at
least 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages
from spiral.training.advantages.groups import group_advantages


class GRPO:
    """The return normalised within the attempts at the same deal, for each player.

    Args:
        std: Whether to divide by the standard deviation of the group.
    """

    def __init__(self, std: bool = True) -> None:
        """Raise `ValueError` unless `std` is true or false."""
        if not isinstance(std, bool):
            raise ValueError(f"got std {std!r}; expected true or false")
        self._std = std

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order. Raise `ValueError` for a group of one episode."""
        return group_advantages(episodes, self._normalised)

    def _normalised(self, returns: NDArray[np.float64]) -> NDArray[np.float64]:
        if np.ptp(returns) == 0:  # exactly zero, so that the samples can be left out of the batch
            return np.zeros_like(returns)
        centred = returns - returns.mean()
        return np.asarray(centred / returns.std() if self._std else centred)
