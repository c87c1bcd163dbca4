"""Prioritised fictitious self-play (AlphaStar; Vinyals et al., 2019): past selves by how hard they are to beat.

    [selfplay]
    opponents = { mirror = 0.5, past = 0.5 }
    opponent_sampler = "pfsp"
    opponent_options = { weighting = "hard", power = 2.0 }

A past self against which the policy wins a share x of the games plays with a weight of (1 - x)^power ("hard": those
that beat the policy), or of x (1 - x) ("balanced": those of its own strength). Win rates are counted by game, with
`prior` drawn games added to those against each past self; each new game makes the older ones against the same past self
count `decay` times as much.

Opponents named in `prioritised`, such as the exploiters of a league, share out their weights by the same rule.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from spiral.core.records import Episode, past_self
from spiral.games import Game
from spiral.rollout.opponents.base import OWN
from spiral.rollout.opponents.fixed import split_evenly
from spiral.rollout.opponents.past_selves import PastSelves
from spiral.rollout.opponents.results import WinRates, played_opponent


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
        prioritised: Sequence[str] = (),
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
            prioritised: Opponents whose weights together are shared out among them by win rates too.

        Raises:
            ValueError: A setting is out of its range, `past` has no weight, or `prioritised` names no opponent.
        """
        super().__init__(opponents, save_every=save_every, window=window, prior=prior, decay=decay)
        if weighting not in ("hard", "balanced"):
            raise ValueError(f"weighting is {weighting!r}; expected 'hard' or 'balanced'")
        if not 0 < power <= 20:
            raise ValueError(f"power is {power!r}; expected a number above 0, and at most 20")
        if not isinstance(prioritised, list | tuple):
            raise ValueError(f"prioritised is {prioritised!r}; expected a list of opponents, such as ['random']")
        for name in prioritised:
            if name in OWN or name not in opponents:
                raise ValueError(
                    f"prioritised has {name!r}; expected opponents of selfplay.opponents other than {' and '.join(OWN)}"
                )
        self._weighting, self._power, self._prioritised = weighting, power, tuple(dict.fromkeys(prioritised))
        self._win_rates: dict[str, WinRates] = {}
        """Against the prioritised opponents, by the game's spec."""

    def weights(self, spec: str) -> dict[str, float]:
        """Return the weight of every past self in a game."""
        results = self._results_of(spec)
        return {past_self(step): self._weight(results.win_rate(step)) for step in self._kept}

    def opponent_weights(self, game: Game) -> dict[str, float]:
        """Return the weights of the opponents that can play a game, those that are prioritised by their win rates."""
        weights = super().opponent_weights(game)
        names = [name for name in self._prioritised if name in weights]
        rates = self._win_rates_in(game.spec)
        shares = {name: weights[name] * self._weight(rates.of(name)) for name in names}
        scale = sum(weights[name] for name in names) / (sum(shares.values()) or 1.0)
        return weights | {name: share * scale for name, share in shares.items()}

    def choose(self, step: int, game: Game, count: int, rng: random.Random) -> list[str]:
        """Share out the games by weight."""
        shares = split_evenly(self.weights(game.spec), count, rng.random())
        return [name for name, games in shares.items() for _ in range(games)]

    def observe(self, step: int, episodes: Sequence[Episode]) -> None:
        """Count the games against past selves and prioritised opponents."""
        super().observe(step, episodes)
        for episode in episodes:
            played = played_opponent(episode)
            if played is not None and played[0] in self._prioritised:
                self._win_rates_in(episode.game).add(*played[:2])

    def state_dict(self) -> dict[str, object]:
        """Return the past selves, what was drawn, and the results."""
        rates = {spec: rates.state_dict() for spec, rates in self._win_rates.items()}
        return super().state_dict() | ({"win_rates": rates} if self._prioritised else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of `state_dict`; opponents that were not prioritised before begin without games."""
        super().load_state_dict(state)
        self._win_rates = {}
        for spec, saved in state.get("win_rates", {}).items():
            self._win_rates_in(spec).load_state_dict(saved)

    def _win_rates_in(self, spec: str) -> WinRates:
        if spec not in self._win_rates:
            self._win_rates[spec] = WinRates(prior=self._prior, decay=self._decay)
        return self._win_rates[spec]

    def _weight(self, win_rate: float) -> float:
        if self._weighting == "balanced":
            return win_rate * (1 - win_rate)
        return float((1 - win_rate) ** self._power)
