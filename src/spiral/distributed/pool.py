"""The worker pool: the driver's view of the rollout workers, what is assigned to each, and which have to be replaced.

A worker is lost when its process dies, when it returns nothing for too long, when its code fails, or when its result
cannot be right. In every case it is killed, its tasks are reassigned, and a new worker gets its number, up to
`cluster.restarts` times. A worker for which Ray has no resources waits for them, as after the loss of a node; the
others continue without it.

Not safe for threads: the owner of a pool serialises the calls.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from spiral.distributed.game_queue import Chunk, describe_games
from spiral.distributed.rollout_worker import CHUNKS, EVALUATING, MAX_CHUNKS, MakePolicy, WorkerStatus, create_worker
from spiral.distributed.session import (
    CONTROL,
    ClusterError,
    end_actor,
    error_reason,
    import_ray,
    set_up_error,
    stacks_of,
)
from spiral.distributed.weights.base import TransportContext, WeightsHandle
from spiral.games.failures import UserCodeError
from spiral.policies.past_selves import EngineShare
from spiral.rollout.matchmaking import LoadOpponent, SelfPlayConfig
from spiral.runs.cluster import ClusterConfig

logger = logging.getLogger(__name__)

STATUS_SECONDS = 5.0
"""Timeout for a worker's status, which takes the worker no time."""
PLACING_SECONDS = 10.0
"""Time that the start of a run waits for workers without resources when others are ready."""


class Task(Protocol):
    """Work for one worker."""

    takes_errors: bool
    """Whether an exception of the worker's code is the result, instead of a reason to replace the worker."""

    @property
    def limit(self) -> float:
        """Seconds without a result after which the worker counts as stuck."""
        ...

    @property
    def games(self) -> int | None:
        """Number of games; None for work that a worker does alone."""
        ...

    def begin(self, actor: Any) -> Any:
        """Starts the work on an actor; returns a Ray reference to the result."""
        ...


@dataclasses.dataclass(kw_only=True, eq=False)
class Play:
    """Playing a chunk of games."""

    chunk: Chunk
    weights: WeightsHandle
    limit: float
    takes_errors: bool = False

    @property
    def games(self) -> int:
        """Number of games in the chunk."""
        return len(self.chunk.indices)

    def begin(self, actor: Any) -> Any:
        """Starts the games."""
        newest = self.chunk.weights is None
        play = actor.play.options(concurrency_group=CHUNKS)
        return play.remote(self.chunk.step, self.chunk.indices, self.chunk.pairings, self.weights, newest)

    def __str__(self) -> str:
        return str(self.chunk)


@dataclasses.dataclass(kw_only=True, eq=False)
class Sleep:
    """A task that releases the engine's memory until the next task."""

    limit: float
    takes_errors: bool = False
    done: bool = False
    games: None = None

    def begin(self, actor: Any) -> Any:
        """Puts the engine to sleep."""
        return actor.sleep.remote()

    def __str__(self) -> str:
        return "sleep"


@dataclasses.dataclass(kw_only=True, eq=False)
class PolicyCall:
    """Calling a function with the worker's policy, such as an evaluation."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    weights: WeightsHandle
    limit: float
    with_opponents: bool = False
    takes_errors: bool = True
    result: Any = None
    done: bool = False
    games: None = None

    def begin(self, actor: Any) -> Any:
        """Starts the call."""
        return actor.call_policy.remote(self.function, self.arguments, self.weights, self.with_opponents)

    def __str__(self) -> str:
        return f"the call of {getattr(self.function, '__name__', self.function)}"


@dataclasses.dataclass(kw_only=True, eq=False)
class WorkerHandle:
    """One rollout worker's process."""

    number: int
    actor: Any
    starting: Any
    """Ray reference to the end of the current stage of starting; None when the worker is ready."""
    stage: str = "placing"
    assigned: dict[Any, Task] = dataclasses.field(default_factory=dict)
    """Tasks by the Ray reference to their result."""
    since: float
    """Time of the last result, or of the first task after the worker was idle."""
    asked: float = 0.0
    """Time of the last question whether the worker evaluates, after it returned nothing for long."""
    evaluating: bool = False
    """The answer."""
    where: str = ""
    busy_seconds: float = 0.0
    busy_since: float = 0.0

    def __str__(self) -> str:
        return f"rollout worker {self.number}{self.where}"

    @property
    def games(self) -> int:
        """Number of assigned games."""
        return sum(task.games or 0 for task in self.assigned.values())

    def has_room(self, games: int) -> bool:
        """Whether it is ready, has fewer than `games` games assigned, and no task that it does alone."""
        alone = any(task.games is None for task in self.assigned.values())
        return self.starting is None and not alone and self.games < games and len(self.assigned) < MAX_CHUNKS

    def busy(self, now: float) -> float:
        """Seconds with a task assigned, since the worker was started."""
        return self.busy_seconds + (now - self.busy_since if self.assigned else 0.0)


class WorkerPool:
    """All rollout workers of a run, which are made alike."""

    def __init__(
        self,
        config: ClusterConfig,
        make_policy: MakePolicy,
        selfplay: SelfPlayConfig,
        seed: int,
        *,
        load_opponent: LoadOpponent,
        transport: TransportContext,
        return_task: Callable[[Task], None],
        placements: Sequence[Any] | None = None,
        share: EngineShare | None = None,
    ) -> None:
        """Starts the workers; does not wait.

        Args:
            config: Number of workers, their resources and their timeouts.
            make_policy: Makes a worker's policy; picklable.
            selfplay: The games of a step.
            seed: The seed of the run.
            load_opponent: Makes opponents by name; picklable.
            transport: How workers receive weights.
            return_task: Called with every unfinished task of a lost worker.
            placements: Ray's scheduling strategy of each worker.
            share: The opponents that play in the policy's engine on each worker; None without any.
        """
        self._config = config
        self._set_up = (
            make_policy,
            selfplay,
            seed,
            max(1, int(config.cpus_per_worker)),
            transport,
            load_opponent,
            share,
        )
        self._return_task = return_task
        self._placements = placements or ["SPREAD"] * config.rollout_workers
        self._ever_ready = False
        self._begun = self._none_ready_since = time.monotonic()
        self.restarts = 0
        self.workers = [self._new(number) for number in range(config.rollout_workers)]

    @property
    def ready(self) -> list[WorkerHandle]:
        """Workers that can be given tasks."""
        return [worker for worker in self.workers if worker.starting is None]

    @property
    def complete(self) -> bool:
        """Whether the run can begin: all workers are ready, or all for which Ray has resources."""
        waiting = [worker for worker in self.workers if worker.starting is not None]
        timed_out = time.monotonic() - self._begun > PLACING_SECONDS
        return bool(self.ready) and all(worker.stage == "placing" and timed_out for worker in waiting)

    def least_busy(self, games: int) -> WorkerHandle | None:
        """The worker with the fewest games, for the next task; None when all have `games` or more."""
        free = [worker for worker in self.workers if worker.has_room(games)]
        return min(free, key=lambda worker: worker.games, default=None)

    def assign(self, worker: WorkerHandle, task: Task) -> None:
        """Starts a task on a worker."""
        if not worker.assigned:
            worker.since = worker.busy_since = time.monotonic()
        worker.assigned[task.begin(worker.actor)] = task

    def announce(self, weights: WeightsHandle) -> None:
        """Makes new weights known to the games under way on every worker."""
        for worker in self.ready:
            worker.actor.announce_weights.options(concurrency_group=CONTROL).remote(weights)

    def pending(self) -> list[Any]:
        """Ray references to everything that the pool waits for."""
        starting = [worker.starting for worker in self.workers if worker.starting is not None]
        return starting + [ref for worker in self.workers for ref in worker.assigned]

    def take_results(self, done: Sequence[Any]) -> list[tuple[WorkerHandle, Task, Any]]:
        """Takes the results among the references `done`, and replaces workers that failed or are stuck.

        Returns:
            A `(worker, task, result)` for every finished task.

        Raises:
            ValueError or RuntimeError: the run cannot continue.
        """
        finished = set(done)
        results: list[tuple[WorkerHandle, Task, Any]] = []
        for worker in list(self.workers):
            if worker.starting in finished:
                self._next_stage(worker)
            for ref in [ref for ref in worker.assigned if ref in finished]:
                result = self._result(worker, ref) if ref in worker.assigned else None
                if result is not None:
                    results.append(result)
        self._replace_stuck_workers()
        return results

    def replace(self, worker: WorkerHandle, cause: str) -> None:
        """Replaces a worker, unless that has been done.

        Raises:
            ClusterError: more workers were lost than `cluster.restarts` allows.
        """
        if worker not in self.workers:
            return
        end_actor(worker.actor)
        tasks = list(worker.assigned.values())
        worker.assigned.clear()
        self.restarts += 1
        if self.restarts > self._config.restarts:
            raise ClusterError(
                f"{self.restarts} rollout workers were lost, and cluster.restarts allows {self._config.restarts};"
                f" the last one: {worker} {cause}"
            )
        logger.warning(
            "%s %s. It is replaced (restart %d of at most %d)%s",
            worker, cause, self.restarts, self._config.restarts,
            f"; its tasks are reassigned: {_describe(tasks)}" if tasks else "",
        )  # fmt: skip
        self.workers[self.workers.index(worker)] = self._new(worker.number)
        for task in tasks:
            self._return_task(task)
        if not self.ready:
            self._none_ready_since = time.monotonic()

    def replace_stuck(self, worker: WorkerHandle, cause: str) -> None:
        """Logs the stacks of a worker that does not answer, and replaces it."""
        logger.warning("%s is stuck; its threads:\n%s", worker, stacks_of(worker.actor, STATUS_SECONDS))
        self.replace(worker, cause)

    def ask_statuses(self) -> list[Any]:
        """Asks the ready workers for their status; returns references for `worker_statuses`."""
        return [worker.actor.status.options(concurrency_group=CONTROL).remote() for worker in self.ready]

    def close(self) -> None:
        """Ends every worker."""
        for worker in self.workers:
            end_actor(worker.actor)
        self.workers = []

    def _new(self, number: int) -> WorkerHandle:
        actor = create_worker(number, self._config, self._placements[number])
        placed = actor.status.options(concurrency_group=CONTROL).remote()
        return WorkerHandle(number=number, actor=actor, starting=placed, since=time.monotonic())

    def _next_stage(self, worker: WorkerHandle) -> None:
        """Moves a worker from being placed to loading the model, and from there to being ready."""
        ray = import_ray()

        worker.since = time.monotonic()
        try:
            answer = ray.get(worker.starting, timeout=STATUS_SECONDS)
        except ray.exceptions.RayTaskError as error:
            if not self._ever_ready:
                raise set_up_error(worker, error) from None
            self.replace(worker, f"could not be set up: {error_reason(error)}")
            return
        except Exception as error:  # Ray has many exceptions for a process or node that has ended
            self.replace(worker, f"died while {worker.stage}: {error_reason(error)}")
            return
        if worker.stage == "placing":
            worker.where = f" (process {answer.pid} on {answer.host})"
            worker.stage = "loading the model"
            worker.starting = worker.actor.set_up.remote(*self._set_up)
        else:
            worker.starting = None
            self._ever_ready = True

    def _result(self, worker: WorkerHandle, ref: Any) -> tuple[WorkerHandle, Task, Any] | None:
        """Removes a finished task from a worker and returns it with its result; None when the worker failed at it."""
        ray = import_ray()

        task = worker.assigned[ref]
        now = time.monotonic()
        try:
            result = ray.get(ref, timeout=self._config.worker_seconds)
        except Exception as error:  # a worker may raise anything
            if isinstance(error, ray.exceptions.RayTaskError) and task.takes_errors:
                result = error.cause
            elif isinstance(cause := getattr(error, "cause", None), ClusterError | UserCodeError):
                raise cause from None  # not this worker's failure: another worker would fail in the same way
            else:
                self.replace(worker, f"failed at {task}: {error_reason(error)}")
                return None
        del worker.assigned[ref]
        worker.since = now
        if not worker.assigned:
            worker.busy_seconds += now - worker.busy_since
        return worker, task, result

    def _replace_stuck_workers(self) -> None:
        ray = import_ray()

        now = time.monotonic()
        for worker in list(self.workers):
            if worker.starting is None and worker.assigned:
                limits = {task.limit: f"result of {task}" for task in worker.assigned.values()}
                awaited = list(worker.assigned)
            elif worker.starting is not None and worker.stage != "placing":
                limits = {self._config.learner_seconds: f"end of {worker.stage}"}
                awaited = [worker.starting]
            else:
                continue
            # This process may have been suspended itself, while the result was there all the time.
            if now - worker.since > min(limits) and not ray.wait(awaited, timeout=0)[0]:
                limit = self._patience(worker, min(limits), now)
                if now - worker.since >= limit:
                    self.replace_stuck(worker, f"gave no {limits[limit]} in {limit:g} s")
        if self.ready:
            self._none_ready_since = now
        elif now - self._none_ready_since > self._config.learner_seconds:
            raise ClusterError(self._no_worker_message())

    def _patience(self, worker: WorkerHandle, limit: float, now: float) -> float:
        """Seconds without a result after which a worker is stuck: more than its games' `limit` while it evaluates."""
        longest = max((task.limit for task in worker.assigned.values()), default=limit)
        if longest == limit:
            return limit
        if now - worker.asked > limit:
            worker.asked = now
            statuses = worker_statuses([worker.actor.status.options(concurrency_group=CONTROL).remote()])
            worker.evaluating = any(status.doing == EVALUATING for status in statuses)
        return longest if worker.evaluating else limit

    def _no_worker_message(self) -> str:
        ray = import_ray()

        stages = ", ".join(f"{worker} is still {worker.stage}" for worker in self.workers)
        total = ray.cluster_resources()
        return (
            f"this process waited {self._config.learner_seconds:g} s for a rollout worker: {stages}. Each needs"
            f" {self._config.cpus_per_worker:g} CPUs and {self._config.gpus_per_worker:g} GPUs; Ray has"
            f" {total.get('CPU', 0):g} and {total.get('GPU', 0):g} in total"
        )


def worker_statuses(asked: Sequence[Any]) -> list[WorkerStatus]:
    """Waits up to `STATUS_SECONDS` for statuses and leaves out workers that do not answer; needs no lock of the pool.

    Args:
        asked: References from `WorkerPool.ask_statuses`.
    """
    ray = import_ray()

    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=STATUS_SECONDS) if asked else ([], [])
    found: list[WorkerStatus] = []
    for ref in done:
        try:
            found.append(ray.get(ref))
        except ray.exceptions.RayError:
            continue
    return found


def _describe(tasks: Sequence[Task]) -> str:
    """For example "7 games of step 3, the call of evaluate_run"."""
    games: Counter[int] = Counter()
    for task in tasks:
        if isinstance(task, Play):
            games[task.chunk.step] += task.games
    by_step = [describe_games(count, step) for step, count in sorted(games.items())]
    return ", ".join(by_step + [str(task) for task in tasks if task.games is None])
