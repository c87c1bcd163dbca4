"""The process group of the ranks that learn together, and error messages that name the rank that was waited for.

Every process is a rank of one `torch.distributed` process group. The ranks meet at a store that rank 0 opens, on the
loopback interface unless another address is given, and each writes there what it is doing. Every wait has a limit; when
one runs out, or a connection breaks, the error says where this rank was and where the others were last seen. NCCL
reports a wait that has run out by ending the process, with its own message on standard error.

`Ranks` are the collective operations that the learner needs. A process by itself is rank 0 of 1, for which they cost
nothing. Every method is collective: all ranks call it, in the same order.

Not supported: replacing a lost rank. Its group can no longer be used, so all ranks leave it, join a new one and load
their learners from a checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from spiral.core.metrics import Metrics
from spiral.core.seeds import derive_seed
from spiral.training.batch import Batch

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""torch.distributed backend by device type."""
LOOPBACK = "127.0.0.1"
DIAGNOSIS_SECONDS = 2.0
"""Time that a failed rank looks for the others before its error is raised without their positions."""
BUCKET_ELEMENTS = 2**26
"""Gradients summed in one message: 256 MiB."""
_TRANSPORT = re.compile(r"gloo|nccl|c10d|process ?group", re.IGNORECASE)
_INTERFACE_SETTINGS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_ADDRESS_OF_INTERFACE = 0x8915
"""SIOCGIFADDR of Linux."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class GroupError(RuntimeError):
    """The ranks could not meet, or one of them was lost."""


@dataclasses.dataclass
class _Membership:
    """Rank, store and progress of this process in the group it joined."""

    rank: int
    world_size: int
    store: Any
    settings: list[str]
    """Environment variables set on joining."""
    position: int = 0
    """Number of operations begun; equal on all ranks that keep up."""
    store_answers: bool = True

    def announce(self, operation: str, *, begins: bool) -> None:
        """Write to the store what this rank does. A store that is gone is noticed by the next collective operation."""
        if self.store_answers:
            self.position += begins
            with suppress(RuntimeError):
                self.store.set(f"at/{self.rank}", f"{self.position} {operation}")

    def whereabouts(self, operation: str) -> str:
        """Say where this rank is and where those that it waits for were last seen."""
        mine = f"rank {self.rank} of {self.world_size}, at {operation}"
        seen = _within(DIAGNOSIS_SECONDS, self._last_seen)
        if seen is None:
            self.store_answers = False
            return f"{mine}, got no answer from rank 0, which keeps the record of where each rank is"
        behind = {rank: last for rank, (position, last) in seen.items() if position < self.position}
        waited_for = behind or {rank: last for rank, (_, last) in seen.items()}
        last_seen = "; ".join(f"rank {rank} was last seen at {last}" for rank, last in waited_for.items())
        return f"{mine}, waited in vain for {ranks_named(sorted(waited_for))}; {last_seen}"

    def _last_seen(self) -> dict[int, tuple[int, str]]:
        """For every other rank, its position and operation."""
        found = {}
        for rank in range(self.world_size):
            if rank != self.rank:
                key = f"at/{rank}"
                text = self.store.get(key).decode() if self.store.check([key]) else "0 its start"
                position, _, operation = text.partition(" ")
                found[rank] = (int(position), operation)
        return found


_joined: _Membership | None = None
"""As `torch.distributed` has it, a process is in one group at a time."""


def join_group(
    rank: int,
    world_size: int,
    *,
    port: int,
    address: str = LOOPBACK,
    backend: str = BACKENDS["cpu"],
    timeout_seconds: float = 600.0,
) -> None:
    """Make this process rank `rank` of `world_size`; returns when all have joined.

    Args:
        rank: The number of this process.
        world_size: The number of processes.
        port: Where rank 0 listens; `free_port` finds one.
        address: Where rank 0 listens.
        backend: What carries the tensors; see `BACKENDS`.
        timeout_seconds: The limit of this wait and of every later one, so it has to be longer than rank 0 takes to
            write a checkpoint.

    Raises:
        ValueError: The arguments are impossible, or this process is in a group already.
        GroupError: The ranks did not meet.
    """
    if not 0 <= rank < world_size or timeout_seconds <= 0:
        raise ValueError(
            f"got rank {rank} of {world_size} and timeout_seconds = {timeout_seconds:g};"
            " expected a rank from 0 to world_size - 1 and a positive number of seconds"
        )
    if dist.is_initialized():
        raise ValueError("this process belongs to a process group already; call leave_group() before it joins another")
    global _joined  # noqa: PLW0603 (torch.distributed keeps one group a process as well)
    limit = timedelta(seconds=timeout_seconds)
    store = _store(rank, world_size, address, port, limit)
    meet(store, rank, world_size, f"{address}:{port}", limit)
    _joined = _Membership(rank, world_size, store, use_interface(address))
    try:
        inner = PrefixStore("group", store)
        dist.init_process_group(backend, store=inner, rank=rank, world_size=world_size, timeout=limit)
    except RuntimeError as error:
        leave_group()
        raise GroupError(
            f"rank {rank} of {world_size} could not join the group at {address}:{port}: {first_line(error)}"
        ) from error


def leave_group() -> None:
    """Leave the group, if this process is in one, without waiting for the others."""
    global _joined
    left, _joined = _joined, None
    if dist.is_initialized():
        dist.destroy_process_group()
    for name in left.settings if left is not None else ():
        os.environ.pop(name, None)


def free_port(address: str = LOOPBACK) -> int:
    """Return a port at `address` on which nothing listens, for rank 0 to listen on soon."""
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def at_work(operation: str) -> Iterator[None]:
    """Announce that this rank begins `operation`. An error of the connection to other ranks becomes a `GroupError`."""
    if _joined is not None:
        _joined.announce(operation, begins=True)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, GroupError) or not _is_of_transport(error):
            raise
        if _joined is None:
            where = f"rank {dist.get_rank()} of {dist.get_world_size()} waited in vain in {operation}"
        else:
            where = _joined.whereabouts(operation)
            _joined.announce(f"{operation}, and gave up", begins=False)
        raise GroupError(f"{where}: {first_line(error)}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranks:
    """The collective operations of the processes that learn together."""

    rank: int = 0
    size: int = 1
    device: torch.device
    """Where exchanged tensors lie: where the model is."""

    @contextmanager
    def at(self, operation: str) -> Iterator[None]:
        """Announce what this rank does; a wait for another rank that fails is a `GroupError` that names it."""
        if self.size == 1:
            yield
            return
        with at_work(operation):
            yield

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks, the same bits on each."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def add_up_metrics(self, sums: Metrics, keys: Sequence[str]) -> Metrics:
        """Return the sums with those under `keys` added up over all ranks; the others are the same on every rank."""
        if self.size == 1:
            return sums
        values = torch.tensor([sums.get(key, 0.0) for key in keys], dtype=torch.float64, device=self.device)
        self.add_up(values)
        return {**sums, **dict(zip(keys, values.tolist(), strict=True))}

    @torch.no_grad()
    def add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace gradients by their sums over all ranks; a parameter without a gradient on any rank keeps none.

        The sums are made in a few large buckets, and are the same bits on every rank.
        """
        if self.size == 1:
            return
        present = torch.tensor([parameter.grad is not None for parameter in parameters], device=self.device).long()
        self.add_up(present)
        used = [parameter for parameter, count in zip(parameters, present.tolist(), strict=True) if count]
        for bucket in _buckets(used):
            flat = torch.cat([_gradient(parameter).flatten() for parameter in bucket])
            self.add_up(flat)
            sizes = [parameter.numel() for parameter in bucket]
            for parameter, part in zip(bucket, torch.split(flat, sizes), strict=True):
                parameter.grad = part.view_as(parameter)

    def max(self, number: int) -> int:
        """Return the largest of all ranks' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value)

    def check_same(self, what: str, fingerprint: Callable[[], int], fix: str) -> None:
        """Raise `ValueError` on all ranks unless they have the same; a process by itself computes no fingerprint."""
        if self.size == 1:
            return
        own = torch.tensor([fingerprint()], device=self.device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        others = [rank for rank, value in enumerate(found) if not torch.equal(value, found[0])]
        if others:
            have = "has" if len(others) == 1 else "have"
            raise ValueError(f"{ranks_named(others)} {have} a different {what} from rank 0; {fix}")

    def lead(self, work: Callable[[], None]) -> None:
        """Do the work on rank 0 while the others wait; when it fails, every rank raises."""
        failure = None
        if self.rank == 0:
            try:
                work()
            except Exception as error:
                failure = error
        failed = self.max(int(failure is not None))
        if failure is not None:
            raise failure
        if failed:
            raise GroupError("rank 0 failed while the other ranks waited for it; its own error gives the reason")


def current_ranks(device: torch.device) -> Ranks:
    """Return the ranks of the group that this process is in. Raises `ValueError` for devices without a backend."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Ranks(device=device)
    if device.type not in BACKENDS:
        raise ValueError(
            f"got a model on {device.type} and {dist.get_world_size()} learning processes; expected it on"
            f" {' or '.join(BACKENDS)}, or one process"
        )
    return Ranks(rank=dist.get_rank(), size=dist.get_world_size(), device=device)


def weights_fingerprint(weights: Iterable[Tensor]) -> int:
    """Return a number that follows from the weights' bits, whatever the order in which they are summed."""
    sums = [
        int(weight.detach().contiguous().view(_INTEGERS[weight.element_size()]).sum(dtype=torch.int64))
        for weight in weights
    ]
    return derive_seed("weights", *sums)


def batch_fingerprint(batch: Batch | None) -> int:
    """Return a number that follows from everything in a batch; 0 for none."""
    if batch is None:
        return 0
    parts = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return derive_seed("batch", *(hashlib.blake2b(part.numpy()).hexdigest() for part in parts))


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Split the parameters into runs of at most `BUCKET_ELEMENTS` (or one parameter)."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def _store(rank: int, world_size: int, address: str, port: int, limit: timedelta) -> Any:
    """Open the store at which ranks meet, on rank 0 and at that address only, or connect to it."""
    try:
        if rank == 0:
            descriptor = socket.create_server((address, port), backlog=max(128, world_size)).detach()
            return TCPStore(address, port, world_size, True, limit, wait_for_workers=False, master_listen_fd=descriptor)
        return TCPStore(address, port, world_size, False, limit, wait_for_workers=False)
    except OSError as error:
        raise GroupError(
            f"rank 0 cannot listen at {address}:{port}: {error.strerror}; give an address of this machine and a free"
            " port"
        ) from error
    except RuntimeError as error:
        raise GroupError(
            f"rank {rank} of {world_size} waited {limit.total_seconds():g} s for rank 0 to listen at {address}:{port}:"
            f" {first_line(error)}"
        ) from error


def meet(store: Any, rank: int, world_size: int, where: str, limit: timedelta) -> None:
    """Wait until every rank has joined. Raises `GroupError` when one does not within the limit, or joins twice."""
    if store.add(f"joined/{rank}", 1) > 1:
        raise GroupError(f"two processes joined the group at {where} as rank {rank}; give every process its own rank")
    names = [f"joined/{other}" for other in range(world_size)]
    try:
        store.wait(names, limit)
    except RuntimeError as error:
        missing = _within(
            DIAGNOSIS_SECONDS, lambda: [other for other, name in enumerate(names) if not store.check([name])]
        )
        if missing is None:
            raise GroupError(
                f"rank {rank} of {world_size} lost rank 0 at {where} while the ranks were joining: {first_line(error)}"
            ) from error
        raise GroupError(
            f"rank {rank} of {world_size} waited {limit.total_seconds():g} s for {ranks_named(missing)} to join at"
            f" {where}; start all {world_size} processes within that time"
        ) from error


def ranks_named(ranks: list[int]) -> str:
    """Return "rank 1" or "ranks 1, 2"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def use_interface(address: str) -> list[str]:
    """Limit gloo and NCCL to the network interface that leads to rank 0, unless the environment names one.

    Returns the environment variables that were set.
    """
    interface = _interface(address)
    names = [name for name in _INTERFACE_SETTINGS if interface is not None and name not in os.environ]
    for name in names:
        os.environ[name] = str(interface)
    return names


def _interface(address: str) -> str | None:
    """Return the network interface that leads to `address`, or None where the system does not say."""
    if sys.platform != "linux":
        return None
    import fcntl  # Unix only

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # one without an IPv4 address
                answer = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return None


def _is_of_transport(error: RuntimeError) -> bool:
    """Whether an error is about processes not reaching one another; gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or _TRANSPORT.search(str(error)) is not None


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """Return what `ask()` returns, or None when it fails or takes longer; a store's requests have no time limit."""
    answers: list[Any] = []

    def work() -> None:
        with suppress(RuntimeError):
            answers.append(ask())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def first_line(error: BaseException) -> str:
    """Return the message of a torch error without the C++ source location before it and the stack trace after."""
    first = str(error).strip().partition("\n")[0].partition(". This is typically")[0]
    return re.sub(r"^\[\S*\] ", "", first)
