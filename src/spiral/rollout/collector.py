"""Self-play: one shared policy in both seats, and the games of each training step.

A share of the games can be given to other opponents (`selfplay.opponents`): then the policy learns from one seat, by
turns from either. What is played at a step is a pure function of the seed and the step, so that a resumed run, or
another worker, plays the same games.

Left out: opponents that the run makes itself, such as its own past; an earlier checkpoint can be named by its path,
or as `RUN@STEP`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from spiral.core.progress import shown
from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.games import Game, load_game
from spiral.inference.base import LanguagePolicy
from spiral.policies import Policy, scripted_policy
from spiral.rollout.loop import MIRROR, Match, SelfPlayConfig, play

ROUNDING = 1e-9
SeatOpponent = Callable[[str, Game], Policy]
"""From an opponent's name to who plays."""


def split_episodes(weights: dict[str, float], total: int) -> dict[str, int]:
    """How many of `total` episodes each game gets: by weight, the largest remainders rounded up."""
    scale = total / sum(weights.values())
    exact = {game: weight * scale for game, weight in weights.items()}
    counts = {game: int(share) for game, share in exact.items()}
    by_remainder = sorted(exact, key=lambda game: (counts[game] - exact[game], game))
    for game in by_remainder[: total - sum(counts.values())]:
        counts[game] += 1
    return counts


def split_evenly(weights: dict[str, float], total: int, offset: float) -> dict[str, int]:
    """Shares of `total` by weight, rounded up or down so that over all `offset` in [0, 1) they are exact.

    Systematic sampling: small shares, which one rounding would always lose, come up in some steps.
    """
    scale, reached, counts = total / sum(weights.values()), offset, {}
    for name, weight in weights.items():
        following = reached + weight * scale
        counts[name] = math.floor(following + ROUNDING) - math.floor(reached + ROUNDING)
        reached = following
    return counts


class Matchmaker:
    """Which games a step has, and who sits where."""

    def __init__(
        self, policy: Policy, config: SelfPlayConfig, seed: int, *, seat: SeatOpponent = scripted_policy
    ) -> None:
        """`seat` makes the opponents that are not the policy itself, each once for every game that it can play.

        Raises `ValueError` for a game or an opponent that does not exist.
        """
        self._policy = policy
        self._config = config
        self._seed = seed
        self._games = {spec: load_game(spec) for spec in config.games}
        self._weights = {spec: config.opponents_of(game) for spec, game in self._games.items()}
        self._opponents = {
            (spec, name): policy if name == MIRROR else seat(name, self._games[spec])
            for spec, weights in self._weights.items()
            for name in weights
        }

    def matches(self, step: int) -> list[Match]:
        """The games of one step, in the order in which they enter the batch."""
        config = self._config
        return [
            Match(
                game=self._games[spec],
                seed=derive_seed(self._seed, "episode", step, spec, index),
                policies=policies,
                trainable=trainable,
                max_turns=config.max_turns,
                opening_plies=config.opening_plies.get(spec, 0),
                reward=config.reward,
            )
            for spec, count in split_episodes(config.games, config.episodes_per_step).items()
            for index, (policies, trainable) in enumerate(self._seats(spec, count, step))
        ]

    def _seats(self, spec: str, count: int, step: int) -> Iterator[tuple[tuple[Policy, Policy], tuple[bool, bool]]]:
        """Who sits where, and who learns, in each of the `count` games of one kind; by turns first and second."""
        offset = random.Random(derive_seed(self._seed, "opponents", step, spec)).random()
        for name, games in split_evenly(self._weights[spec], count, offset).items():
            opponent = self._opponents[spec, name]
            for index in range(games):
                if name == MIRROR:
                    yield (self._policy, self._policy), (True, True)
                elif (index + step) % 2 == 0:
                    yield (self._policy, opponent), (True, False)
                else:
                    yield (opponent, self._policy), (False, True)


class SelfPlay:
    """Collects the episodes of a step in this process."""

    def __init__(
        self,
        policy: LanguagePolicy,
        config: SelfPlayConfig,
        seed: int,
        *,
        seat: SeatOpponent = scripted_policy,
        sleep: bool = False,
    ) -> None:
        """Arguments as for `Matchmaker`.

        `sleep` puts the policy's engine to sleep after the games of a step, until it is asked for something again.
        """
        self.policy = policy
        self._matchmaker = Matchmaker(policy, config, seed, seat=seat)
        self._in_flight = config.in_flight
        self._sleep = sleep

    def collect(self, step: int) -> list[Episode]:
        """Plays the games of one step."""
        matches, progress = self._matchmaker.matches(step), shown()
        progress.stage(f"step {step}: playing", len(matches), "games")
        episodes = play(matches, self._in_flight, progress.games)
        if self._sleep:
            self.policy.sleep()
        return episodes
