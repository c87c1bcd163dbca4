"""REINFORCE leave-one-out (RLOO, Ahmadian et al., 2024, arXiv 2402.14740).

Of n attempts at one deal with returns R_1 to R_n, each has the mean return of the others as its baseline:

    A_i = R_i - (sum of the other returns) / (n - 1)

The baseline does not depend on the attempt that it is for, so the gradient stays unbiased. There is no state. Needs
`selfplay.attempts` of at least 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages
from spiral.training.advantages.groups import group_advantages


class RLOO:
    """The return less the mean return of the other attempts at the same deal, for each player."""

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order. Raise `ValueError` for a group of one episode."""
        return group_advantages(episodes, _leave_one_out)


def _leave_one_out(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.ptp(returns) == 0:  # exactly zero, so that the samples can be left out of the batch
        return np.zeros_like(returns)
    return np.asarray(returns - (returns.sum() - returns) / (len(returns) - 1))
