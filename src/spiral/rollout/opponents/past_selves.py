"""Past selves: the policy plays earlier weights of its own for a share of the games.

    [selfplay]
    opponents = { mirror = 0.5, past = 0.5 }
    opponent_sampler = "past_selves"
    opponent_options = { save_every = 10, window = 10, swap_every = 5 }

The settings are those of ML-Agents, in training steps: the weights are kept every `save_every` steps (`save_steps`),
the newest `window` of them may play (`window`), another one of them is drawn every `swap_every` steps (`swap_steps`),
and the weight of `mirror` against that of `past` is the share of games against the newest weights
(`play_against_latest_model_ratio`). Other opponents may have a weight too. The weights of step 0 are kept as well, so
that there is a past self from the first step on.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from spiral.core.metrics import metric_name
from spiral.core.records import PAST, Episode, past_self
from spiral.games import Game
from spiral.rollout.opponents.base import MIRROR, OpponentSampler
from spiral.rollout.opponents.fixed import able_weights, split_evenly
from spiral.rollout.opponents.results import NOW, Results, played_past_self


class PastSelves(OpponentSampler):
    """Plays one past self at a time, drawn from the newest ones."""

    plays_past_selves = True

    def __init__(
        self,
        opponents: Mapping[str, float],
        *,
        save_every: int = 10,
        window: int = 10,
        swap_every: int = 5,
        prior: float = 2.0,
        decay: float = 1.0,
    ) -> None:
        """Take the weights of `mirror`, `past` and other opponents, and when past selves come and go.

        Args:
            opponents: Opponent to weight; that of `past` is shared among the past selves.
            save_every: Steps between two past selves.
            window: Number of past selves that may play, the newest ones.
            swap_every: Steps until another past self is drawn.
            prior: Drawn games that are added to those against each past self, for win rates.
            decay: What older games count for after each new one against the same past self, for win rates.

        Raises:
            ValueError: A setting is out of its range, or `past` has no weight.
        """
        for name, value in (("save_every", save_every), ("window", window), ("swap_every", swap_every)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
        if not 0 < prior < float("inf"):
            raise ValueError(f"prior is {prior!r}; expected a number above 0")
        if not 0 < decay <= 1:
            raise ValueError(f"decay is {decay!r}; expected a number above 0, and at most 1")
        if not opponents.get(PAST, 0) > 0:
            raise ValueError(
                f"past selves play the share of games that {PAST!r} has in selfplay.opponents, and it has none; for"
                f" half of the games set selfplay.opponents = {{ {MIRROR} = 0.5, {PAST} = 0.5 }}"
            )
        self._opponents = dict(opponents)
        self._save_every, self._window, self._swap_every = save_every, window, swap_every
        self._prior, self._decay = prior, decay
        self._kept: list[int] = []
        """Steps of the past selves that may play, oldest first."""
        self._results: dict[str, Results] = {}
        """By the game's spec."""
        self._drawn: list[int] = []
        """The period of `swap_every` steps that the past self was drawn for, and its step; empty before any."""

    def sample(self, step: int, game: Game, count: int, rng: random.Random) -> Sequence[str]:
        """Give every opponent its share of the games, and that of `past` to past selves."""
        shares = split_evenly(self.opponent_weights(game), count, rng.random())
        names: list[str] = []
        for name, games in shares.items():
            names += self.choose(step, game, games, rng) if name == PAST else [name] * games
        return names

    def opponent_weights(self, game: Game) -> dict[str, float]:
        """Return the weights of the opponents that can play a game; that of `past` is for all past selves."""
        return able_weights(self._opponents, game)

    def choose(self, step: int, game: Game, count: int, rng: random.Random) -> list[str]:
        """Return the past selves of `count` games."""
        period = (step - 1) // self._swap_every
        if not self._drawn or self._drawn[0] != period:
            self._drawn = [period, rng.choice(self._kept)]
        return [past_self(self._drawn[1])] * count

    def known(self, game: Game) -> Collection[str]:
        """Return the other opponents that can play the game."""
        return [name for name in able_weights(self._opponents, game) if name != PAST]

    def observe(self, step: int, episodes: Sequence[Episode]) -> None:
        """Count the games against past selves."""
        for episode in episodes:
            if (played := played_past_self(episode)) is not None:
                self._results_of(episode.game).add(*played)

    def keeps(self, step: int) -> bool:
        """Return whether the weights of a step become a past self."""
        return step % self._save_every == 0

    def add_past_self(self, step: int, name: str) -> None:
        """Take a new past self, which takes the place of the oldest one."""
        self._kept = [*(kept for kept in self._kept if kept < step), step][-self._window :]
        for results in self._results.values():
            results.close_row(step)
            results.forget(self._kept)

    def past_selves(self) -> Collection[str]:
        """Return the past selves of the window, and the one that is played until the next swap."""
        return [past_self(step) for step in sorted({*self._kept, *self._drawn[1:]})]

    def metrics(self) -> Mapping[str, float]:
        """Return the policy's rating and its lowest win rate in each game."""
        found = {"opponents/past_selves": float(len(self._kept))}
        for spec, results in self._results.items():
            rates = [results.win_rate(step) for step in self._kept]
            found[f"opponents/{metric_name(spec)}/elo"] = results.ratings()[NOW]
            found[f"opponents/{metric_name(spec)}/win_lowest"] = min(rates)
            found[f"opponents/{metric_name(spec)}/win_mean"] = sum(rates) / len(rates)
        return found

    def state_dict(self) -> dict[str, object]:
        """Return the past selves, what was drawn, and the results."""
        results = {spec: results.state_dict() for spec, results in self._results.items()}
        return {"past_selves": list(self._kept), "drawn": list(self._drawn), "results": results}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of `state_dict`."""
        self._kept, self._drawn = list(state["past_selves"]), list(state["drawn"])
        self._results = {}
        for spec, saved in state["results"].items():
            self._results_of(spec).load_state_dict(saved)

    def _results_of(self, spec: str) -> Results:
        """The results in a game, whose rows begin with the past selves that there are."""
        if spec not in self._results:
            results = self._results[spec] = Results(prior=self._prior, decay=self._decay)
            for step in self._kept:
                results.close_row(step)
        return self._results[spec]
