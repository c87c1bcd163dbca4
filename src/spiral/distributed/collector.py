"""Self-play spread over a cluster: a `Collector` that deals the games of steps to workers and gathers them.

    with cluster_session(config), ClusterCollector(make_policy, selfplay, seed, config, vocabulary=V) as collector:
        collector.receive_weights(learner.publish())
        episodes = collector.collect(1)

There is one way of working and three schedules. `collect(step)` sees to it that the games of some further steps are
dealt too, and takes the episodes of one step's worth:

| schedule | steps ahead | a game is played with | taken are |
|---|---|---|---|
| sync | 0 | the weights of the step before | the step's games, in their order |
| overlap | 1 | the weights when it was dealt, one update behind | the step's games, in their order |
| async | max_staleness | the newest weights at each turn | those done, in the order of dealing |

With the first two, what is played does not depend on how many workers there are, on who is first, or on who is lost.
Games go on between calls: a thread of this process gives workers their next chunk, checks what they answer, and
replaces those that are lost.
"""

from __future__ import annotations

import functools
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from spiral.core.metrics import Metrics
from spiral.core.records import Episode
from spiral.distributed.checks import check_episode, check_results
from spiral.distributed.game_queue import Dealer
from spiral.distributed.metrics import Figures
from spiral.distributed.pool import Crew, Member, answers
from spiral.distributed.rollout_worker import MakePolicy, WorkerStatus, count_tokens
from spiral.distributed.session import import_ray
from spiral.distributed.staleness import split_stale
from spiral.distributed.tasks import Measurement, Play, Sleep, Task
from spiral.distributed.weights.base import WeightsHandle
from spiral.distributed.weights.publisher import Publisher
from spiral.policies import scripted_policy
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.matchmaking import LoadOpponent, Matchmaker, SelfPlayConfig
from spiral.runs.cluster import ClusterConfig

POLL_SECONDS = 0.1
MEASURE_SECONDS = 86_400.0
"""A day."""


class ClusterCollector:
    """Collects episodes of a policy playing itself, on the workers of a cluster."""

    def __init__(
        self,
        make_policy: MakePolicy,
        selfplay: SelfPlayConfig,
        seed: int,
        cluster: ClusterConfig,
        *,
        vocabulary: int,
        last_step: int | None = None,
        placements: Sequence[Any] | None = None,
        seat: LoadOpponent = scripted_policy,
        sleep: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts the workers, calls `meanwhile` and waits until they are ready; a Ray must be connected.

        `make_policy` is called in every worker, and `seat` for every opponent there; both must be picklable. Token ids
        must be below `vocabulary`, the number of rows of the model's output. No game beyond `last_step` is dealt.
        `placements` are Ray's scheduling strategies, one for each worker. `sleep` puts the engines to sleep after every
        step's games.

        Raises `ValueError` or `RuntimeError` with a worker's own words when it cannot be set up.
        """
        self._cluster = cluster
        self._vocabulary = vocabulary
        self._last_step = last_step
        self._sleep = sleep
        # Tells which games there are, and plays none.
        nobody = RandomPolicy()
        self._matchmaker = Matchmaker(nobody, selfplay, seed, load_opponent=lambda _name, _game: nobody)
        self._matches = functools.lru_cache(cluster.steps_ahead + 2)(self._matchmaker.matches)
        self._dealer = Dealer(selfplay.episodes_per_step, cluster.rollout_workers)
        # One chunk beyond those whose games begin and one that ends: its games that are over leave room for others.
        self._hand = selfplay.in_flight + 2 * self._dealer.chunk_games
        self._figures = Figures()
        self._publisher = Publisher(cluster)
        self._measurements: deque[Measurement] = deque()
        self._weights: WeightsHandle | None = None
        self._failure: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._crew = Crew(
            cluster, make_policy, selfplay, seed, seat=seat, hand_back=self._hand_back, placements=placements
        )
        self._thread = threading.Thread(target=self._look_after, name="rollout workers", daemon=True)
        self._thread.start()
        try:
            meanwhile()
            self._wait(lambda: self._crew.complete)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def collect(self, step: int) -> list[Episode]:
        """Episodes for the update of `step`, without the tokens of turns that are too old to learn from.

        Raises `RuntimeError` when workers were lost more often than the configuration allows.
        """
        start = time.perf_counter()
        with self._changed:
            version = self._newest().version
            self._deal(step)
        in_order = self._cluster.schedule != "async"
        take = (lambda: self._dealer.take_step(step)) if in_order else self._dealer.take_first
        episodes = self._wait(take)
        with self._changed:
            kept, dropped = split_stale(episodes, version, self._cluster.max_staleness)
            self._figures.collected(episodes, version, dropped, time.perf_counter() - start, self._crew)
        if self._sleep:
            self._put_to_sleep()
        return kept

    def receive_weights(self, handle: WeightsHandle) -> None:
        """Takes new weights for the games of the next steps, and sends them to the workers where they are broadcast."""
        start, reached = time.perf_counter() - handle.seconds, 0
        if handle.source is not None and handle.source.device is not None:
            reached = self._broadcast(handle)
        with self._changed:
            self._weights = handle
            if self._cluster.schedule == "async":
                self._crew.tell(handle)
            self._figures.published(time.perf_counter() - start, handle.num_bytes, reached)

    def measure(self, function: Callable[..., Any], *arguments: Any, seconds: float = MEASURE_SECONDS) -> Any:
        """`function(policy, *arguments)` with the newest weights, by some worker within `seconds`.

        All of it must be picklable. What the function raises is raised here. An evaluation may take hours, so that the
        limit is there only for workers that will never answer.
        """
        with self._changed:
            task = Measurement(function=function, arguments=arguments, weights=self._newest(), limit=seconds)
            self._measurements.append(task)
            self._hand_out()
        self._wait(lambda: task.done or None)
        if isinstance(task.answer, Exception):
            raise task.answer
        return task.answer

    def metrics(self) -> Metrics:
        """Figures of the last step under `cluster/`."""
        with self._changed:
            return self._figures.metrics()

    def statuses(self) -> list[WorkerStatus]:
        """What the workers are doing now."""
        with self._changed:
            asked = self._crew.ask()
        return answers(asked)  # not in the way of those who deal games

    def close(self) -> None:
        """Ends the workers. Games under way are lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._crew.close()

    def _put_to_sleep(self) -> None:
        """Waits until no engine of a ready worker holds memory that the learner could use."""
        with self._changed:
            tasks = [Sleep(limit=self._cluster.worker_seconds) for _ in self._crew.ready]
            for member, task in zip(self._crew.ready, tasks, strict=True):
                self._crew.give(member, task)
            self._changed.notify_all()
        self._wait(lambda: all(task.done for task in tasks))

    def _broadcast(self, handle: WeightsHandle) -> int:
        """Has weights sent to the workers that are ready; how many have them. Games go on meanwhile."""
        with self._changed:
            members = self._crew.ready
        outcome = self._publisher.publish(handle, members)
        with self._changed:
            for member, cause in outcome.lost.items():
                self._crew.lose(member, cause)
            for member, cause in outcome.stuck.items():
                self._crew.lose_stuck(member, cause)
            self._hand_out()
        return len(outcome.reached)

    def _newest(self) -> WeightsHandle:
        if self._weights is None:
            raise RuntimeError("no worker has weights yet; call receive_weights before the first step or measurement")
        return self._weights

    def _wait(self, condition: Callable[[], Any]) -> Any:
        """Waits until `condition()` is neither None nor False. It ends: the thread below keeps every worker's limit."""
        with self._changed:
            while True:
                if self._failure is not None:
                    raise self._failure
                found = condition()
                if found is not None and found is not False:
                    return found
                if not self._thread.is_alive():
                    raise RuntimeError("the rollout workers were closed while their games were waited for")
                self._changed.wait(timeout=1.0)

    def _deal(self, step: int) -> None:
        """Deals every step up to as many ahead of `step` as the schedule says."""
        last = step + self._cluster.steps_ahead
        if self._last_step is not None:
            last = max(step, min(last, self._last_step))
        begin = step if self._dealer.last_step is None else self._dealer.last_step + 1
        for following in range(begin, last + 1):
            self._dealer.deal_step(following, None if self._cluster.schedule == "async" else self._newest())
        self._hand_out()

    def _hand_out(self) -> None:
        """Fills the hands of the workers."""
        while (member := self._crew.least_busy(self._hand)) is not None:
            task: Task
            if self._measurements:
                task = self._measurements.popleft()
            elif (chunk := self._dealer.hand_out()) is not None:
                weights = chunk.weights or self._newest()
                task = Play(chunk=chunk, weights=weights, limit=self._cluster.worker_seconds)
            else:
                break
            self._crew.give(member, task)
        self._changed.notify_all()

    def _hand_back(self, task: Task) -> None:
        """Takes what a lost worker had in hand."""
        if isinstance(task, Play):
            self._dealer.give_back(task.chunk)
        elif isinstance(task, Measurement):
            self._measurements.appendleft(task)
        elif isinstance(task, Sleep):
            task.done = True
            self._changed.notify_all()

    def _look_after(self) -> None:
        """The thread: waits for workers, and does what there is to do when one has something."""
        ray = import_ray()

        try:
            while not self._closing:
                with self._changed:
                    pending = self._crew.pending()
                    if not pending:
                        self._changed.wait(timeout=POLL_SECONDS)
                done: list[Any] = []
                if pending:
                    ray.wait(pending, num_returns=1, timeout=POLL_SECONDS)
                    done, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
                with self._changed:
                    for member, task, answer in self._crew.settle(done):
                        self._settle(member, task, answer)
                    self._hand_out()
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _settle(self, member: Member, task: Task, answer: Any) -> None:
        if isinstance(task, Measurement):
            task.answer, task.done = answer, True
            return
        if isinstance(task, Sleep):
            task.done = True
            return
        assert isinstance(task, Play)
        results, fault = self._read(task, answer)
        if fault is not None:
            self._dealer.give_back(task.chunk)
            self._crew.lose(member, f"gave a wrong answer to {task}: {fault}")
            return
        episodes = [episode for _, episode in results]
        if self._dealer.finish(task.chunk, episodes):
            self._figures.played(member.number, count_tokens(episodes))

    def _read(self, task: Play, answer: Any) -> tuple[list[tuple[int, Episode]], str | None]:
        """The answer to a chunk, and what is wrong with it."""
        newest = self._newest().version if task.chunk.weights is None else task.weights.version
        versions = range(task.weights.version, newest + 1)
        try:
            results = pickle.loads(answer)
            fault = check_results(results, task.chunk.indices)
            if fault is not None:
                return [], fault
            matches = self._matches(task.chunk.step)
            faults = (check_episode(e, matches[index], self._vocabulary, versions) for index, e in results)
            return results, next((fault for fault in faults if fault is not None), None)
        except Exception as error:  # a record may be wrong in ways that no check thinks of
            return [], f"it cannot be read: {type(error).__name__}: {error}"
