"""A process that plays games: the objects of a run in one process, behind a Ray actor's methods.

    worker = create_worker(0, config)
    ray.get(worker.set_up.remote(make_policy, selfplay_config, seed, threads=1, wait_seconds=600.0))
    worker.play.options(concurrency_group=CHUNKS).remote(step, indices, weights)

Everything that touches the policy happens in one thread (`player.py`); calls of `play` wait for it, several at a time
(`CHUNKS`). `load_weights`, `stacks` and `status` belong to another thread (`CONTROL`), and answer while games are under
way; so does `receive_weights` (`WEIGHTS`), which leaves the policy alone.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from spiral.core.records import Episode
from spiral.distributed.fresh_policy import FreshPolicy
from spiral.distributed.game_queue import games_of_step
from spiral.distributed.rollout_thread import LAST, Player
from spiral.distributed.session import CONTROL, import_ray, thread_stacks
from spiral.distributed.weights.base import WeightsHandle
from spiral.distributed.weights.broadcast import Meeting
from spiral.distributed.weights.fetch import fetch
from spiral.distributed.weights.sync import WEIGHTS, Receiver
from spiral.inference.base import LanguagePolicy
from spiral.policies import scripted_policy
from spiral.rollout.loop import Match
from spiral.rollout.matchmaking import LoadOpponent, Matchmaker, SelfPlayConfig
from spiral.runs.cluster import ClusterConfig

CHUNKS = "chunks"
"""The thread group of calls that wait for games."""
MEASURING = "measuring"
STEPS_KNOWN = 4
"""Steps whose matches are kept, since a step comes in several chunks."""
MOST_CHUNKS = 32
"""Chunks that a worker can have in hand."""
MakePolicy = Callable[[], LanguagePolicy]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """Where a worker runs and what it has done."""

    number: int
    pid: int
    host: str
    doing: str
    version: int
    games: int
    tokens: int
    """Sampled, prompts not counted."""
    play_seconds: float
    load_seconds: float
    """Spent on taking weights."""


class RolloutWorker:
    """Plays games of self-play with a policy of its own. Made in two steps, since the second may take minutes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._policy: LanguagePolicy | None = None
        self._in_flight = 0
        self._matches: Callable[[int], list[Match]] | None = None
        self._player = Player(self._take)
        self._receiver = Receiver()
        self._version: int | None = None
        self._wait_seconds = 0.0
        self._doing = "waiting to be set up"
        self._under_way: dict[int, int] = {}
        self._games = 0
        self._tokens = 0
        self._load_seconds = 0.0
        self._lock = threading.Lock()

    def set_up(
        self,
        make_policy: MakePolicy,
        config: SelfPlayConfig,
        seed: int,
        threads: int,
        wait_seconds: float,
        seat: LoadOpponent = scripted_policy,
    ) -> None:
        """Makes the policy, and its opponents with `seat`; waits at most `wait_seconds` for weights."""
        self._wait_seconds = wait_seconds
        self._player.call(lambda: self._set_up(make_policy, config, seed, threads, seat))

    def play(self, step: int, indices: Sequence[int], weights: WeightsHandle, newest: bool = False) -> bytes:
        """The games of `step` in these places, played with `weights`, or with newer ones if `newest` says so.

        A pickled list of `(place, Episode)`: Ray would send each of an episode's many small arrays by itself, and hand
        them out in memory that it takes back.
        """
        assert self._matches is not None
        with self._lock:
            self._under_way[step] = self._under_way.get(step, 0) + len(indices)
            step_matches = self._matches(step)
        matches = [step_matches[index] for index in indices]
        try:
            episodes = self._player.play(matches, weights, newest, self._in_flight)
        finally:
            with self._lock:
                self._under_way[step] -= len(indices)
        with self._lock:
            self._games += len(episodes)
            self._tokens += count_tokens(episodes)
        return pickle.dumps(list(zip(indices, episodes, strict=True)), protocol=pickle.HIGHEST_PROTOCOL)

    def measure(self, function: Callable[..., Any], arguments: Sequence[Any], weights: WeightsHandle) -> Any:
        """`function(policy, *arguments)` with the worker's policy and these weights, while no game is under way."""

        def work() -> Any:
            self._player.take(weights)
            self._doing = MEASURING
            try:
                return function(self._policy, *arguments)
            finally:
                self._doing = ""

        return self._player.call(work, weights.version)

    def sleep(self) -> None:
        """Gives the device's memory back until the policy is asked for something again."""
        assert self._policy is not None
        self._player.call(self._policy.sleep, version=LAST)

    def load_weights(self, weights: WeightsHandle) -> None:
        """Tells of newer weights; games that are played with the newest take them between turns."""
        self._player.tell(weights)

    def receive_weights(self, version: int, meeting: Meeting) -> str | None:
        """Receives a broadcast, to be taken before games that ask for it; what went wrong, if anything did."""
        return self._receiver.receive(version, meeting)

    def stacks(self) -> str:
        """Where every thread of this process is in its Python code."""
        return thread_stacks()

    def status(self) -> WorkerStatus:
        """Where this worker runs and what it is doing."""
        return WorkerStatus(
            number=self.number,
            pid=os.getpid(),
            host=socket.gethostname(),
            doing=self._doing or self._playing(),
            version=self._version or 0,
            games=self._games,
            tokens=self._tokens,
            play_seconds=self._player.seconds,
            load_seconds=self._load_seconds,
        )

    def _set_up(
        self, make_policy: MakePolicy, config: SelfPlayConfig, seed: int, threads: int, seat: LoadOpponent
    ) -> None:
        import torch

        torch.set_num_threads(threads)  # of the thread that computes
        self._doing = "loading the model"
        self._policy = make_policy()
        fresh = FreshPolicy(self._policy, is_stale=self._player.is_stale, refresh=self._player.refresh)
        self._matches = functools.lru_cache(STEPS_KNOWN)(Matchmaker(fresh, config, seed, load_opponent=seat).matches)
        self._in_flight = config.in_flight
        gc.collect()
        gc.freeze()  # what exists now stays, and need not be looked through for garbage
        self._doing = ""

    def _playing(self) -> str:
        """How many games of which steps are in hand."""
        with self._lock:
            games = {step: count for step, count in sorted(self._under_way.items()) if count}
            self._under_way = games
        return ", ".join(f"playing {games_of_step(count, step)}" for step, count in games.items()) or "nothing"

    def _take(self, weights: WeightsHandle) -> None:
        """Puts weights into the policy unless they are there."""
        if weights.version == self._version:
            return
        assert self._policy is not None
        self._doing = f"taking weights of version {weights.version}"
        start = time.perf_counter()
        self._version = None
        fetch(weights, self._receiver, self._wait_seconds, self._policy.load_weights)
        self._version = weights.version
        self._load_seconds += time.perf_counter() - start
        self._doing = ""


def create_worker(number: int, config: ClusterConfig, placement: Any = "SPREAD") -> Any:
    """A handle of a new actor; it starts as soon as Ray has a place for it. `placement` is a scheduling strategy."""
    ray = import_ray()

    actor_class = ray.remote(
        num_cpus=config.cpus_per_worker,
        num_gpus=config.gpus_per_worker,
        max_restarts=0,  # whoever deals the games replaces workers, since it knows what they had in hand
        concurrency_groups={CONTROL: 1, WEIGHTS: 1, CHUNKS: MOST_CHUNKS},
    )(RolloutWorker)
    return actor_class.options(scheduling_strategy=placement).remote(number)


def count_tokens(episodes: Sequence[Episode]) -> int:
    """Tokens that were sampled in these games by those who learn."""
    turns = [turn for episode in episodes for turn in episode.turns if episode.seats[turn.player].trainable]
    return sum(len(turn.generation.token_ids) for turn in turns if turn.generation is not None)
