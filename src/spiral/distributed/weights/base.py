"""The interface of a weight transport: named tensors with a version, from the learner to the rollout workers.

    each learner rank      transport.sender(rank).send(version, weights)      -> size and payload
    the driver             transport.connect(ranks), transport.deliver(handle, workers)
    each rollout worker    transport.receiver().receive(handle, load)

Every process makes the transport for itself from the same `TransportContext` (`registry.make_transport`). A transport
that only moves a payload needs a sender and a receiver; `connect` and `deliver` are for those whose processes talk to
one another. Senders and receivers live in Ray actors, and `call` reaches their methods from other processes.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from spiral.distributed.session import CONTROL, ClusterError, LearnerLostError, error_reason, import_ray
from spiral.runs.cluster import ClusterConfig

WEIGHTS = "weights"
"""Concurrency group of actor methods that move weights, beside those that play or learn."""
WEIGHT_GROUPS = {CONTROL: 1, WEIGHTS: 1}
"""Concurrency groups that an actor with a sender or receiver needs, with their threads."""

NamedTensors = Iterable[tuple[str, Tensor]]
Load = Callable[[NamedTensors, int], None]
"""Puts weights of a version into a policy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransportContext:
    """Inputs for building a transport, equal in every process of a run."""

    config: ClusterConfig
    dtype: torch.dtype | None = None
    """The type that weights are sent in; None to keep theirs."""
    rank_gpus: float = 0.0
    """GPUs of a learner rank, beside a rollout worker's share of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsHandle:
    """A published version of the weights, and what a receiver needs to get them."""

    version: int
    """Updates that the weights have seen."""
    payload: Any = None
    """Ray reference to what rank 0's sender returned. The driver owns the object, so it outlives the learner."""
    peers: Any = None
    """The value that `WeightTransport.connect` returned, such as the actors that receivers can call."""
    num_bytes: int = 0
    """0 where the size is not known."""
    seconds: float = 0.0
    """Time that the learner took to publish them."""


class WeightSender(ABC):
    """The side of a transport in one rank of the learner."""

    @abstractmethod
    def send(self, version: int, weights: NamedTensors) -> tuple[int, Any]:
        """Makes weights available to receivers.

        Args:
            version: Updates that the weights have seen.
            weights: The parameters by name. Every rank has to iterate over all of them, since they are gathered
                collectively.

        Returns:
            The size in bytes and a picklable payload; those of rank 0 are used.
        """

    def close(self) -> None:
        """Releases connections; there are none by default."""
        return


class IdleSender(WeightSender):
    """Sends nothing, for ranks that a transport does not use."""

    def send(self, version: int, weights: NamedTensors) -> tuple[int, Any]:
        """Iterates over the weights, which takes part in gathering them."""
        for _ in weights:
            pass
        return 0, None


class WeightReceiver(ABC):
    """The side of a transport in one rollout worker."""

    @abstractmethod
    def receive(self, handle: WeightsHandle, load: Load) -> None:
        """Gets weights and calls `load(named, version)`, again if what was read changed meanwhile.

        Raises:
            RuntimeError: they do not come in time, or are kept no longer.
            LearnerLostError: the process that keeps them has ended.
        """

    def close(self) -> None:
        """Releases connections; there are none by default."""
        return


class Destination(Protocol):
    """A rollout worker to deliver weights to."""

    actor: Any


DestinationT = TypeVar("DestinationT", bound=Destination)


@dataclasses.dataclass(kw_only=True)
class Delivery(Generic[DestinationT]):
    """Result of delivering one version to the workers."""

    reached: list[DestinationT] = dataclasses.field(default_factory=list)
    """Workers that have received the weights."""
    missed: dict[DestinationT, str] = dataclasses.field(default_factory=dict)
    """Healthy workers that missed the weights, with the reason."""
    died: dict[DestinationT, str] = dataclasses.field(default_factory=dict)
    """Workers whose process ended, with the reason."""
    stuck: dict[DestinationT, str] = dataclasses.field(default_factory=dict)
    """Workers that did not answer, with the reason."""

    @property
    def failures(self) -> dict[DestinationT, str]:
        """All workers without the weights, with the reason."""
        return self.missed | self.died | self.stuck


class LearnerRanks(Protocol):
    """The ranks of the learner, whose senders a transport connects."""

    @property
    def actors(self) -> Sequence[Any]:
        """The actors, by rank."""
        ...

    def call_senders(self, method: str, *arguments: Any, ranks: Sequence[int] | None = None) -> list[Any]:
        """Calls a method of the senders of all ranks, or of some; returns their results.

        Raises:
            LearnerLostError: a rank died or does not answer.
        """
        ...


class WeightTransport(ABC):
    """Moves weights from the learner to the rollout workers; made by its name in `cluster.publish`."""

    def __init__(self, context: TransportContext) -> None:
        self.context = context

    @abstractmethod
    def sender(self, rank: int) -> WeightSender:
        """Makes the side of learner rank `rank`; called once in its process."""

    @abstractmethod
    def receiver(self) -> WeightReceiver:
        """Makes the side of a rollout worker; called once in its process."""

    def connect(self, ranks: LearnerRanks) -> Any:
        """Called in the driver when the ranks have loaded the model; returns the `peers` of every handle."""
        return None

    def deliver(self, handle: WeightsHandle, workers: Sequence[DestinationT]) -> Delivery[DestinationT]:
        """Called in the driver with every new version; by default receivers get weights when they need them.

        Args:
            handle: The new version.
            workers: The workers that are ready.

        Returns:
            Which workers have the weights already, and which have to be replaced.
        """
        return Delivery()


def call(actor: Any, method: str, *arguments: Any, group: str = WEIGHTS) -> Any:
    """Calls a method of an actor's sender or receiver in a concurrency group; returns a Ray reference."""
    return actor.call_transport.options(concurrency_group=group).remote(method, *arguments)


def wait_for(ref: Any, seconds: float, what: str, keeper: str | None) -> Any:
    """Waits in a receiver for the object of a Ray reference.

    Args:
        ref: The reference.
        seconds: Timeout.
        what: Describes the object in errors.
        keeper: The process that makes it, or None where the object exists.

    Raises:
        RuntimeError: the timeout is over, or the keeper failed.
        LearnerLostError: the keeper has ended.
    """
    ray = import_ray()

    try:
        return ray.get(ref, timeout=seconds)
    except ray.exceptions.GetTimeoutError as error:
        raise RuntimeError(f"waited {seconds:g} s for {what}") from error
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, ClusterError) else RuntimeError(error_reason(error)) from error
    except ray.exceptions.RayError as error:
        if keeper is None:
            raise
        raise LearnerLostError(f"{keeper} died before it could give {what}: {error_reason(error)}") from error
