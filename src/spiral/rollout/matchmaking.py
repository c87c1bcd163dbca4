"""Which games a training step has, and who plays them.

One policy plays all players of a game, or plays against the opponents that the recipe's sampler chooses. The games of a
step follow from the seed, the step and the sampler's state, so that a resumed run, or another worker, plays the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from spiral.core.records import Episode, past_self, past_step
from spiral.core.seeds import derive_seed
from spiral.core.settings import Section, shortened, shown
from spiral.core.user_values import StateError, in_order, json_copy
from spiral.games import Game, load_game
from spiral.games.failures import UserCodeError, describe_error
from spiral.policies import Policy, scripted_policy
from spiral.policies.cut_off import CutOffWatch
from spiral.rollout.curriculum.base import Curriculum
from spiral.rollout.curriculum.loading import CurriculumConfig, make_curriculum
from spiral.rollout.loop import Match
from spiral.rollout.opponents.base import MIRROR, OpponentSampler
from spiral.rollout.opponents.fixed import split_evenly
from spiral.rollout.opponents.loading import make_sampler
from spiral.rollout.rewards import load_reward
from spiral.rollout.sampled_step import AHEAD, MAX_GAMES_PER_SAMPLE

LoadOpponent = Callable[[str, Game], Policy]
"""Returns the policy that plays a game under an opponent's name."""
FIXED = CurriculumConfig()


class SelfPlayConfig(Section):
    """Which games are played in a training step, against whom, and what they pay."""

    games: dict[str, float] = Field(
        {"tictactoe": 1.0}, min_length=1, description="Game to weight; a step's episodes are split by these weights."
    )
    starts: dict[str, int] = Field({}, description="Game to its first step; others enter at step 1.")
    episodes_per_step: int = Field(128, ge=1, le=1_000_000, description="Games played before each update.")
    attempts: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Episodes from each deal, whose replies are sampled anew.",
    )
    samples_per_step: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Turns of a step, in place of episodes_per_step.",
    )
    in_flight: int = Field(256, ge=1, description="Games under way at once.")
    max_turns: int = Field(100, ge=1, description="A game that takes more turns is cut off and counts as a draw.")
    opening_plies: dict[str, int] = Field(
        {},
        description="Game to plies: half of its games open with up to this many random moves.",
    )
    opponents: dict[str, float] = Field(
        {"mirror": 1.0},
        min_length=1,
        description="Opponent to weight; 'mirror' is the policy itself, 'past' its past selves.",
    )
    opponent_sampler: str = Field(
        "fixed",
        description="'fixed' plays them by weight, 'past_selves' and 'pfsp' choose what 'past' is; or 'module:Class'.",
    )
    opponent_options: dict[str, object] = Field({}, description="Options of the opponent sampler.")
    reward: str = Field(
        "normalised",
        description="'normalised' by the largest payoff, 'returns', 'sign', or 'module:function'; controls: 'coin',"
        " 'legality', 'format'.",
    )
    reward_options: dict[str, object] = Field({}, description="Options of the reward.")

    @model_validator(mode="after")
    def _attempts_divide_the_step(self) -> Self:
        if self.episodes_per_step % self.attempts and not self.samples_per_step:
            near = max(1, round(self.episodes_per_step / self.attempts)) * self.attempts
            raise ValueError(
                f"selfplay.episodes_per_step is {self.episodes_per_step} and selfplay.attempts is {self.attempts};"
                f" expected a multiple of the attempts, such as {near}"
            )
        return self

    @model_validator(mode="after")
    def _a_step_is_counted_in_games_or_in_turns(self) -> Self:
        default = type(self).model_fields["episodes_per_step"].default
        if self.samples_per_step and self.episodes_per_step != default:
            raise ValueError(
                f"selfplay.samples_per_step is {self.samples_per_step} and selfplay.episodes_per_step is"
                f" {self.episodes_per_step}; a step is counted in turns or in games, so set selfplay.samples_per_step"
                f" to 0 or leave selfplay.episodes_per_step at {default}"
            )
        return self

    @property
    def max_games(self) -> int:
        """Maximum number of games in a step; their exact number when a step is counted in games."""
        games = MAX_GAMES_PER_SAMPLE * self.samples_per_step or self.episodes_per_step
        return -(-games // self.attempts) * self.attempts

    @property
    def games_begun(self) -> int:
        """Number of games begun at once for a step, if each of them gives one turn to learn from."""
        return math.ceil((1 + AHEAD) * self.samples_per_step) or self.episodes_per_step

    @model_validator(mode="after")
    def _weights_share_out_the_games(self) -> Self:
        """Weights are not negative, some game has one above zero, and openings are those of the games played."""
        weights = self.games
        if sum(weights.values()) <= 0 or min(weights.values()) < 0:
            raise ValueError(f"selfplay.games got weights {shown(weights)}; expected some above zero, none below")
        if min(self.opponents.values()) < 0:
            raise ValueError(f"selfplay.opponents got weights {shown(self.opponents)}; expected none below zero")
        for setting, numbers, least in (("opening_plies", self.opening_plies, 0), ("starts", self.starts, 1)):
            for game, number in numbers.items():
                if game not in weights or number < least:
                    near = difflib.get_close_matches(game, weights, n=1) if game not in weights else []
                    hint = f"did you mean {near[0]!r}?" if near else "expected games of selfplay.games, which are"
                    listed = "" if near else f" {shortened(', '.join(weights), 200)}, and numbers of at least {least}"
                    raise ValueError(f"selfplay.{setting} got {shortened(game)} = {number}; {hint}{listed}")
        if not self.games_at(1):
            raise ValueError(
                f"selfplay.starts is {shown(self.starts)}, so that no game is played in step 1; let one start at 1"
            )
        return self

    def games_at(self, step: int) -> dict[str, float]:
        """Return the games that may be played in a step, with the recipe's weights: those that have entered."""
        return {game: weight for game, weight in self.games.items() if weight > 0 and self.starts.get(game, 1) <= step}


def episodes_by_game(config: SelfPlayConfig, games: int | None = None) -> dict[str, int]:
    """Return how many episodes of each game a step has, all attempts counted.

    Args:
        config: Games, weights and attempts.
        games: Episodes of the step, which is counted in turns; None where it is counted in games.
    """
    deals = split_deals(config.games, -(-(games or config.episodes_per_step) // config.attempts))
    return {game: count * config.attempts for game, count in deals.items()}


def split_deals(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Return how many of `total` deals each game gets: by weight, the largest remainders rounded up."""
    scale = total / sum(weights.values())
    exact = {game: weight * scale for game, weight in weights.items()}
    counts = {game: int(share) for game, share in exact.items()}
    by_remainder = sorted(exact, key=lambda game: (counts[game] - exact[game], game))
    for game in by_remainder[: total - sum(counts.values())]:
        counts[game] += 1
    return counts


def alternating(counts: Mapping[str, int], rng: random.Random) -> list[str]:
    """Return every name as often as it is counted, spread so that each stretch of the list has its share of each.

    The n-th of k equal names stands at (n + u) / k of the list, with one random u in [0, 1) for each name.
    """
    places = [
        ((number + offset) / count, name)
        for name, count in sorted(counts.items())
        for offset in [rng.random()]
        for number in range(count)
    ]
    return [name for _, name in sorted(places)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairing:
    """One game of a step as plain data, which any process can turn into a `Match`."""

    game: str
    seed: int
    attempt: int = 0
    """Counts the games from one seed."""
    players: tuple[str, ...]
    """[num_players] `MIRROR` for the policy, which learns, or the name of an opponent, which does not."""


class Matchmaker:
    """Plans the games of each step."""

    def __init__(
        self,
        policy: Policy,
        config: SelfPlayConfig,
        seed: int,
        *,
        load_opponent: LoadOpponent = scripted_policy,
        curriculum: CurriculumConfig = FIXED,
    ) -> None:
        """Load the games and the opponents that are known from the start.

        Args:
            policy: The policy that learns.
            config: Games, opponents and reward.
            seed: The run's seed.
            load_opponent: Makes the policy of an opponent; called once for each name and game.
            curriculum: What weighs the games of each step.

        Raises:
            ValueError: A game, an opponent, the sampler, the curriculum or the reward does not exist.
        """
        self.sampler = make_sampler(config)
        self.anchor = ("", 0.0)
        """An opponent that takes the place of those of the sampler, and its share of the games."""
        self.curriculum = make_curriculum(curriculum, config.games)
        self._names = {"opponent sampler": config.opponent_sampler, "curriculum": curriculum.kind}
        self.turns_per_game: float | None = None
        """Turns to learn from in a game of the last step, as the collector counts; None without `samples_per_step`."""
        self.steps_ahead = 0
        """Steps whose games may be planned before those of a step are observed, and be under way after it."""
        self._metrics: dict[str, float] = {}
        self._planned: dict[int, set[str]] = {}
        """The past selves in the games of each step that was planned lately."""
        self._policy = policy
        self._config = config
        self._seed = seed
        self._load_opponent = load_opponent
        self._games = {spec: load_game(spec) for spec in config.games}
        self._rewards = {
            spec: load_reward(config.reward, game, config.reward_options) for spec, game in self._games.items()
        }
        self._opponents: dict[tuple[str, str], Policy] = {}
        self._cut_off = CutOffWatch()
        for spec, game in self._games.items():
            for name in self.sampler.known(game) if game.num_players > 1 else ():
                self._player(spec, name)

    def matches(self, step: int) -> list[Match]:
        """Return the games of one step, in the order in which they enter the batch."""
        return [self.match(pairing) for pairing in self.pairings(step)]

    def pairings(self, step: int) -> list[Pairing]:
        """Plan the games of one step, in the order in which they enter the batch.

        With `samples_per_step` these are the most games that the step may have, and it is the beginning of them that
        `SampledStep` finds: kinds of game and opponents take turns by weight, from a place that the seed and the step
        give, so that every beginning has its share of each.
        """
        config = self._config
        deals = split_deals(self.weights(step), config.max_games // config.attempts)
        order = [spec for spec, count in deals.items() for _ in range(count)]
        if config.samples_per_step:
            order = alternating(deals, random.Random(derive_seed(self._seed, "order", step)))
        planned = {spec: enumerate([*self._players(spec, count, step)]) for spec, count in deals.items()}
        return [
            Pairing(
                game=spec,
                seed=derive_seed(self._seed, "episode", step, spec, index),
                attempt=attempt,
                players=players,
            )
            for spec in order
            for index, players in [next(planned[spec])]
            for attempt in range(config.attempts)
        ]

    def weights(self, step: int) -> dict[str, float]:
        """Return the weights of all games in a step, 0 for those that have not entered; they sum to more than 0.

        Raises:
            UserCodeError: The curriculum failed, or gave something else.
        """
        games = self._config.games_at(step)
        with self._named(f"failed at step {step}", "curriculum"):
            given = self.curriculum.weights(step, games)
            found = {game: float(given.get(game, 0.0)) for game in games}
            if not all(0 <= weight < math.inf for weight in found.values()) or sum(found.values()) <= 0:
                raise ValueError(
                    f"it gave {shortened(repr(given))}; expected finite weights of {', '.join(games)}, some above zero"
                )
        return {game: found.get(game, 0.0) for game in self._config.games}

    def match(self, pairing: Pairing) -> Match:
        """Return a planned game with its policies."""
        return Match(
            game=self._games[pairing.game],
            seed=pairing.seed,
            attempt=pairing.attempt,
            policies=tuple(self._player(pairing.game, name) for name in pairing.players),
            trainable=tuple(name == MIRROR for name in pairing.players),
            max_turns=self._config.max_turns,
            opening_plies=self._config.opening_plies.get(pairing.game, 0),
            reward=self._rewards[pairing.game],
        )

    def observe(self, step: int, episodes: Sequence[Episode]) -> None:
        """Pass the episodes of a step to opponent sampler and curriculum, and warn of opponents that are cut off.

        Raises:
            UserCodeError: One of them failed, or its state cannot be saved. Its state is as before the call.
        """
        self._cut_off.observe(episodes, "in training")
        for kind, observer in (("opponent sampler", self.sampler), ("curriculum", self.curriculum)):
            before = self._state_of(kind, observer)
            try:
                with self._named(f"failed to observe the episodes of step {step}", kind):
                    observer.observe(step, episodes)
                self._state_of(kind, observer)  # fails here rather than at a checkpoint many steps away
                if observer is self.sampler:
                    with self._named("failed to give its metrics"):
                        self._metrics = _plain_metrics(self.sampler.metrics())
            except UserCodeError:
                with suppress(Exception, SystemExit):
                    observer.load_state_dict(before)
                raise

    def add_checkpoint(self, step: int, path: Path) -> None:
        """Pass a new checkpoint to the opponent sampler."""
        with self._named(f"failed to take the checkpoint of step {step}"):
            self.sampler.add_checkpoint(step, str(path))
        self._state_of("opponent sampler", self.sampler)

    def keeps(self, step: int) -> bool:
        """Return whether the opponent sampler wants the weights of a step as a past self."""
        with self._named(f"failed to say whether it keeps step {step}"):
            return self.sampler.plays_past_selves and bool(self.sampler.keeps(step))

    def add_past_self(self, step: int) -> None:
        """Notify the opponent sampler of a past self that the run has kept."""
        with self._named(f"failed to take the past self of step {step}"):
            self.sampler.add_past_self(step, past_self(step))
        self._state_of("opponent sampler", self.sampler)

    def past_selves(self) -> list[str]:
        """Return the past selves that may play: those of the sampler, and of games that were planned lately."""
        with self._named("failed to name its past selves"):
            wanted = set(self.sampler.past_selves())
        planned = max(self._planned, default=0)
        self._planned = {step: names for step, names in self._planned.items() if step >= planned - 2 * self.steps_ahead}
        under_way = self._planned.values() if self.steps_ahead else ()
        return sorted(wanted.union(*under_way))

    def metrics(self) -> dict[str, float]:
        """Return the opponent sampler's metrics of the last step that was observed."""
        return dict(self._metrics)

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps: the states of sampler and curriculum, and the length of games where known.

        Raises:
            UserCodeError: A state is not a dictionary, or JSON would not give it back as it is.
        """
        length = {} if self.turns_per_game is None else {"turns_per_game": self.turns_per_game}
        curriculum = self._state_of("curriculum", self.curriculum)
        more = {"curriculum": curriculum} if curriculum else {}
        return {"opponents": self._state_of("opponent sampler", self.sampler), **more, **length}

    def load_state_dict(self, state: Mapping[str, Any], source: str = "a checkpoint") -> None:
        """Take the entries of `state_dict`; what is missing, as in checkpoints of earlier versions, stays as it is.

        Args:
            state: The entries, among others.
            source: The name of the checkpoint that they are from, for errors.
        """
        self.turns_per_game = state.get("turns_per_game")
        if opponents := state.get("opponents"):
            with self._named(f"cannot load its state from {source}"):
                self.sampler.load_state_dict(opponents)
        if curriculum := state.get("curriculum"):
            with self._named(f"cannot load its state from {source}", "curriculum"):
                self.curriculum.load_state_dict(curriculum)

    def _state_of(self, kind: str, observer: OpponentSampler | Curriculum) -> dict[str, object]:
        with self._named("has a state that cannot be saved", kind):
            return json_copy(observer.state_dict())

    def _players(self, spec: str, count: int, step: int) -> Iterator[tuple[str, ...]]:
        """The players of each of the `count` games of one kind; the policy takes each player's index in turn."""
        players = self._games[spec].num_players
        if players == 1:
            yield from [(MIRROR,)] * count
            return
        games = Counter[str]()
        for name in self._sample(spec, count, step):
            learner = (games[name] + step) % players
            games[name] += 1
            yield tuple(MIRROR if player == learner else name for player in range(players))

    def _sample(self, spec: str, count: int, step: int) -> list[str]:
        rng = random.Random(derive_seed(self._seed, "opponents", step, spec))
        with self._named(f"failed at step {step} for {spec}"):
            given = self.sampler.sample(step, self._games[spec], count, rng)
            names = list(given) if in_order(given) else []
            if len(names) != count or not all(isinstance(name, str) for name in names):
                raise ValueError(f"it gave {shortened(repr(given))}; expected a list of {count} names")
        self._planned.setdefault(step, set()).update(name for name in names if past_step(name) is not None)
        if self._config.samples_per_step:
            names = alternating(Counter(names), random.Random(derive_seed(self._seed, "order", step, spec)))
        return self._with_anchor(spec, names, step)

    def _with_anchor(self, spec: str, names: list[str], step: int) -> list[str]:
        """The opponents of a step's games of one kind, some of them replaced by the anchor."""
        anchor, share = self.anchor
        if not share:
            return names
        rng = random.Random(derive_seed(self._seed, "anchor", step, spec))
        count = split_evenly({"anchor": share, "others": 1 - share}, len(names), rng.random())["anchor"]
        chosen = set(rng.sample(range(len(names)), count))
        return [anchor if index in chosen else name for index, name in enumerate(names)]

    @contextmanager
    def _named(self, what: str, kind: str = "opponent sampler") -> Iterator[None]:
        """Name the sampler, or the curriculum, in an error of its code."""
        try:
            yield
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, StateError) else describe_error(error)
            raise UserCodeError(f"the {kind} {self._names[kind]!r} {what}: {reason}") from error

    def _player(self, spec: str, name: str) -> Policy:
        if name == MIRROR:
            return self._policy
        if (spec, name) not in self._opponents:
            self._opponents[spec, name] = self._load_opponent(name, self._games[spec])
        return self._opponents[spec, name]


def _plain_metrics(given: Mapping[str, float]) -> dict[str, float]:
    """Check the metrics of a sampler, which may be the user's.

    Raises:
        ValueError: A key or a number is not one of a metric.
    """
    for key, value in given.items():
        if not isinstance(key, str) or not key.startswith("opponents/") or not math.isfinite(value):
            raise ValueError(f"it gave {key!r} = {value!r}; expected keys that begin with opponents/, and numbers")
    return {key: float(value) for key, value in given.items()}
