"""The learner spread over a cluster: an `Updater` whose ranks are Ray actors.

    learner = ClusterLearner(recipe, transport, checkpoint, placement=placement)  # the ranks begin to start
    learner.wait()                                                                # they have loaded the model

Every call goes to all ranks and has a timeout. A rank that dies, hangs or loses the others takes the whole group with
it: `LearnerLostError`, after which the run goes back to its last checkpoint (`spiral.launch.execute`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from spiral.core.locks import Claim
from spiral.core.metrics import Metrics
from spiral.core.records import FloatArray
from spiral.distributed.learner_worker import LearnerWorker
from spiral.distributed.placement import Placement
from spiral.distributed.session import CONTROL, LearnerLostError, end_actor, import_ray, learner_failure, stacks_of
from spiral.distributed.weights.base import WEIGHT_GROUPS, TransportContext, WeightsHandle
from spiral.distributed.weights.registry import connect, make_transport
from spiral.runs.recipe import Recipe
from spiral.training.batch import Batch

logger = logging.getLogger(__name__)

STACK_SECONDS = 5.0
"""Timeout for the stacks of a rank that does not answer."""
PROCESS_SECONDS = 60.0
"""Timeout for the process id of a rank, which answers from another thread."""
CAUSE_SECONDS = 2.0
"""Time to wait, after one rank has failed, for the error of another one that explains it."""


class ClusterLearner:
    """Owns the learner workers."""

    def __init__(
        self,
        recipe: Recipe,
        transport: TransportContext,
        checkpoint: Path | None = None,
        *,
        placement: Placement,
    ) -> None:
        """Begins to start the workers; Ray must be connected.

        Args:
            recipe: The recipe of the run.
            transport: How to send weights.
            checkpoint: Where to begin from, if given.
            placement: Where the ranks run.
        """
        cluster = recipe.cluster
        self._cluster = cluster
        self._transport = make_transport(transport)
        self._peers: Any = None
        ray = import_ray()
        actor_class = ray.remote(
            num_cpus=cluster.cpus_per_worker,
            max_restarts=0,  # a new rank cannot join the others
            concurrency_groups=WEIGHT_GROUPS,
        )(LearnerWorker)
        self._workers = [
            actor_class.options(num_gpus=share, scheduling_strategy=place).remote(rank, cluster.learner_workers)
            for rank, (share, place) in enumerate(zip(placement.rank_gpus, placement.ranks, strict=True))
        ]
        meeting_place = self._workers[0].meeting_place.remote(cluster.address == "local")
        threads = max(1, int(cluster.cpus_per_worker))
        self._starting = [
            worker.set_up.remote(recipe, checkpoint, meeting_place, threads, cluster.learner_seconds, transport)
            for worker in self._workers
        ]
        self.state: dict[str, Any] = {}
        """The state in the checkpoint, beside the weights."""
        self.version = 0

    def wait(self) -> None:
        """Waits until the workers have loaded the model.

        Raises:
            ValueError or RuntimeError: a worker could not be set up; the message is the worker's own.
        """
        self.state, *_ = self._wait(self._starting, "set_up", self._cluster.learner_seconds)
        self.version = int(self.state.get("version", 0))
        self._peers = connect(self._cluster, self._transport, self)

    @property
    def actors(self) -> Sequence[Any]:
        """The ranks' actors."""
        return self._workers

    def score(self, batch: Batch, *, split: bool = False) -> FloatArray:
        """[A] The log-probabilities of a batch's action tokens, computed as in an update; `split` shares the work."""
        ray = import_ray()
        scores, *_ = self._all("score", ray.put(batch), split, seconds=self._cluster.learner_seconds)
        return cast(FloatArray, scores)

    def update(self, batch: Batch | None) -> Metrics:
        """Does one update on all ranks; returns its metrics."""
        ray = import_ray()
        (version, metrics), *_ = self._all("update", ray.put(batch), seconds=self._cluster.learner_seconds)
        self.version = version
        return cast(Metrics, metrics)

    def publish(self) -> WeightsHandle:
        """Makes the current weights available to rollout workers; returns what `ClusterCollector` needs to get them."""
        begun = time.monotonic()
        sent = [worker.send_weights.options(num_returns=2).remote() for worker in self._workers]
        sizes = self._wait([size for size, _ in sent], "send_weights", self._cluster.learner_seconds)
        return WeightsHandle(
            version=self.version,
            payload=sent[0][1],
            peers=self._peers,
            num_bytes=sizes[0],
            seconds=time.monotonic() - begun,
        )

    def call_senders(self, method: str, *arguments: Any, ranks: Sequence[int] | None = None) -> list[Any]:
        """Calls a method of the senders of all ranks, or of some; returns their results."""
        chosen = self._workers if ranks is None else [self._workers[rank] for rank in ranks]
        asked = [worker.call_transport.remote(method, *arguments) for worker in chosen]
        return self._wait(asked, method, self._cluster.learner_seconds)

    def save(self, root: Path, state: dict[str, Any], keep: int, claim: Claim | None = None) -> None:
        """Writes a checkpoint under `root`, which all ranks must be able to reach, as long as `claim` holds."""
        self._all("save", root, state, keep, claim, seconds=self._cluster.learner_seconds)

    def save_snapshot(self, root: Path, claim: Claim | None = None) -> None:
        """Writes the model alone under `root`, which all ranks must be able to reach, as long as `claim` holds."""
        self._all("save_snapshot", root, claim, seconds=self._cluster.learner_seconds)

    def processes(self) -> list[int]:
        """The process ids, by rank."""
        asked = [worker.process.options(concurrency_group=CONTROL).remote() for worker in self._workers]
        return [int(pid) for pid in self._wait(asked, "process", PROCESS_SECONDS)]

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            end_actor(worker)
        self._workers = []

    def _all(self, method: str, *arguments: Any, seconds: float) -> list[Any]:
        """Calls a method of every rank; returns their results."""
        return self._wait([getattr(worker, method).remote(*arguments) for worker in self._workers], method, seconds)

    def _wait(self, refs: list[Any], method: str, seconds: float) -> list[Any]:
        """Waits for results; an error of one rank ends the wait for the others."""
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
        """Logs the stacks of ranks that do not answer."""
        for rank in ranks:
            stacks = stacks_of(self._workers[rank], STACK_SECONDS)
            logger.warning("learner worker %d is stuck; its threads:\n%s", rank, stacks)
        numbers = ", ".join(map(str, ranks))
        return LearnerLostError(f"this process waited {seconds:g} s for learner worker {numbers} to end {method}")


def _cause(failure: Exception, others: Sequence[tuple[int, Any]], method: str) -> Exception:
    """The failure of a rank, or the error of another one that explains it: after a full disk no rank is lost."""
    if not isinstance(failure, LearnerLostError) or not others:
        return failure
    ray = import_ray()
    done, _ = ray.wait([ref for _, ref in others], num_returns=len(others), timeout=CAUSE_SECONDS)
    failures = [learner_failure(rank, ref, method) for rank, ref in others if ref in done]
    own = [error for error in failures if error is not None and not isinstance(error, LearnerLostError)]
    return own[0] if own else failure
