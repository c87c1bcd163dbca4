"""A fixed mixture of opponents: `selfplay.opponents` gives each a weight."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence

from spiral.core.records import PAST
from spiral.games import Game
from spiral.policies import able_opponents
from spiral.rollout.opponents.base import MIRROR, OWN, OpponentSampler

ROUNDING = 1e-9


class FixedOpponents(OpponentSampler):
    """Shares out the games of each step by constant weights."""

    def __init__(self, opponents: Mapping[str, float]) -> None:
        """Take names and weights.

        Raises:
            ValueError: There are past selves among them, which another sampler chooses.
        """
        if opponents.get(PAST):
            raise ValueError(
                f"selfplay.opponents has {PAST!r}, which the opponent sampler 'fixed' cannot choose; set"
                " selfplay.opponent_sampler to 'past_selves' or 'pfsp', or leave it out"
            )
        self._opponents = dict(opponents)
        self._weights: dict[str, dict[str, float]] = {}

    def sample(self, step: int, game: Game, count: int, rng: random.Random) -> Sequence[str]:
        """Give every opponent its share of the games, rounded so that it is exact over many steps."""
        shares = split_evenly(self._weights_for(game), count, rng.random())
        return [name for name, games in shares.items() for _ in range(games)]

    def known(self, game: Game) -> Collection[str]:
        """Return all opponents that can play the game."""
        return self._weights_for(game)

    def _weights_for(self, game: Game) -> Mapping[str, float]:
        if game.spec not in self._weights:
            self._weights[game.spec] = able_weights(self._opponents, game)
        return self._weights[game.spec]


def able_weights(opponents: Mapping[str, float], game: Game) -> dict[str, float]:
    """Return the weights of the opponents that can play a game; minimax, for example, cannot play poker.

    Raises:
        ValueError: There are none.
    """
    able = {*OWN, *able_opponents([name for name in opponents if name not in OWN], game)}
    weights = {name: weight for name, weight in opponents.items() if name in able and weight > 0}
    if not weights:
        raise ValueError(
            f"none of the opponents {dict(opponents)} can play {game.spec}; add one that can, such as {MIRROR!r} or"
            " 'random'"
        )
    return weights


def split_evenly(weights: Mapping[str, float], total: int, offset: float) -> dict[str, int]:
    """Share out `total` by weight, rounded up or down so that the shares are exact over all `offset` in [0, 1).

    This is systematic sampling: small shares, which plain rounding would always lose, come up in some steps.
    """
    scale, reached, counts = total / sum(weights.values()), offset, {}
    for name, weight in weights.items():
        following = reached + weight * scale
        counts[name] = math.floor(following + ROUNDING) - math.floor(reached + ROUNDING)
        reached = following
    return counts
