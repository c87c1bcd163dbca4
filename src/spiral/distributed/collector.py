"""Self-play on a cluster: a collector that assigns the games of steps to rollout workers and gathers the episodes.

    with cluster_session(config), ClusterCollector(make_policy, selfplay, seed, config, vocabulary=V) as collector:
        collector.receive_weights(learner.publish())
        episodes = collector.collect(1)

There is one mechanism and three schedules. `collect(step)` queues the games of some further steps and takes the
episodes of one step:

| schedule | steps ahead | a game is played with | taken are |
|---|---|---|---|
| sync | 0 | the weights of the step before | the step's games, in their order |
| overlap | 1 | the weights when it was queued, one update behind | the step's games, in their order |
| async | max_staleness | the newest weights at each turn | finished games, in the order of the queue |

With the first two, the episodes do not depend on the number of workers, on their speed, or on which are lost. Games go
on between calls: a thread of this process gives workers their next chunk, checks their results, and replaces workers
that are lost. With `selfplay.samples_per_step` a step has as many games as have this number of turns to learn from
(`sampled_queue.py`): the beginning of its own games in order, or the oldest finished games.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from spiral.core.metrics import DROPPED_TURNS, Metrics, worker_key
from spiral.core.records import Episode
from spiral.distributed.checks import check_episode, check_results
from spiral.distributed.game_queue import GameQueue, split_stale, turn_ages
from spiral.distributed.pool import Play, PolicyCall, Sleep, Task, WorkerHandle, WorkerPool, worker_statuses
from spiral.distributed.rollout_worker import MakePolicy, WorkerStatus, count_tokens
from spiral.distributed.sampled_queue import SampledQueue
from spiral.distributed.session import import_ray
from spiral.distributed.weights.base import TransportContext, WeightsHandle
from spiral.distributed.weights.registry import deliver, make_transport
from spiral.policies import scripted_policy
from spiral.policies.past_selves import EngineShare
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.curriculum.loading import CurriculumConfig
from spiral.rollout.matchmaking import FIXED, LoadOpponent, Matchmaker, SelfPlayConfig
from spiral.runs.cluster import ClusterConfig

POLL_SECONDS = 0.1
CALL_SECONDS = 86_400.0
"""Default timeout of a call on a worker's policy: an evaluation may take hours, so it is there only for workers that
will never answer."""


class ClusterCollector:
    """Collects episodes of a policy that plays itself on the workers of a cluster."""

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
        load_opponent: LoadOpponent = scripted_policy,
        transport: TransportContext | None = None,
        sleep: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
        share: EngineShare | None = None,
        curriculum: CurriculumConfig = FIXED,
    ) -> None:
        """Starts the workers and waits until they are ready; Ray must be connected.

        Args:
            make_policy: Makes the policy in every worker; picklable.
            selfplay: The games of a step.
            seed: The seed of the run.
            cluster: Number of workers, schedule and timeouts.
            vocabulary: Number of rows of the model's output; token ids of workers must be below.
            last_step: The last step whose games are queued; None for no limit.
            placements: Ray's scheduling strategy of each worker.
            load_opponent: Makes opponents by name in every worker; picklable.
            transport: How workers receive weights; by default as `cluster` says, for a learner on CPUs.
            sleep: Whether to put the engines to sleep after every step's games.
            meanwhile: Called while the workers start.
            share: The opponents that play in the policy's engine on each worker; None without any.
            curriculum: What weighs the games of each step.

        Raises:
            ValueError or RuntimeError: a worker could not be set up; the message is the worker's own.
        """
        self._cluster = cluster
        self._vocabulary = vocabulary
        self._last_step = last_step
        self._sleep = sleep
        self._matchmaker = _new_matchmaker(selfplay, seed, cluster, curriculum)
        self._samples_per_step = selfplay.samples_per_step
        self._queue = _new_queue(selfplay, cluster)
        # One chunk that waits to begin and one that is ending, whose finished games leave room for others.
        self._max_assigned = selfplay.in_flight + 2 * self._queue.max_chunk_games
        self._metrics = _StepMetrics()
        transport = transport or TransportContext(config=cluster)
        self._transport = make_transport(transport)
        self._calls: deque[PolicyCall] = deque()
        self._weights: WeightsHandle | None = None
        self._failure: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._pool = WorkerPool(
            cluster,
            make_policy,
            selfplay,
            seed,
            load_opponent=load_opponent,
            transport=transport,
            return_task=self._return_task,
            placements=placements,
            share=share,
        )
        self._thread = threading.Thread(target=self._work, name="rollout workers", daemon=True)
        self._thread.start()
        try:
            meanwhile()
            self._wait(lambda: self._pool.complete)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def collect(self, step: int) -> list[Episode]:
        """Returns the episodes for the update of `step`, without the tokens of turns that are too old to learn from.

        Raises:
            RuntimeError: more workers were lost than `cluster.restarts` allows.
        """
        start = time.perf_counter()
        with self._changed:
            version = self._newest().version
            self._queue_steps(step)
        in_order = self._cluster.schedule != "async"
        take = (lambda: self._queue.take_step(step)) if in_order else self._queue.take_oldest
        episodes = self._wait(take)
        with self._changed:
            kept, dropped = split_stale(episodes, version, self._cluster.max_staleness)
            self._metrics.end_step(episodes, version, dropped, time.perf_counter() - start, self._pool)
            if self._samples_per_step:
                self._matchmaker.turns_per_game = sum(e.learned_turns for e in episodes) / len(episodes)
                self._metrics.last[DROPPED_TURNS] = float(self._queue.dropped_turns)
                self._queue.dropped_turns = 0
        self._matchmaker.observe(step, kept)
        if self._sleep:
            self._put_to_sleep()
        return kept

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return self._matchmaker.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], source: str = "a checkpoint") -> None:
        """Takes what `state_dict` gave from among the state of the checkpoint `source`."""
        self._matchmaker.load_state_dict(state, source)

    def add_checkpoint(self, step: int, path: Path) -> None:
        """Notifies the opponent sampler of a checkpoint of the run."""
        self._matchmaker.add_checkpoint(step, path)

    def keeps(self, step: int) -> bool:
        """Whether the opponent sampler wants the weights of a step as a past self."""
        return self._matchmaker.keeps(step)

    def add_past_self(self, step: int) -> None:
        """Notifies the opponent sampler of a past self that was kept."""
        self._matchmaker.add_past_self(step)

    def past_selves(self) -> list[str]:
        """The past selves that may play from now on, or play in games under way."""
        return self._matchmaker.past_selves()

    def receive_weights(self, handle: WeightsHandle) -> None:
        """Takes new weights for the games of the next steps and delivers them while other games are played."""
        start = time.perf_counter() - handle.seconds
        with self._changed:
            workers = self._pool.ready
        delivery = deliver(self._cluster, self._transport, handle, workers)
        with self._changed:
            for worker, cause in delivery.died.items():
                self._pool.replace(worker, cause)
            for worker, cause in delivery.stuck.items():
                self._pool.replace_stuck(worker, cause)
            if delivery.failures:
                self._assign_tasks()
            self._weights = handle
            if self._cluster.schedule == "async":
                self._pool.announce(handle)
            self._metrics.record_publishing(time.perf_counter() - start, handle.num_bytes, len(delivery.reached))

    def call_policy(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float = CALL_SECONDS,
        with_opponents: bool = False,
    ) -> Any:
        """Returns `function(policy, *arguments)`, called with the newest weights on one of the workers.

        With `with_opponents`, the worker's opponent loader and shared engine are appended to the arguments.
        The function, its arguments and its result must be picklable. Its exceptions are raised here.
        """
        with self._changed:
            task = PolicyCall(
                function=function,
                arguments=arguments,
                weights=self._newest(),
                limit=seconds,
                with_opponents=with_opponents,
            )
            self._calls.append(task)
            self._assign_tasks()
        self._wait(lambda: task.done or None)
        if isinstance(task.result, Exception):
            raise task.result
        return task.result

    def metrics(self) -> Metrics:
        """The metrics of the last step under `cluster/`."""
        with self._changed:
            return {**self._metrics.last, **self._matchmaker.metrics()}

    def statuses(self) -> list[WorkerStatus]:
        """Current status of the workers."""
        with self._changed:
            answers = self._pool.ask_statuses()
        return worker_statuses(answers)  # outside the lock, since it may take seconds

    def close(self) -> None:
        """Ends the workers. Games under way are lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.close()

    def _put_to_sleep(self) -> None:
        """Waits until no engine of a ready worker holds memory that the learner could use."""
        with self._changed:
            tasks = [Sleep(limit=self._cluster.worker_seconds) for _ in self._pool.ready]
            for worker, task in zip(self._pool.ready, tasks, strict=True):
                self._pool.assign(worker, task)
            self._changed.notify_all()
        self._wait(lambda: all(task.done for task in tasks))

    def _newest(self) -> WeightsHandle:
        if self._weights is None:
            raise RuntimeError("the workers have no weights; call receive_weights before the first step or evaluation")
        return self._weights

    def _wait(self, condition: Callable[[], Any]) -> Any:
        """Waits until `condition()` is neither None nor False; the pool's timeouts make sure that this ends."""
        with self._changed:
            while True:
                if self._failure is not None:
                    raise self._failure
                found = condition()
                if found is not None and found is not False:
                    return found
                if not self._thread.is_alive():
                    raise RuntimeError("the rollout workers were closed before their games ended")
                self._changed.wait(timeout=1.0)

    def _queue_steps(self, step: int) -> None:
        """Queues every step up to as many ahead of `step` as the schedule allows."""
        last = step + self._cluster.steps_ahead
        if self._last_step is not None:
            last = max(step, min(last, self._last_step))
        self._queue.turns_per_game = self._matchmaker.turns_per_game
        begin = step if self._queue.last_step is None else self._queue.last_step + 1
        for following in range(begin, last + 1):
            weights = None if self._cluster.schedule == "async" else self._newest()
            self._queue.add_step(following, self._matchmaker.pairings(following), weights)
        self._assign_tasks()

    def _assign_tasks(self) -> None:
        """Gives tasks to workers until none has room or no task is left; calls of the policy go first."""
        while (worker := self._pool.least_busy(self._max_assigned)) is not None:
            task: Task
            if self._calls:
                task = self._calls.popleft()
            elif (chunk := self._queue.next_chunk()) is not None:
                weights = chunk.weights or self._newest()
                task = Play(chunk=chunk, weights=weights, limit=self._cluster.worker_seconds)
            else:
                break
            self._pool.assign(worker, task)
        self._changed.notify_all()

    def _return_task(self, task: Task) -> None:
        """Takes back the unfinished task of a lost worker."""
        if isinstance(task, Play):
            self._queue.return_chunk(task.chunk)
        elif isinstance(task, PolicyCall):
            self._calls.appendleft(task)
        elif isinstance(task, Sleep):
            task.done = True
            self._changed.notify_all()

    def _work(self) -> None:
        """The thread: waits for results, takes them, and assigns the next tasks."""
        ray = import_ray()

        try:
            while not self._closing:
                with self._changed:
                    pending = self._pool.pending()
                    if not pending:
                        self._changed.wait(timeout=POLL_SECONDS)
                done: list[Any] = []
                if pending:
                    ray.wait(pending, num_returns=1, timeout=POLL_SECONDS)
                    done, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
                with self._changed:
                    for worker, task, result in self._pool.take_results(done):
                        self._take_result(worker, task, result)
                    self._assign_tasks()
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take_result(self, worker: WorkerHandle, task: Task, result: Any) -> None:
        if isinstance(task, PolicyCall):
            task.result, task.done = result, True
            return
        if isinstance(task, Sleep):
            task.done = True
            return
        assert isinstance(task, Play)
        results, fault = self._read(task, result)
        if fault is not None:
            self._queue.return_chunk(task.chunk)
            self._pool.replace(worker, f"returned an impossible result for {task}: {fault}")
            return
        episodes = [episode for _, episode in results]
        if self._queue.finish(task.chunk, episodes):
            self._metrics.count_tokens(worker.number, count_tokens(episodes))

    def _read(self, task: Play, result: Any) -> tuple[list[tuple[int, Episode]], str | None]:
        """The result of a chunk as `(index, episode)` pairs, and the fault in it or None."""
        newest = self._newest().version if task.chunk.weights is None else task.weights.version
        versions = range(task.weights.version, newest + 1)
        try:
            results = pickle.loads(result)
            fault = check_results(results, task.chunk.indices)
            if fault is not None:
                return [], fault
            pairs = zip(task.chunk.pairings, results, strict=True)
            faults = (check_episode(e, self._matchmaker.match(p), self._vocabulary, versions) for p, (_, e) in pairs)
            return results, next((fault for fault in faults if fault is not None), None)
        except Exception as error:  # a record may be wrong in ways that no check foresees
            return [], f"it cannot be read: {type(error).__name__}: {error}"


def _new_matchmaker(
    selfplay: SelfPlayConfig, seed: int, cluster: ClusterConfig, curriculum: CurriculumConfig
) -> Matchmaker:
    """A matchmaker that lists the games of the steps and plays none, so that any policy will do."""
    policy = RandomPolicy()
    matchmaker = Matchmaker(policy, selfplay, seed, load_opponent=lambda _name, _game: policy, curriculum=curriculum)
    matchmaker.steps_ahead = cluster.steps_ahead
    return matchmaker


def _new_queue(selfplay: SelfPlayConfig, cluster: ClusterConfig) -> GameQueue | SampledQueue:
    """The queue for steps of a number of games, or of a number of turns to learn from."""
    if selfplay.samples_per_step:
        return SampledQueue(selfplay, cluster.rollout_workers, in_order=cluster.schedule != "async")
    return GameQueue(selfplay.episodes_per_step, cluster.rollout_workers)


class _StepMetrics:
    """Counts what the cluster does from one collected step to the next."""

    def __init__(self) -> None:
        self.last: Metrics = {}
        """The metrics of the last step."""
        self._begun = time.monotonic()
        self._busy: dict[int, tuple[WorkerHandle, float]] = {}
        self._tokens: dict[int, int] = {}
        self._publishing: Metrics = {}
        self.record_publishing(0.0, 0, 0)

    def count_tokens(self, worker: int, tokens: int) -> None:
        """Adds tokens that a worker has sampled."""
        self._tokens[worker] = self._tokens.get(worker, 0) + tokens

    def record_publishing(self, seconds: float, num_bytes: int, reached: int) -> None:
        """Takes how long weights took to be published, their size, and how many workers received a broadcast."""
        self._publishing = {
            "cluster/publish_s": seconds,
            "cluster/publish_bytes": float(num_bytes),
            "cluster/publish_reached": float(reached),
        }

    def end_step(
        self, episodes: Sequence[Episode], version: int, dropped: int, waited: float, pool: WorkerPool
    ) -> None:
        """Makes the metrics of a step, for whose episodes the learner waited `waited` seconds; begins the next step."""
        now = time.monotonic()
        seconds = max(now - self._begun, 1e-9)
        ages = turn_ages(episodes, version)
        self.last = {
            "cluster/workers": float(len(pool.ready)),
            "cluster/restarts": float(pool.restarts),
            "cluster/staleness": sum(ages) / max(1, len(ages)),
            "cluster/staleness_max": float(max(ages, default=0)),
            "cluster/dropped_turns": float(dropped),
            "cluster/wait_s": waited,
            **self._publishing,
        }
        for worker in pool.workers:
            known, before = self._busy.get(worker.number, (None, 0.0))
            busy = worker.busy(now)
            worked = busy - (before if known is worker else 0.0)
            self._busy[worker.number] = (worker, busy)
            rate = self._tokens.get(worker.number, 0) / seconds
            self.last[worker_key(worker.number, "tokens_per_s")] = rate
            self.last[worker_key(worker.number, "idle")] = min(1.0, max(0.0, 1 - worked / seconds))
        self._begun = now
        self._tokens.clear()
