"""A process that plays games: the objects of a run in one process, behind a Ray actor's methods.

    worker = create_worker(0, config)
    ray.get(worker.set_up.remote(make_policy, selfplay_config, seed, threads=1, transport=context))
    worker.play.options(concurrency_group=CHUNKS).remote(step, indices, pairings, weights)

Everything that uses the policy happens in one thread (`rollout_thread.py`). Calls of `play` wait for it, several at a
time (`CHUNKS`). `announce_weights`, `stacks` and `status` run in another thread (`CONTROL`) and answer while games are
under way; so does `call_transport` (`WEIGHTS`), which does not touch the policy.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from spiral.core.records import Episode
from spiral.distributed.game_queue import describe_games
from spiral.distributed.rollout_thread import LAST, FreshPolicy, RolloutThread
from spiral.distributed.session import import_ray, thread_stacks
from spiral.distributed.weights.base import WEIGHT_GROUPS, TransportContext, WeightReceiver, WeightsHandle
from spiral.distributed.weights.registry import make_receiver
from spiral.inference.base import LanguagePolicy
from spiral.policies import Policy, scripted_policy
from spiral.policies.opponents import Opponents
from spiral.policies.past_selves import EngineShare, SharedEngine
from spiral.rollout.matchmaking import LoadOpponent, Matchmaker, Pairing, SelfPlayConfig
from spiral.runs.cluster import ClusterConfig

CHUNKS = "chunks"
"""Concurrency group of the calls that wait for games."""
EVALUATING = "evaluating"
"""`WorkerStatus.doing` during `RolloutWorker.call_policy`."""
MAX_CHUNKS = 32
"""Chunks that a worker can have at a time."""
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
    """Sampled tokens; prompts are not counted."""
    play_seconds: float
    load_seconds: float
    """Time spent on loading weights."""


class RolloutWorker:
    """Plays games of self-play with its own policy. Built in two steps, since the second may take minutes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._policy: LanguagePolicy | None = None
        self._shared_engine: SharedEngine | None = None
        self._in_flight = 0
        self._load_opponent: LoadOpponent = scripted_policy
        self._matchmaker: Matchmaker | None = None
        self._thread = RolloutThread(self._load)
        self._receiver: WeightReceiver | None = None
        self._version: int | None = None
        self._doing = "waiting for setup"
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
        transport: TransportContext,
        load_opponent: LoadOpponent = scripted_policy,
        share: EngineShare | None = None,
    ) -> None:
        """Makes the policy.

        Args:
            make_policy: Makes the policy.
            config: The games of a step.
            seed: The seed of the run.
            threads: Threads of torch.
            transport: How to receive weights.
            load_opponent: Makes opponents by name.
            share: The opponents that play in the policy's engine; None without any.
        """
        self._receiver = make_receiver(transport)
        self._load_opponent = load_opponent
        self._thread.call(lambda: self._set_up(make_policy, config, seed, threads, load_opponent, share))

    def play(
        self,
        step: int,
        indices: Sequence[int],
        pairings: Sequence[Pairing],
        weights: WeightsHandle,
        newest: bool = False,
    ) -> bytes:
        """Plays games of a step.

        Args:
            step: The step.
            indices: Indices of the games in their step.
            pairings: The games.
            weights: The weights to play with.
            newest: Whether to use newer weights at later turns.

        Returns:
            A pickled list of `(index, Episode)`. Ray would send each of an episode's many small arrays separately, in
            memory that it later reclaims.
        """
        assert self._matchmaker is not None
        with self._lock:
            self._under_way[step] = self._under_way.get(step, 0) + len(indices)
            matches = [self._matchmaker.match(pairing) for pairing in pairings]
        try:
            episodes = self._thread.play(matches, weights, newest, self._in_flight)
        finally:
            with self._lock:
                self._under_way[step] -= len(indices)
        with self._lock:
            self._games += len(episodes)
            self._tokens += count_tokens(episodes)
        return pickle.dumps(list(zip(indices, episodes, strict=True)), protocol=pickle.HIGHEST_PROTOCOL)

    def call_policy(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        weights: WeightsHandle,
        with_opponents: bool = False,
    ) -> Any:
        """Returns `function(policy, *arguments)`, called with these weights while no game is under way.

        With `with_opponents`, this worker's opponent loader and shared engine are appended to the arguments.
        """
        last = (self._load_opponent, self._shared_engine) if with_opponents else ()

        def work() -> Any:
            self._thread.load(weights)
            self._restore()
            self._doing = EVALUATING
            try:
                return function(self._policy, *arguments, *last)
            finally:
                self._doing = ""

        return self._thread.call(work, weights.version)

    def sleep(self) -> None:
        """Releases the engine's memory until the policy gets new weights."""
        self._thread.call(self._fall_asleep, version=LAST)

    def _restore(self) -> None:
        """Puts the policy's own weights back where others have played last."""
        if self._shared_engine is not None:
            self._shared_engine.restore()

    def _fall_asleep(self) -> None:
        assert self._policy is not None
        self._restore()
        self._policy.sleep(until_weights=True)  # engines sleep in the schedule "sync" only
        if isinstance(self._load_opponent, Opponents):
            self._load_opponent.sleep()

    def announce_weights(self, weights: WeightsHandle) -> None:
        """Makes newer weights known; games that are played with the newest load them between turns."""
        self._thread.announce(weights)

    def call_transport(self, method: str, *arguments: Any) -> Any:
        """Calls a method of this worker's side of the weight transport."""
        return getattr(self._receiver, method)(*arguments)

    def stacks(self) -> str:
        """The Python stack of every thread of this process."""
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
            play_seconds=self._thread.play_seconds,
            load_seconds=self._load_seconds,
        )

    def _set_up(
        self,
        make_policy: MakePolicy,
        config: SelfPlayConfig,
        seed: int,
        threads: int,
        load_opponent: LoadOpponent,
        share: EngineShare | None,
    ) -> None:
        import torch

        torch.set_num_threads(threads)  # applies to the calling thread only
        self._doing = "loading the model"
        self._policy = make_policy()
        player: Policy = self._policy
        if share is not None:
            self._shared_engine = SharedEngine(self._policy, share)
            player, load_opponent = self._shared_engine.policy, self._shared_engine.opponents(load_opponent)
        fresh = FreshPolicy(player, is_stale=self._thread.is_stale, refresh=self._thread.refresh)
        self._matchmaker = Matchmaker(fresh, config, seed, load_opponent=load_opponent)
        self._in_flight = config.in_flight
        gc.collect()
        gc.freeze()  # what exists now stays, and the garbage collector can skip it
        self._doing = ""

    def _playing(self) -> str:
        with self._lock:
            games = {step: count for step, count in sorted(self._under_way.items()) if count}
            self._under_way = games
        return ", ".join(f"playing {describe_games(count, step)}" for step, count in games.items()) or "nothing"

    def _load(self, weights: WeightsHandle) -> None:
        """Puts weights into the policy unless they are there."""
        if weights.version == self._version:
            return
        engine = self._shared_engine or self._policy
        assert engine is not None
        self._doing = f"loading weights of version {weights.version}"
        start = time.perf_counter()
        self._version = None
        assert self._receiver is not None
        self._receiver.receive(weights, engine.load_weights)
        self._version = weights.version
        self._load_seconds += time.perf_counter() - start
        self._doing = ""


def create_worker(number: int, config: ClusterConfig, placement: Any = "SPREAD") -> Any:
    """Creates an actor, which starts as soon as Ray has resources for it.

    Args:
        number: The worker's number.
        config: The worker's resources.
        placement: Ray's scheduling strategy.

    Returns:
        The actor's handle.
    """
    ray = import_ray()

    actor_class = ray.remote(
        num_cpus=config.cpus_per_worker,
        num_gpus=config.gpus_per_worker,
        max_restarts=0,  # the pool replaces workers, since it knows what was assigned to them
        concurrency_groups=WEIGHT_GROUPS | {CHUNKS: MAX_CHUNKS},
    )(RolloutWorker)
    return actor_class.options(scheduling_strategy=placement).remote(number)


def count_tokens(episodes: Sequence[Episode]) -> int:
    """Number of tokens that learning players sampled in these games."""
    turns = [turn for episode in episodes for turn in episode.turns if episode.seats[turn.player].trainable]
    return sum(len(turn.generation.token_ids) for turn in turns if turn.generation is not None)
