"""Prioritised fictitious self-play (AlphaStar; Vinyals et al., 2019): past selves by how hard they are to beat.

    [selfplay]
    opponents = { mirror = 0.5, past = 0.5 }
    opponent_sampler = "pfsp"
    opponent_options = { weighting = "hard", power = 2.0 }

A past self against which the policy wins a share x of the games plays with a weight of (1 - x)^power ("hard": those
that beat the policy), or of x (1 - x) ("balanced": those of its own strength). Win rates are counted by game, with
`prior` drawn games added to those against each past self; each new game makes the older ones against the same past self
count `decay` times as much.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from spiral.core.records import past_self
from spiral.games import Game
from spiral.rollout.opponents.fixed import split_evenly
from spiral.rollout.opponents.past_selves import PastSelves


class Pfsp(PastSelves):
    """Plays past selves by their win rates, all of them in one step."""

    def __init__(
        self,
        opponents: Mapping[str, float],
        *,
        weighting: Literal["hard", "balanced"] = "hard",
        power: float = 2.0,
        save_every: int = 10,
        window: int = 10,
        prior: float = 2.0,
        decay: float = 0.99,
    ) -> None:
        """Take the weights of `mirror`, `past` and other opponents, and how past selves are weighted.

        Args:
            opponents: Opponent to weight; that of `past` is shared among the past selves.
            weighting: "hard" or "balanced".
            power: The exponent of "hard".
            save_every: Steps between two past selves.
            window: Number of past selves that may play, the newest ones.
            prior: Drawn games that are added to those against each past self.
            decay: What older games count for after each new one against the same past self; 1 counts all alike.

        Raises:
            ValueError: A setting is out of its range, or `past` has no weight.
        """
        super().__init__(opponents, save_every=save_every, window=window, prior=prior, decay=decay)
        if weighting not in ("hard", "balanced"):
            raise ValueError(f"weighting is {weighting!r}; expected 'hard' or 'balanced'")
        if not 0 < power <= 20:
            raise ValueError(f"power is {power!r}; expected a number above 0, and at most 20")
        self._weighting, self._power = weighting, power

    def weights(self, spec: str) -> dict[str, float]:
        """Return the weight of every past self in a game."""
        results = self._results_of(spec)
        return {past_self(step): self._weight(results.win_rate(step)) for step in self._kept}

    def choose(self, step: int, game: Game, count: int, rng: random.Random) -> list[str]:
        """Share out the games by weight."""
        shares = split_evenly(self.weights(game.spec), count, rng.random())
        return [name for name, games in shares.items() for _ in range(games)]

    def _weight(self, win_rate: float) -> float:
        if self._weighting == "balanced":
            return win_rate * (1 - win_rate)
        return float((1 - win_rate) ** self._power)
