"""Weights that rollout workers read in the learner's memory, on one machine and without a copy in between.

A learner rank lays versions into buckets (`kept.FlatWeights`) that other processes can open: on a GPU by CUDA IPC
(`cuda_ipc.py`), on a CPU in memory that has a file descriptor and no name (`memfd_create`). A worker opens them, copies
them into its policy, and closes them. CUDA IPC reaches the processes on the same GPU, main memory those on the same
node. A worker without a lender in reach gets a copy through the object store.

Buckets are never freed while the rank lives: a new version is written where the oldest was, without waiting for a
reader. So a worker that is killed while it reads leaves nothing behind. A worker that was too slow, and read what was
being overwritten, notices when it checks afterwards, and gets a copy too. A GPU has space for the newest version
only; older ones move to main memory, for such copies.

torch's own way to share main memory is not used: its files in /dev/shm have names and outlive a rank that Ray kills,
since Ray kills the process that would remove them as well.

Not supported: reading between the GPUs of one node.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from spiral.distributed.session import ClusterError, import_ray
from spiral.distributed.weights.base import (
    IdleSender,
    LearnerRanks,
    Load,
    NamedTensors,
    TransportContext,
    WeightReceiver,
    WeightSender,
    WeightsHandle,
    WeightTransport,
    call,
    wait_for,
)
from spiral.distributed.weights.cuda_ipc import finish_reading, finish_writing, share_on_gpu
from spiral.distributed.weights.kept import FlatWeights, KeepingSender, Slot, flatten, load_copy, refill

logger = logging.getLogger(__name__)

Open = Callable[[], tuple[Tensor, ...]]
"""Opens the buckets of another process."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lenders:
    """The learner ranks that receivers can ask."""

    keeper: Any
    """Rank 0, which puts copies into the object store."""
    by_location: Mapping[str, Any]
    """Ranks whose memory can be read, by location (`own_locations`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loan:
    """Weights that another process may read."""

    slots: tuple[Slot, ...]
    open: Open
    number: int
    """Number of the write that is lent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shared:
    """Buckets that other processes can open, and the number of the last write to them."""

    flat: FlatWeights
    open: Open
    number: int


def own_locations() -> tuple[str, str]:
    """Where this process can read: its GPU, and its node's main memory; Ray must be connected."""
    ray = import_ray()

    node = str(ray.get_runtime_context().get_node_id())
    gpus = ",".join(map(str, ray.get_gpu_ids()))
    return f"{node} GPU {gpus}", node


def open_loan(loan: Loan) -> Iterator[tuple[str, Tensor]]:
    """The weights of a loan, which must not be written; they are closed with the iterator.

    Raises:
        OSError or RuntimeError: they cannot be opened.
    """
    return FlatWeights(slots=loan.slots, buckets=loan.open()).tensors()


class IpcTransport(WeightTransport):
    """Workers read the memory of a learner rank at their location."""

    def sender(self, rank: int) -> WeightSender:
        """Every rank may lend; rank 0 keeps weights in any case."""
        on_gpu = self.context.rank_gpus > 0 and torch.cuda.is_available()
        return Lender(self.context, active=rank == 0, on_gpu=on_gpu)

    def receiver(self) -> WeightReceiver:
        """Reads in a learner rank's memory."""
        return IpcReceiver(self.context.config.worker_seconds)

    def connect(self, ranks: LearnerRanks) -> Lenders:
        """Chooses one rank for every location where a rollout worker may read, and lets it lend."""
        locations = ranks.call_senders("location")[: self.context.config.rollout_workers]
        numbers = {location: locations.index(location) for location in locations}
        ranks.call_senders("begin_lending", ranks=list(numbers.values()))
        by_location = {location: ranks.actors[number] for location, number in numbers.items()}
        return Lenders(keeper=ranks.actors[0], by_location=by_location)


class Lender(KeepingSender):
    """Keeps the newest versions where other processes can read them."""

    def __init__(self, context: TransportContext, *, active: bool, on_gpu: bool) -> None:
        """Takes whether to keep weights before `begin_lending`, and whether the weights are on a GPU."""
        super().__init__(context)
        self._on_gpu = on_gpu
        self._active = active
        self._lending = False
        self._writes = 0
        self._lent: dict[int, _Shared] = {}
        self._spare: list[_Shared] = []

    def location(self) -> str:
        """Where the memory of this rank can be read."""
        on_gpu, in_memory = own_locations()
        return on_gpu if self._on_gpu else in_memory

    def begin_lending(self) -> None:
        """Keeps weights where other processes can read them from now on."""
        self._active = self._lending = True

    def send(self, version: int, weights: NamedTensors) -> tuple[int, Any]:
        """Keeps a copy of weights.

        Raises:
            ClusterError: there is no room for it.
        """
        if not self._active:
            return IdleSender().send(version, weights)
        if not self._lending:
            return super().send(version, weights)
        with self._lock:
            self._make_room(version)
            old = self._spare.pop() if self._spare else None
            self._writes += 1
        if old is None:
            flat, opener = _shared(flatten(weights, self._dtype))
        else:
            flat, opener = refill(old.flat, weights, self._dtype), old.open
        finish_writing(flat.buckets)
        with self._lock:
            self._kept[version] = flat
            self._lent[version] = _Shared(flat=flat, open=opener, number=self._writes)
        return flat.num_bytes, None

    def lend(self, version: int) -> Loan | None:
        """Lends a version to a process that checks `holds` afterwards; None when it is not there."""
        with self._lock:
            shared = self._lent.get(version)
        return None if shared is None else Loan(slots=shared.flat.slots, open=shared.open, number=shared.number)

    def holds(self, number: int) -> bool:
        """Whether a loan has not been overwritten."""
        with self._lock:
            return any(number == shared.number for shared in self._lent.values())

    def _make_room(self, version: int) -> None:
        """Drops the oldest versions; their buckets, from now on to be overwritten, are lent no longer."""
        known = sorted(older for older in self._kept if older != version)
        staying = known[max(0, len(known) - (self._versions - 1)) :]
        self._drop_copies(staying)
        for older, shared in list(self._lent.items()):
            if older not in staying or self._on_gpu:
                del self._lent[older]
                self._spare.append(shared)
                if older in staying:
                    self._kept[older] = shared.flat.on("cpu", copy=True)
        self._kept = {older: self._kept[older] for older in staying}


class IpcReceiver(WeightReceiver):
    """Reads weights in the memory of a learner rank, or gets a copy through the object store."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def receive(self, handle: WeightsHandle, load: Load) -> None:
        """Loads the weights, a second time if what was read was overwritten meanwhile."""
        if not self._borrow(handle, load):
            load_copy(handle, handle.peers.keeper, self._seconds, load)

    def _borrow(self, handle: WeightsHandle, load: Load) -> bool:
        """Whether the weights were read whole in the memory of a learner rank."""
        lenders = handle.peers.by_location
        lender = next((lenders[location] for location in own_locations() if location in lenders), None)
        if lender is None:
            return False

        def ask(method: str, argument: int) -> Any:
            what = f"weights of version {handle.version} from the learner's memory"
            return wait_for(call(lender, method, argument), self._seconds, what, "a learner worker")

        loan = ask("lend", handle.version)
        if loan is None:
            return False
        try:
            named = open_loan(loan)
        except (OSError, RuntimeError) as error:  # the lender has ended, or the system does not permit it
            logger.warning("weights of version %d cannot be read in the learner's memory: %s", handle.version, error)
            return False
        load(named, handle.version)
        finish_reading()
        return bool(ask("holds", loan.number))


def _shared(flat: FlatWeights) -> tuple[FlatWeights, Open]:
    """The same weights where other processes can open them, and the function that does."""
    if flat.buckets and flat.buckets[0].is_cuda:
        return flat, share_on_gpu(flat.buckets)
    sizes = tuple(len(bucket) for bucket in flat.buckets)
    descriptor = _memory(sum(sizes))
    buckets = _mapped(descriptor, sizes, mmap.ACCESS_WRITE)
    for bucket, source in zip(buckets, flat.buckets, strict=True):
        bucket.copy_(source)
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    return dataclasses.replace(flat, buckets=buckets), functools.partial(_opened, path, sizes)


def _memory(size: int) -> int:
    """A file descriptor of `size` bytes of memory that other processes can open."""
    if not hasattr(os, "memfd_create"):
        raise ClusterError(
            "cluster.publish is 'ipc', which shares main memory between processes in a way that only Linux has; use"
            " 'object_store'"
        )
    descriptor = os.memfd_create("spiral weights", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, max(1, size))
    except OSError as error:
        os.close(descriptor)
        raise ClusterError(
            f"weights of {size / 2**30:.2f} GiB do not fit into the machine's memory ({error.strerror}), where"
            " cluster.publish = 'ipc' keeps another copy; use a machine with more memory or lower cluster.max_staleness"
        ) from error
    return descriptor


def _opened(path: str, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The buckets in the memory of another process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _mapped(descriptor, sizes, mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)


def _mapped(descriptor: int, sizes: tuple[int, ...], access: int) -> tuple[Tensor, ...]:
    """The buckets that lie end to end in a file descriptor's memory."""
    memory = mmap.mmap(descriptor, max(1, sum(sizes)), access=access)
    return torch.split(torch.frombuffer(memory, dtype=torch.uint8)[: sum(sizes)], list(sizes))
