"""The driver's side of a broadcast: who takes part, how long it may last, and who is left without.

The learner keeps a version's weights (`weight_sync.Sender`) and the driver has them sent to the workers that are ready.
The group of sender and receivers lasts as long as its members do. Whoever dies is noticed at once and whoever is
stopped at `cluster.worker_seconds`; then the others are sent home, and the next version is sent to a new group of those
who are there. A worker that did not get a version asks the learner for a copy in the object store when it needs it, as
does one that came later, or that is to play again with weights it has no more.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

from spiral.distributed.learner import learner_failure
from spiral.distributed.pool import WorkerHandle
from spiral.distributed.session import CONTROL, LearnerLostError, error_reason, import_ray
from spiral.distributed.weights.base import Source, WeightsHandle
from spiral.distributed.weights.broadcast import Meeting
from spiral.distributed.weights.sync import WEIGHTS
from spiral.runs.cluster import ClusterConfig

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""How much later than its limit a process may say that it has come to it."""
ATTEMPTS = 3
"""Broadcasts in a row that reach nobody, after which the run makes no more of them."""


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """What became of a broadcast."""

    reached: list[WorkerHandle] = dataclasses.field(default_factory=list)
    """Who has the weights."""
    missed: dict[WorkerHandle, str] = dataclasses.field(default_factory=dict)
    """Who has not and is well, and why not."""
    lost: dict[WorkerHandle, str] = dataclasses.field(default_factory=dict)
    """Who died meanwhile."""
    stuck: dict[WorkerHandle, str] = dataclasses.field(default_factory=dict)
    """Who does not answer."""

    @property
    def troubles(self) -> dict[WorkerHandle, str]:
        """Who has not got the weights, for whatever reason."""
        return self.missed | self.lost | self.stuck


class Publisher:
    """Has weights broadcast to workers."""

    def __init__(self, config: ClusterConfig) -> None:
        self._local = config.address == "local"
        self._seconds = min(config.worker_seconds, config.learner_seconds)
        self._learner_seconds = config.learner_seconds
        self._members: list[WorkerHandle] = []
        self._source: Source | None = None
        self._place = ("", 0)
        self._generation = 0
        self._in_vain = 0

    def publish(self, handle: WeightsHandle, members: Sequence[WorkerHandle]) -> Outcome:
        """Sends weights to these workers; returns when all have them or it is known who has not.

        Raises `LearnerLostError`, or what the sender raised, when it is at fault.
        """
        assert handle.source is not None
        assert handle.source.device is not None
        outcome = Outcome()
        if not members or self._in_vain >= ATTEMPTS:
            return outcome
        self._meet(handle.source, members)
        meeting = Meeting(
            generation=self._generation, rank=0, size=len(members) + 1, address=self._place[0], port=self._place[1],
            local=self._local, device=handle.source.device, seconds=self._seconds,
        )  # fmt: skip
        sending = handle.source.actor.send_weights.remote(handle.version, meeting)
        receiving = {
            worker.actor.receive_weights.options(concurrency_group=WEIGHTS).remote(
                handle.version, dataclasses.replace(meeting, rank=rank)
            ): worker
            for rank, worker in enumerate(members, start=1)
        }
        self._watch(handle.source, sending, receiving, outcome)
        fault = _learner_answer(sending, "send_weights", self._learner_seconds)
        if fault is not None or outcome.troubles:
            self._members = []
            self._tell(handle.version, fault, outcome)
        self._in_vain = 0 if outcome.reached else self._in_vain + 1
        return outcome

    def _meet(self, source: Source, members: Sequence[WorkerHandle]) -> None:
        """Another number where the group is not the one of before."""
        if source != self._source:
            asked = source.actor.broadcast_place.remote(self._local, self._seconds)
            self._place = _learner_answer(asked, "broadcast_place", self._learner_seconds)
            self._source, self._members = source, []
        if self._members != list(members):
            self._generation += 1
            self._members = list(members)

    def _watch(self, source: Source, sending: Any, receiving: dict[Any, WorkerHandle], outcome: Outcome) -> None:
        """Waits until sender and receivers have answered, or the receivers' time is up."""
        ray = import_ray()

        end = time.monotonic() + self._seconds + GRACE_SECONDS
        pending, abandoned = [sending, *receiving], False
        while pending and time.monotonic() < end:
            done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, end - time.monotonic()))
            for ref in done:
                if ref in receiving:
                    _sort(receiving[ref], ref, outcome)
            failed = bool(outcome.troubles) or (sending in done and _failed(sending))
            if failed and not abandoned:
                abandoned = True
                source.actor.abandon.options(concurrency_group=CONTROL).remote(self._generation)
        for ref in pending:
            if ref in receiving:
                outcome.stuck[receiving[ref]] = f"did not say within {self._seconds:g} s that it has new weights"

    def _tell(self, version: int, fault: str | None, outcome: Outcome) -> None:
        troubles = [f"{worker}: {why}" for worker, why in outcome.troubles.items()]
        troubles += [f"learner worker 0: {fault}"] if fault is not None else []
        count = len(outcome.reached) + len(outcome.troubles)
        last = not outcome.reached and self._in_vain + 1 >= ATTEMPTS
        logger.warning(
            "weights of version %d reached %d of %d rollout workers by broadcast (%s); the others take them from the"
            " object store%s",
            version, len(outcome.reached), count, "; ".join(troubles),
            f", as all will from now on, after {ATTEMPTS} broadcasts that reached nobody" if last else "",
        )  # fmt: skip


def _sort(worker: WorkerHandle, ref: Any, outcome: Outcome) -> None:
    """Puts a worker where its answer says."""
    ray = import_ray()

    try:
        fault = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        outcome.missed[worker] = error_reason(error)
    except ray.exceptions.RayError as error:
        outcome.lost[worker] = f"died while weights were sent: {error_reason(error)}"
    else:
        if fault is None:
            outcome.reached.append(worker)
        else:
            outcome.missed[worker] = fault


def _failed(sending: Any) -> bool:
    """Whether the sender has given up."""
    ray = import_ray()

    try:
        return ray.get(sending) is not None
    except ray.exceptions.RayError:
        return True


def _learner_answer(ref: Any, method: str, seconds: float) -> Any:
    """What rank 0 of the learner answers."""
    ray = import_ray()

    if not ray.wait([ref], timeout=seconds)[0]:
        raise LearnerLostError(f"this process waited {seconds:g} s for learner worker 0 to end {method}")
    failure = learner_failure(0, ref, method)
    if failure is not None:
        raise failure
    return ray.get(ref)
