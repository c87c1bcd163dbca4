"""Discounted credit of turns, on top of RAE: the later a turn, the more of the result is put down to it.

    A_t = gamma^n * (R - b[game, player])        with n the number of turns of the game after turn t, of all players

The baseline is RAE's (arXiv 2506.24119) and does not depend on the turn, so that gamma 1 is RAE itself. That a result
is divided among the turns by powers of a discount is from SPAG (Cheng et al., 2024, arXiv 2404.10642), which also has
them sum to the result; here the last turn has the whole advantage.
"""

from __future__ import annotations

import numpy as np

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages
from spiral.training.advantages.rae import RAE


class DiscountedTurns(RAE):
    """RAE whose advantages shrink with the number of turns that are still to come.

    Args:
        gamma: What remains of the advantage one turn earlier; above 0 and at most 1.
        decay: How slowly the baselines move, as in `RAE`.
    """

    def __init__(self, gamma: float = 0.95, decay: float = 0.95) -> None:
        """Raise `ValueError` unless 0 < gamma <= 1."""
        super().__init__(decay)
        if isinstance(gamma, bool) or not isinstance(gamma, float | int) or not 0 < gamma <= 1:
            raise ValueError(f"got gamma {gamma!r}; expected a number with 0 < gamma <= 1")
        self._gamma = float(gamma)

    def _advantages(self, episode: Episode) -> TurnAdvantages:
        turns_to_come = np.arange(len(episode.turns))[::-1]
        advantages: TurnAdvantages = super()._advantages(episode) * self._gamma**turns_to_come
        return advantages
