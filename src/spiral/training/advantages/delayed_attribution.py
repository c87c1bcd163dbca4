"""Delayed attribution: no credit for an illegal move of the other side.

    A = R - b[game, player], as in RAE, but
    A = 0 in an episode that ended with an illegal move of another player; the baseline does not see it either

When the other side leaves the game by an illegal move, the 0.5 that is paid for it says nothing about one's own moves:
a player would be praised for whatever it happened to do. So credit is given once the episode is over and it is known
what ended it, and the player who made the illegal move alone learns from it.

That credit waits for the end of the episode, and that turns whose outcome is not a consequence of them are left out of
training, is from Korshuk et al., 2026 (arXiv 2606.00017, "delayed per-step reward attribution with eligibility
gating"). The paper has rules of its own for each of its games; that an illegal move of another player is the rule here,
and RAE below it, is ours.
"""

from __future__ import annotations

from spiral.core.records import Episode
from spiral.training.advantages.rae import RAE


class DelayedAttribution(RAE):
    """RAE that leaves out the players who made no illegal move in an episode that one ended.

    Args:
        decay: How slowly the baselines move, as in `RAE`.
    """

    def _players(self, episode: Episode) -> tuple[int, ...]:
        players = super()._players(episode)
        if episode.outcome != "illegal_move":
            return players
        offender = episode.turns[-1].player
        return tuple(player for player in players if player == offender)
