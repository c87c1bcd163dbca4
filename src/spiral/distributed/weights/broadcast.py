"""Weights broadcast from rank 0 of the learner to all rollout workers, by gloo between CPUs or NCCL between GPUs.

The learner keeps every version (`KeepingSender`), and the driver starts a broadcast to the workers that are ready. A
receiver does not touch its policy: it receives in a separate thread during games, and stages the weights in main
memory until the policy loads them between turns. So no process waits for another one's games, and games under way keep
their weights. A worker that missed a version, that started later, or that needs a version it has dropped gets a copy
through the object store.

Sender and receivers form a process group beside the default one, which lasts as long as its members. It is made from
its parts, a store and a backend, and never becomes the default group of a process: a learner has another one there, and
vLLM takes a default group for its own. (Ray's collective library makes its gloo group the default one, which is why it
is not used.) Every wait has a timeout. A process that fails leaves the group, which breaks the connections of the
others: a dead process is noticed at once, a stopped one at the timeout. A broken group is dropped, and the next
broadcast makes a new one, under another number, of the workers that are there.

Not supported: receiving into the memory of a policy, which would be faster between GPUs but would make games wait.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed import distributed_c10d as c10d

from spiral.distributed.session import CONTROL, LearnerLostError, error_reason, import_ray, learner_failure, own_address
from spiral.distributed.weights.base import (
    Delivery,
    DestinationT,
    IdleSender,
    LearnerRanks,
    Load,
    TransportContext,
    WeightReceiver,
    WeightSender,
    WeightsHandle,
    WeightTransport,
    call,
)
from spiral.distributed.weights.kept import FlatWeights, KeepingSender, load_copy, parse_layout
from spiral.distributed.weights.nccl import leave_nccl_group, nccl_group
from spiral.training.process_group import first_line

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.01
STAGED_VERSIONS = 2
"""Versions that a receiver keeps: with `overlap`, games may still begin with the version before the newest."""
GRACE_SECONDS = 10.0
"""Time after its timeout in which a process may still report it."""
MAX_FAILED_BROADCASTS = 3
"""After this number of broadcasts in a row that reach no worker, the run stops broadcasting."""


class BroadcastError(RuntimeError):
    """A broadcast did not reach every process of its group."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendezvous:
    """The processes of a group and where they meet; the same for all of them except for `rank`."""

    generation: int
    """Number of the group."""
    rank: int
    """0 is the sender."""
    size: int
    address: str
    port: int
    """Port of the sender's store."""
    local: bool
    """Whether all are on one machine and stay on its loopback interface."""
    device: str
    """Device to send from and to receive on: "cpu" or "cuda"."""
    seconds: float
    """Timeout of a broadcast in this process, including the rendezvous."""


def broadcast_device(context: TransportContext) -> str:
    """The device to send from: "cuda" where every process has a GPU to itself, which NCCL needs, else "cpu"."""
    return "cuda" if context.rank_gpus >= 1 and context.config.gpus_per_worker >= 1 else "cpu"


class BroadcastTransport(WeightTransport):
    """Broadcasts every version to the workers that are ready."""

    def __init__(self, context: TransportContext) -> None:
        super().__init__(context)
        config = context.config
        self._local = config.address == "local"
        self._seconds = min(config.worker_seconds, config.learner_seconds)
        self._workers: list[Any] = []
        self._sender: Any = None
        self._store = ("", 0)
        self._generation = 0
        self._failed_broadcasts = 0

    def sender(self, rank: int) -> WeightSender:
        """Rank 0 sends."""
        return BroadcastSender(self.context) if rank == 0 else IdleSender()

    def receiver(self) -> WeightReceiver:
        """Stages what was broadcast."""
        return BroadcastReceiver(self.context.config.worker_seconds)

    def connect(self, ranks: LearnerRanks) -> Any:
        """Receivers ask rank 0 for copies."""
        return ranks.actors[0]

    def deliver(self, handle: WeightsHandle, workers: Sequence[DestinationT]) -> Delivery[DestinationT]:
        """Broadcasts a version; returns when all workers have it or it is known which have not.

        Raises:
            LearnerLostError: the sender died or does not answer.
        """
        delivery: Delivery[DestinationT] = Delivery()
        if not workers or self._failed_broadcasts >= MAX_FAILED_BROADCASTS:
            return delivery
        self._update_group(handle.peers, workers)
        rendezvous = Rendezvous(
            generation=self._generation, rank=0, size=len(workers) + 1, address=self._store[0], port=self._store[1],
            local=self._local, device=broadcast_device(self.context), seconds=self._seconds,
        )  # fmt: skip
        sending = call(handle.peers, "broadcast", handle.version, rendezvous)
        receiving = {
            call(worker.actor, "stage", handle.version, dataclasses.replace(rendezvous, rank=rank)): worker
            for rank, worker in enumerate(workers, start=1)
        }
        self._watch(handle.peers, sending, receiving, delivery)
        fault = self._sender_result(sending, "broadcast")
        if fault is not None or delivery.failures:
            self._workers = []
            self._log_failures(handle.version, fault, delivery)
        self._failed_broadcasts = 0 if delivery.reached else self._failed_broadcasts + 1
        return delivery

    def _update_group(self, sender: Any, workers: Sequence[Any]) -> None:
        """Begins a new group if its members have changed."""
        if sender != self._sender:
            asked = call(sender, "open_store", self._local, self._seconds)
            self._store = self._sender_result(asked, "open_store")
            self._sender, self._workers = sender, []
        if self._workers != list(workers):
            self._generation += 1
            self._workers = list(workers)

    def _watch(
        self, sender: Any, sending: Any, receiving: dict[Any, DestinationT], delivery: Delivery[DestinationT]
    ) -> None:
        """Waits until sender and receivers have answered, or until the timeout of the receivers."""
        ray = import_ray()

        end = time.monotonic() + self._seconds + GRACE_SECONDS
        pending, abandoned = [sending, *receiving], False
        while pending and time.monotonic() < end:
            done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, end - time.monotonic()))
            for ref in done:
                if ref in receiving:
                    _record_answer(receiving[ref], ref, delivery)
            failed = bool(delivery.failures) or (sending in done and _failed(sending))
            if failed and not abandoned:
                abandoned = True
                call(sender, "abandon", self._generation, group=CONTROL)
        for ref in pending:
            if ref in receiving:
                delivery.stuck[receiving[ref]] = f"did not confirm new weights within {self._seconds:g} s"

    def _sender_result(self, ref: Any, method: str) -> Any:
        ray = import_ray()

        seconds = self.context.config.learner_seconds
        if not ray.wait([ref], timeout=seconds)[0]:
            raise LearnerLostError(f"this process waited {seconds:g} s for learner worker 0 to end {method}")
        failure = learner_failure(0, ref, method)
        if failure is not None:
            raise failure
        return ray.get(ref)

    def _log_failures(self, version: int, fault: str | None, delivery: Delivery[Any]) -> None:
        reasons = [f"{worker}: {reason}" for worker, reason in delivery.failures.items()]
        reasons += [f"learner worker 0: {fault}"] if fault is not None else []
        count = len(delivery.reached) + len(delivery.failures)
        last = not delivery.reached and self._failed_broadcasts + 1 >= MAX_FAILED_BROADCASTS
        logger.warning(
            "weights of version %d reached %d of %d rollout workers by broadcast (%s); the others get them through the"
            " object store%s",
            version, len(delivery.reached), count, "; ".join(reasons),
            f", as all will from now on, after {MAX_FAILED_BROADCASTS} failed broadcasts" if last else "",
        )  # fmt: skip


def _record_answer(worker: DestinationT, ref: Any, delivery: Delivery[DestinationT]) -> None:
    """Adds a worker to the delivery by its answer."""
    ray = import_ray()

    try:
        fault = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        delivery.missed[worker] = error_reason(error)
    except ray.exceptions.RayError as error:
        delivery.died[worker] = f"died while weights were sent: {error_reason(error)}"
    else:
        if fault is None:
            delivery.reached.append(worker)
        else:
            delivery.missed[worker] = fault


def _failed(sending: Any) -> bool:
    ray = import_ray()

    try:
        return ray.get(sending) is not None
    except ray.exceptions.RayError:
        return True


class BroadcastSender(KeepingSender):
    """Broadcasts the versions that it keeps."""

    def __init__(self, context: TransportContext) -> None:
        super().__init__(context)
        self._membership = _Membership()
        self._store: Any = None
        self._address = ("", 0)

    def open_store(self, local: bool, seconds: float) -> tuple[str, int]:
        """Address and port of the store at which all groups meet; opens it at the first call."""
        if self._store is None:
            address = own_address(local)
            listening = socket.create_server((address, 0), backlog=128)
            self._address = (address, int(listening.getsockname()[1]))
            self._store = TCPStore(
                *self._address, None, True, timedelta(seconds=seconds), wait_for_workers=False,
                master_listen_fd=listening.detach(),
            )  # fmt: skip
        return self._address

    def broadcast(self, version: int, rendezvous: Rendezvous) -> str | None:
        """Sends a version to all receivers of a rendezvous; returns the error in one line, or None."""
        end = time.monotonic() + rendezvous.seconds
        flat = self._kept[version]
        try:
            group = self._membership.join(rendezvous, lambda: self._store, end)
            text = torch.frombuffer(bytearray(flat.layout(version).encode()), dtype=torch.uint8)
            for tensor in (torch.tensor([len(text)]), text, *flat.buckets):
                group.broadcast(tensor.to(group.device), end)
        except (RuntimeError, OSError) as error:
            self._membership.leave()
            return first_line(error)
        finally:
            with self._lock:
                if version in self._kept:
                    self._kept[version] = flat.on("cpu")
        return None

    def abandon(self, generation: int) -> None:
        """Ends the wait of all processes when one cannot join; called from another thread."""
        own = TCPStore(*self._address, None, False, timedelta(seconds=5), wait_for_workers=False)
        PrefixStore(_group_prefix(generation), own).set("abandoned", "")

    def close(self) -> None:
        """Leaves the group and closes the store."""
        self._membership.leave()
        self._store = None


class BroadcastReceiver(WeightReceiver):
    """Stages broadcast weights until the policy loads them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._membership = _Membership()
        self._staged: dict[int, FlatWeights] = {}
        self._lock = threading.Lock()

    def receive(self, handle: WeightsHandle, load: Load) -> None:
        """Loads what was staged, or a copy from the object store."""
        staged = self.take(handle.version)
        if staged is None:
            load_copy(handle, handle.peers, self._seconds, load)
        else:
            load(staged.tensors(), handle.version)

    def stage(self, version: int, rendezvous: Rendezvous) -> str | None:
        """Receives a version from the sender; returns the error in one line, or None."""
        end = time.monotonic() + rendezvous.seconds
        try:
            group = self._membership.join(rendezvous, lambda: _connect(rendezvous), end)
            flat = _received(group, version, end)
        except (RuntimeError, OSError) as error:
            self._membership.leave()
            return first_line(error)
        with self._lock:
            staged = self._staged | {version: flat}
            self._staged = {known: staged[known] for known in sorted(staged)[-STAGED_VERSIONS:]}
        return None

    def take(self, version: int) -> FlatWeights | None:
        """Removes and returns a staged version, and drops all older ones; None when it was not received."""
        with self._lock:
            taken = self._staged.get(version)
            if taken is not None:
                self._staged = {known: flat for known, flat in self._staged.items() if known > version}
        return taken

    def close(self) -> None:
        """Leaves the group."""
        self._membership.leave()


class Group:
    """One process's membership in a group; `leave` ends it."""

    def __init__(self, rendezvous: Rendezvous, store: Any, end: float) -> None:
        """Waits for all processes of the rendezvous.

        Raises:
            RuntimeError: one does not come until `end`, a time of `time.monotonic`.
        """
        self.generation = rendezvous.generation
        self.device = rendezvous.device
        inside = PrefixStore(_group_prefix(rendezvous.generation), store)
        inside.set(f"here/{rendezvous.rank}", "")
        self._wait_for_all(rendezvous, inside, end)
        limit = timedelta(seconds=max(1.0, end - time.monotonic()))
        self._backend: Any = _backend(rendezvous, PrefixStore("transport", inside), limit)

    def broadcast(self, tensor: Tensor, end: float) -> None:
        """Sends the tensor from rank 0; fills it in the other processes."""
        limit = timedelta(seconds=max(0.001, end - time.monotonic()))
        options = c10d.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = 0, 0, limit
        self._backend.broadcast([tensor], options).wait(limit)

    def leave(self) -> None:
        """Closes the connections, so that no process waits for this one."""
        if self.device == "cuda" and self._backend is not None:
            leave_nccl_group(self._backend)
        self._backend = None

    @staticmethod
    def _wait_for_all(rendezvous: Rendezvous, store: Any, end: float) -> None:
        names = {rank: f"here/{rank}" for rank in range(rendezvous.size)}
        while not store.check(list(names.values())):
            if store.check(["abandoned"]):
                raise BroadcastError("another process could not join the broadcast")
            if time.monotonic() > end:
                missing = [str(rank) for rank, name in names.items() if not store.check([name])]
                raise BroadcastError(
                    f"rank {', '.join(missing)} did not join the broadcast within {rendezvous.seconds:g} s"
                )
            time.sleep(POLL_SECONDS)


class _Membership:
    """The group that this process is in, if any."""

    def __init__(self) -> None:
        self._group: Group | None = None

    def join(self, rendezvous: Rendezvous, connect: Callable[[], Any], end: float) -> Group:
        """The group of the rendezvous, joined now unless this process is in it; `connect()` returns its store."""
        if self._group is None or self._group.generation != rendezvous.generation:
            self.leave()
            self._group = Group(rendezvous, connect(), end)
        return self._group

    def leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.leave()


def _group_prefix(generation: int) -> str:
    """Prefix of the keys of a group in the store."""
    return f"weights {generation}"


def _backend(rendezvous: Rendezvous, store: Any, limit: timedelta) -> Any:
    """The connected process group of torch that carries the bytes."""
    if rendezvous.device == "cuda":
        return nccl_group(store, rendezvous.rank, rendezvous.size, limit)
    gloo = c10d.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    gloo._timeout = limit
    gloo._devices = [c10d.ProcessGroupGloo.create_device(hostname=own_address(rendezvous.local))]
    return c10d.ProcessGroupGloo(store, rendezvous.rank, rendezvous.size, gloo)


def _connect(rendezvous: Rendezvous) -> Any:
    limit = timedelta(seconds=rendezvous.seconds)
    return TCPStore(rendezvous.address, rendezvous.port, None, False, limit, wait_for_workers=False)


def _received(group: Group, version: int, end: float) -> FlatWeights:
    """The next weights from the sender of the group."""

    def receive(size: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        tensor = torch.empty(size, dtype=dtype, device=group.device)
        group.broadcast(tensor, end)
        return tensor.to("cpu")

    text = receive(int(receive(1, torch.int64)))
    sent, slots, sizes = parse_layout(bytes(text.tolist()).decode())
    if sent != version:
        raise BroadcastError(f"got weights of version {sent}; expected version {version}")
    return FlatWeights(slots=slots, buckets=tuple(receive(size) for size in sizes))
