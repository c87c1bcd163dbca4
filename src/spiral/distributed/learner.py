"""The learner spread over a cluster: an `Updater` whose ranks are Ray actors.

    learner = ClusterLearner(recipe, config, checkpoint, placement=placement)     # the ranks begin to start
    learner.wait()                                                                # they have loaded the model

Every call goes to all ranks and has a limit. A rank that dies, hangs or loses the others takes the whole group with it:
`LearnerLostError`, after which the run goes back to its last checkpoint (`spiral.launch.execute`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from spiral.core.locks import Claim
from spiral.core.metrics import Metrics
from spiral.core.records import FloatArray
from spiral.distributed.learner_worker import LearnerWorker
from spiral.distributed.placement import Placement
from spiral.distributed.session import CONTROL, LearnerLostError, end_actor, error_reason, import_ray, stacks_of
from spiral.distributed.weights.base import Source, WeightsHandle
from spiral.distributed.weights.sync import WEIGHTS, broadcast_device, way
from spiral.runs.cluster import ClusterConfig
from spiral.runs.recipe import Recipe
from spiral.training.batch import Batch
from spiral.training.process_group import GroupError

logger = logging.getLogger(__name__)

STACK_SECONDS = 5.0
PROCESS_SECONDS = 60.0
"""How long a rank has for a short answer, which a thread of its own gives."""
CAUSE_SECONDS = 2.0
"""How long the ranks have, after one has failed, for an error of their own."""


class ClusterLearner:
    """Owns the learner workers."""

    def __init__(
        self,
        recipe: Recipe,
        cluster: ClusterConfig,
        checkpoint: Path | None = None,
        *,
        placement: Placement,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Begins to start the workers; a Ray must be connected. Weights are published in `dtype`, else in float32."""
        self._cluster = cluster
        self._dtype = dtype
        gpus = min(placement.rank_gpus)
        self._way = way(cluster, gpus)
        self._broadcast_device = broadcast_device(cluster, gpus) if self._way == "broadcast" else None
        self._lenders: Mapping[str, Any] = {}
        ray = import_ray()
        actor_class = ray.remote(
            num_cpus=cluster.cpus_per_worker,
            max_restarts=0,  # a new rank would be of no use to the others
            concurrency_groups={CONTROL: 1, WEIGHTS: 1},
        )(LearnerWorker)
        self._workers = [
            actor_class.options(num_gpus=share, scheduling_strategy=place).remote(rank, cluster.learner_workers)
            for rank, (share, place) in enumerate(zip(placement.rank_gpus, placement.ranks, strict=True))
        ]
        met = self._workers[0].meeting_place.remote(cluster.address == "local")
        threads = max(1, int(cluster.cpus_per_worker))
        self._starting = [
            worker.set_up.remote(recipe, checkpoint, met, threads, cluster.learner_seconds) for worker in self._workers
        ]
        self.state: dict[str, Any] = {}
        """What the checkpoint holds beside weights."""
        self.version = 0

    def wait(self) -> None:
        """Returns when the workers have loaded the model.

        Raises `ValueError` or `RuntimeError` with a worker's own words when it cannot be set up.
        """
        self.state, *_ = self._wait(self._starting, "set_up", self._cluster.learner_seconds)
        self.version = int(self.state.get("version", 0))
        if self._way == "ipc":
            self._lenders = self._begin_lending()

    def score(self, batch: Batch) -> FloatArray:
        """[A] the log-probabilities of a batch's action tokens, computed as in an update."""
        ray = import_ray()
        scores, *_ = self._all("score", ray.put(batch), seconds=self._cluster.learner_seconds)
        return cast(FloatArray, scores)

    def update(self, batch: Batch | None) -> Metrics:
        """One update by all ranks."""
        ray = import_ray()
        (version, metrics), *_ = self._all("update", ray.put(batch), seconds=self._cluster.learner_seconds)
        self.version = version
        return cast(Metrics, metrics)

    def publish(self) -> WeightsHandle:
        """Makes the current weights available to rollout workers; returns what `ClusterCollector` needs to get them."""
        begun, seconds = time.monotonic(), self._cluster.learner_seconds
        if self._way != "object_store":
            size, *_ = self._all("keep_weights", self._dtype, self._cluster.steps_ahead + 1, seconds=seconds)
            source = Source(actor=self._workers[0], device=self._broadcast_device, lenders=self._lenders)
            return self._handle(begun, size, source=source)
        answers = [worker.weights.options(num_returns=2).remote(self._dtype) for worker in self._workers]
        sizes = self._wait([size for size, _ in answers], "weights", seconds)
        return self._handle(begun, sizes[0], ref=answers[0][1])

    def save(self, root: Path, state: dict[str, Any], keep: int, claim: Claim | None = None) -> None:
        """Writes a checkpoint under `root`, which all ranks must be able to reach, while `claim` holds."""
        self._all("save", root, state, keep, claim, seconds=self._cluster.learner_seconds)

    def processes(self) -> list[int]:
        """The ranks' processes, by rank."""
        asked = [worker.process.options(concurrency_group=CONTROL).remote() for worker in self._workers]
        return [int(pid) for pid in self._wait(asked, "process", PROCESS_SECONDS)]

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            end_actor(worker)
        self._workers = []

    def _begin_lending(self) -> dict[str, Any]:
        """One rank for each place where a rollout worker may read."""
        seconds = self._cluster.learner_seconds
        places = self._all("lending_place", seconds=seconds)[: self._cluster.rollout_workers]
        lenders = {place: self._workers[places.index(place)] for place in places}
        self._wait([worker.lend.remote() for worker in lenders.values()], "lend", seconds)
        return lenders

    def _handle(self, begun: float, num_bytes: int, **where: Any) -> WeightsHandle:
        spent = time.monotonic() - begun
        return WeightsHandle(version=self.version, num_bytes=num_bytes, seconds=spent, **where)

    def _all(self, method: str, *arguments: Any, seconds: float) -> list[Any]:
        """What every rank answers."""
        return self._wait([getattr(worker, method).remote(*arguments) for worker in self._workers], method, seconds)

    def _wait(self, refs: list[Any], method: str, seconds: float) -> list[Any]:
        """Waits for all ranks, and no longer for the others when one has failed."""
        ray = import_ray()
        end, pending = time.monotonic() + seconds, list(refs)
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, end - time.monotonic()))
            if not done:
                raise self._stuck([refs.index(ref) for ref in pending], method, seconds)
            failure = learner_failure(refs.index(done[0]), done[0], method)
            if failure is not None:
                others = [(refs.index(ref), ref) for ref in pending]
                raise _cause(failure, others, method)
        return [ray.get(ref) for ref in refs]

    def _stuck(self, ranks: list[int], method: str, seconds: float) -> LearnerLostError:
        """Tells where the threads of those are who gave no answer."""
        for rank in ranks:
            said = stacks_of(self._workers[rank], STACK_SECONDS)
            logger.warning("learner worker %d is stuck; its threads:\n%s", rank, said)
        who = ", ".join(map(str, ranks))
        return LearnerLostError(f"this process waited {seconds:g} s for learner worker {who} to end {method}")


def learner_failure(rank: int, ref: Any, method: str) -> Exception | None:
    """What is to be raised for an answer: the worker's own error, or that it is lost."""
    ray = import_ray()
    try:
        ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GroupError) or not isinstance(cause, Exception):
            return LearnerLostError(f"learner worker {rank} failed at {method}: {error_reason(error)}")
        return cause
    except ray.exceptions.RayError as error:
        return LearnerLostError(f"learner worker {rank} died at {method}: {error_reason(error)}")
    return None


def _cause(failure: Exception, others: Sequence[tuple[int, Any]], method: str) -> Exception:
    """One rank's failure, or the error of another one for which it waited in vain: a full disk is no lost learner."""
    if not isinstance(failure, LearnerLostError) or not others:
        return failure
    ray = import_ray()
    done, _ = ray.wait([ref for _, ref in others], num_returns=len(others), timeout=CAUSE_SECONDS)
    failures = [learner_failure(rank, ref, method) for rank, ref in others if ref in done]
    own = [error for error in failures if error is not None and not isinstance(error, LearnerLostError)]
    return own[0] if own else failure
