"""Weights that one process reads in another one's memory, on one machine and without a copy in between.

    learner rank:  lender.keep(version, learner.weights(), dtype, keep)      loan = lender.lend(version)
    worker:        policy.load_weights(borrowed(loan), version)              lender.holds(loan.number)

A rank lays versions into buckets (`weights.FlatWeights`) that others can open: on a GPU by CUDA IPC
(`torch.multiprocessing.reductions`), on a CPU in memory that has a descriptor and no name (`memfd_create`). A worker
opens them, copies into its policy, and lets go. Who may read where is a matter of place: CUDA IPC is for those who
share a GPU, main memory for those on a node; who has no lender at its place takes a copy from the object store.

Buckets are never given back while the rank lives: a new version is written where the oldest was, without waiting for
anybody. So a worker that is killed while it reads leaves nothing behind; and one that was too slow, and read what was
being written, is told so when it asks afterwards, and takes a copy too. On a GPU there is only room for the newest
version; older ones go to main memory, for such copies.

torch's own way to share main memory is not used: its files have names in /dev/shm, which outlive a rank that Ray ends,
since Ray ends the process that would clear them away too. With CUDA IPC, torch leaves such a file of some kilobytes.

Left out: GPUs of one node reading in each other's memory.
"""

from __future__ import annotations

import dataclasses
import functools
import mmap
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.reduction import ForkingPickler

import torch
from torch import Tensor

from spiral.distributed.session import ClusterError, import_ray
from spiral.distributed.weights.base import FlatWeights, Slot, flatten, refill
from spiral.distributed.weights.sync import Sender

Load = Callable[[Iterable[tuple[str, Tensor]], int], None]
Open = Callable[[], tuple[Tensor, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loan:
    """Weights to be read by another process."""

    slots: tuple[Slot, ...]
    open: Open
    """Gives the buckets."""
    number: int
    """Of the writing that is lent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shared:
    """Buckets that other processes can open, and the number of what is written there."""

    flat: FlatWeights
    open: Open
    number: int


def own_places() -> tuple[str, str]:
    """Where this process can read: on a GPU, and in a node's main memory; a Ray must be connected."""
    ray = import_ray()

    node = str(ray.get_runtime_context().get_node_id())
    gpus = ",".join(map(str, ray.get_gpu_ids()))
    return f"{node} GPU {gpus}", node


def borrowed(loan: Loan) -> Iterator[tuple[str, Tensor]]:
    """The weights of a loan, only to be read, and let go of with the iterator.

    Raises `OSError` or `RuntimeError` when they cannot be opened.
    """
    return FlatWeights(slots=loan.slots, buckets=loan.open()).tensors()


class Lender(Sender):
    """Keeps the newest versions of weights where others can read them."""

    def __init__(self, newest_only: bool) -> None:
        """`newest_only` moves all but the newest version to main memory, as there is little room on a GPU."""
        super().__init__()
        self._newest_only = newest_only
        self._writings = 0
        self._lent: dict[int, _Shared] = {}
        self._spare: list[_Shared] = []

    def keep(self, version: int, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None, keep: int) -> int:
        """Takes a copy of weights, in `dtype` where one is given, and drops all but `keep` versions. Returns its size.

        Raises `ClusterError` when there is no room for it.
        """
        with self._lock:
            self._make_room(version, keep - 1)
            old = self._spare.pop() if self._spare else None
            self._writings += 1
        if old is None:
            flat, opener = _shared(flatten(weights, dtype))
        else:
            flat, opener = refill(old.flat, weights, dtype), old.open
        if flat.buckets and flat.buckets[0].is_cuda:
            torch.cuda.synchronize(flat.buckets[0].device)  # what others read has been written
        with self._lock:
            self._kept[version] = flat
            self._lent[version] = _Shared(flat=flat, open=opener, number=self._writings)
        return flat.num_bytes

    def lend(self, version: int) -> Loan | None:
        """For other processes to read, who are to ask `holds` afterwards; None when this version is not there."""
        with self._lock:
            shared = self._lent.get(version)
        return None if shared is None else Loan(slots=shared.flat.slots, open=shared.open, number=shared.number)

    def holds(self, number: int) -> bool:
        """Whether what was lent is still as it was."""
        with self._lock:
            return any(number == shared.number for shared in self._lent.values())

    def _make_room(self, version: int, others: int) -> None:
        """Keeps so many versions beside `version`; nobody is to read what is written over from now on."""
        known = sorted(older for older in self._kept if older != version)
        staying = known[max(0, len(known) - others) :]
        self._copies = {older: ref for older, ref in self._copies.items() if older in staying}
        for older, shared in list(self._lent.items()):
            if older not in staying or self._newest_only:
                del self._lent[older]
                self._spare.append(shared)
                if older in staying:
                    self._kept[older] = shared.flat.on("cpu", copy=True)
        self._kept = {older: self._kept[older] for older in staying}


def _shared(flat: FlatWeights) -> tuple[FlatWeights, Open]:
    """The same where other processes can open it, and how."""
    if flat.buckets and flat.buckets[0].is_cuda:
        # Made once: torch takes note of every handle, and the buckets stay.
        return flat, functools.partial(pickle.loads, bytes(ForkingPickler.dumps(flat.buckets)))
    sizes = tuple(len(bucket) for bucket in flat.buckets)
    descriptor = _memory(sum(sizes))
    buckets = _mapped(descriptor, sizes, mmap.ACCESS_WRITE)
    for bucket, source in zip(buckets, flat.buckets, strict=True):
        bucket.copy_(source)
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    return dataclasses.replace(flat, buckets=buckets), functools.partial(_opened, path, sizes)


def _memory(size: int) -> int:
    """A descriptor of so many bytes of memory that others can open."""
    if not hasattr(os, "memfd_create"):
        raise ClusterError(
            "cluster.publish is 'ipc', for which processes share main memory, and that is for Linux only; expected"
            " 'object_store'"
        )
    descriptor = os.memfd_create("spiral weights", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, max(1, size))
    except OSError as error:
        os.close(descriptor)
        raise ClusterError(
            f"weights of {size / 2**30:.2f} GiB find no room in the machine's memory ({error.strerror}), where"
            " cluster.publish = 'ipc' keeps them once more; expected more memory, or fewer versions"
            " (cluster.max_staleness)"
        ) from error
    return descriptor


def _opened(path: str, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """What another process has written into its memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _mapped(descriptor, sizes, mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)


def _mapped(descriptor: int, sizes: tuple[int, ...], access: int) -> tuple[Tensor, ...]:
    """The buckets that lie end to end in a memory's descriptor."""
    memory = mmap.mmap(descriptor, max(1, sum(sizes)), access=access)
    return torch.split(torch.frombuffer(memory, dtype=torch.uint8)[: sum(sizes)], list(sizes))
