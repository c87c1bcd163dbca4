"""The rollout workers as the driver sees them: who is ready, who has what in hand, who is lost.

A worker is lost when its process dies, when it gives nothing back for too long, when its code fails, or when what it
gives cannot be right. Whatever the cause, the same happens: it is killed, what it had in hand is handed back to be
done elsewhere, and a new one takes its number, up to a limit. A worker for which Ray has no place waits for one, as
after the loss of a node; the others go on without it.

Not safe for threads: whoever owns a crew keeps its calls apart.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from spiral.distributed.game_queue import games_of_step
from spiral.distributed.rollout_worker import MEASURING, MOST_CHUNKS, MakePolicy, WorkerStatus, create_worker
from spiral.distributed.session import (
    CONTROL,
    ClusterError,
    end_actor,
    error_reason,
    import_ray,
    set_up_error,
    stacks_of,
)
from spiral.distributed.tasks import Play, Task
from spiral.distributed.weights.base import WeightsHandle
from spiral.games.failures import UserCodeError
from spiral.rollout.matchmaking import LoadOpponent, SelfPlayConfig
from spiral.runs.cluster import ClusterConfig

logger = logging.getLogger(__name__)

STATUS_SECONDS = 5.0
"""How long a worker has for saying what it is doing, which takes it no time."""
PLACING_SECONDS = 10.0
"""How long the start of a run waits for workers that Ray has no place for, when it has others."""


@dataclasses.dataclass(kw_only=True, eq=False)
class Member:
    """One worker's process. `starting` refers to the end of its present stage of starting; None when it is ready."""

    number: int
    actor: Any
    starting: Any
    stage: str = "placing"
    hand: dict[Any, Task] = dataclasses.field(default_factory=dict)
    """What it has to do, by the reference to the answer."""
    since: float
    """When it last gave something, or got the first task in an empty hand."""
    asked: float = 0.0
    measures: bool = False
    """Whether it was measuring when it was `asked`, having given nothing for long."""
    where: str = ""
    busy_seconds: float = 0.0
    busy_since: float = 0.0

    def __str__(self) -> str:
        return f"rollout worker {self.number}{self.where}"

    @property
    def games(self) -> int:
        """Games in hand."""
        return sum(task.games or 0 for task in self.hand.values())

    def has_room(self, games: int) -> bool:
        """Whether it can be given more: fewer than `games` in hand, and nothing that it does alone."""
        alone = any(task.games is None for task in self.hand.values())
        return self.starting is None and not alone and self.games < games and len(self.hand) < MOST_CHUNKS

    def busy(self, now: float) -> float:
        """Seconds with something in hand so far."""
        return self.busy_seconds + (now - self.busy_since if self.hand else 0.0)


class Crew:
    """As many rollout workers as the configuration says, all made alike."""

    def __init__(
        self,
        config: ClusterConfig,
        make_policy: MakePolicy,
        selfplay: SelfPlayConfig,
        seed: int,
        *,
        seat: LoadOpponent,
        hand_back: Callable[[Task], None],
        placements: Sequence[Any] | None = None,
    ) -> None:
        """Begins to start the workers. `hand_back` gets every task of a worker that is lost.

        `placements` are Ray's scheduling strategies, one for each worker's number.
        """
        self._config = config
        self._set_up = (make_policy, selfplay, seed, max(1, int(config.cpus_per_worker)), config.worker_seconds, seat)
        self._hand_back = hand_back
        self._placements = placements or ["SPREAD"] * config.rollout_workers
        self._ever_ready = False
        self._begun = self._none_ready_since = time.monotonic()
        self.restarts = 0
        self.members = [self._new(number) for number in range(config.rollout_workers)]

    @property
    def ready(self) -> list[Member]:
        """Workers that can be given tasks."""
        return [member for member in self.members if member.starting is None]

    @property
    def complete(self) -> bool:
        """Whether the run can begin: all are ready, or all that Ray has a place for."""
        waiting = [member for member in self.members if member.starting is not None]
        hopeless = time.monotonic() - self._begun > PLACING_SECONDS
        return bool(self.ready) and all(member.stage == "placing" and hopeless for member in waiting)

    def least_busy(self, games: int) -> Member | None:
        """Who gets the next task: whoever has the fewest games; None when all have `games` or more in hand."""
        free = [member for member in self.members if member.has_room(games)]
        return min(free, key=lambda member: member.games, default=None)

    def give(self, member: Member, task: Task) -> None:
        """Puts a task into a worker's hand."""
        if not member.hand:
            member.since = member.busy_since = time.monotonic()
        member.hand[task.begin(member.actor)] = task

    def tell(self, weights: WeightsHandle) -> None:
        """Tells every worker of new weights."""
        for member in self.ready:
            member.actor.load_weights.options(concurrency_group=CONTROL).remote(weights)

    def pending(self) -> list[Any]:
        """References to everything that is waited for."""
        starting = [member.starting for member in self.members if member.starting is not None]
        return starting + [ref for member in self.members for ref in member.hand]

    def settle(self, done: Sequence[Any]) -> list[tuple[Member, Task, Any]]:
        """Answers among `done`, as `(worker, task, answer)`; looks after workers that start, fail or are stuck.

        Raises `ValueError` or `RuntimeError` when the run cannot go on.
        """
        finished = set(done)
        answers: list[tuple[Member, Task, Any]] = []
        for member in list(self.members):
            if member.starting in finished:
                self._next_stage(member)
            for ref in [ref for ref in member.hand if ref in finished]:
                answer = self._answer(member, ref) if ref in member.hand else None
                if answer is not None:
                    answers.append(answer)
        self._look_for_stuck()
        return answers

    def lose(self, member: Member, cause: str) -> None:
        """Replaces a worker. Raises `ClusterError` when that was done too often already."""
        if member not in self.members:
            return
        end_actor(member.actor)
        tasks = list(member.hand.values())
        member.hand.clear()
        self.restarts += 1
        if self.restarts > self._config.restarts:
            raise ClusterError(
                f"{self.restarts} rollout workers were lost, and cluster.restarts allows for {self._config.restarts};"
                f" the last one: {member} {cause}"
            )
        logger.warning(
            "%s %s. It is replaced (%d of at most %d times)%s",
            member, cause, self.restarts, self._config.restarts,
            f", and done again elsewhere: {_told(tasks)}" if tasks else "",
        )  # fmt: skip
        self.members[self.members.index(member)] = self._new(member.number)
        for task in tasks:
            self._hand_back(task)
        if not self.ready:
            self._none_ready_since = time.monotonic()

    def lose_stuck(self, member: Member, cause: str) -> None:
        """Replaces a worker that does not answer, having told where its threads are."""
        logger.warning("%s is stuck; its threads:\n%s", member, stacks_of(member.actor, STATUS_SECONDS))
        self.lose(member, cause)

    def ask(self) -> list[Any]:
        """Asks the ready workers what they are doing: references for `answers`."""
        return [member.actor.status.options(concurrency_group=CONTROL).remote() for member in self.ready]

    def close(self) -> None:
        """Ends every worker."""
        for member in self.members:
            end_actor(member.actor)
        self.members = []

    def _new(self, number: int) -> Member:
        actor = create_worker(number, self._config, self._placements[number])
        placed = actor.status.options(concurrency_group=CONTROL).remote()
        return Member(number=number, actor=actor, starting=placed, since=time.monotonic())

    def _next_stage(self, member: Member) -> None:
        """From being placed to loading the model, and from there to being ready."""
        ray = import_ray()

        member.since = time.monotonic()
        try:
            answer = ray.get(member.starting, timeout=STATUS_SECONDS)
        except ray.exceptions.RayTaskError as error:
            if not self._ever_ready:
                raise set_up_error(member, error) from None
            self.lose(member, f"could not be set up: {error_reason(error)}")
            return
        except Exception as error:  # Ray has many kinds for a process or node that is gone
            self.lose(member, f"died while {member.stage}: {error_reason(error)}")
            return
        if member.stage == "placing":
            member.where = f" (process {answer.pid} on {answer.host})"
            member.stage = "loading the model"
            member.starting = member.actor.set_up.remote(*self._set_up)
        else:
            member.starting = None
            self._ever_ready = True

    def _answer(self, member: Member, ref: Any) -> tuple[Member, Task, Any] | None:
        """Takes a task out of a hand with its answer; None when the worker failed at it."""
        ray = import_ray()

        task = member.hand[ref]
        now = time.monotonic()
        try:
            answer = ray.get(ref, timeout=self._config.worker_seconds)
        except Exception as error:  # what is raised in a worker may be anything
            if isinstance(error, ray.exceptions.RayTaskError) and task.takes_errors:
                answer = error.cause
            elif isinstance(cause := getattr(error, "cause", None), ClusterError | UserCodeError):
                raise cause from None  # not this worker's failure; another worker would fail alike
            else:
                self.lose(member, f"failed at {task}: {error_reason(error)}")
                return None
        del member.hand[ref]
        member.since = now
        if not member.hand:
            member.busy_seconds += now - member.busy_since
        return member, task, answer

    def _look_for_stuck(self) -> None:
        ray = import_ray()

        now = time.monotonic()
        for member in list(self.members):
            if member.starting is None and member.hand:
                limit, what = min((task.limit, f"answer to {task}") for task in member.hand.values())
                waited_for = list(member.hand)
            elif member.starting is not None and member.stage != "placing":
                waited_for, limit, what = [member.starting], self._config.learner_seconds, f"end of {member.stage}"
            else:
                continue
            # This process may have been held up itself, with the answer there all the time.
            if now - member.since > limit and not ray.wait(waited_for, timeout=0)[0]:
                if now - member.since < self._patience(member, limit, now):
                    continue
                self.lose_stuck(member, f"gave no {what} in {limit:g} s")
        if self.ready:
            self._none_ready_since = now
        elif now - self._none_ready_since > self._config.learner_seconds:
            raise ClusterError(self._nobody())

    def _patience(self, member: Member, limit: float, now: float) -> float:
        """How long a worker may give nothing: longer than its games' `limit` while it measures."""
        longest = max((task.limit for task in member.hand.values()), default=limit)
        if longest == limit:
            return limit
        if now - member.asked > limit:
            member.asked = now
            said = answers([member.actor.status.options(concurrency_group=CONTROL).remote()])
            member.measures = any(status.doing == MEASURING for status in said)
        return longest if member.measures else limit

    def _nobody(self) -> str:
        ray = import_ray()

        stages = ", ".join(f"{member} is still {member.stage}" for member in self.members)
        have = ray.cluster_resources()
        return (
            f"this process waited {self._config.learner_seconds:g} s for a rollout worker: {stages}. Each needs"
            f" {self._config.cpus_per_worker:g} CPUs and {self._config.gpus_per_worker:g} GPUs; Ray has"
            f" {have.get('CPU', 0):g} and {have.get('GPU', 0):g} in all"
        )


def _told(tasks: Sequence[Task]) -> str:
    """What these are in all."""
    games: Counter[int] = Counter()
    for task in tasks:
        if isinstance(task, Play):
            games[task.chunk.step] += task.games
    told = [games_of_step(count, step) for step, count in sorted(games.items())]
    return ", ".join(told + [str(task) for task in tasks if task.games is None])


def answers(asked: Sequence[Any]) -> list[WorkerStatus]:
    """What workers say they are doing; one that does not answer is left out. Needs no crew, and may take seconds."""
    ray = import_ray()

    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=STATUS_SECONDS) if asked else ([], [])
    found: list[WorkerStatus] = []
    for ref in done:
        try:
            found.append(ray.get(ref))
        except ray.exceptions.RayError:
            continue
    return found
