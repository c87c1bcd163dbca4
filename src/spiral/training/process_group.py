"""Joining the processes that learn together, and saying who waited for whom when one of them does not answer.

Every process is a rank of one `torch.distributed` process group. The ranks meet at a store that rank 0 opens, on the
loopback interface unless another address is given, and each leaves word there of the work it has come to. Every wait
has a limit; when one runs out, or a connection breaks, the error tells where this rank was and where the others were
last seen. NCCL reports a wait that has run out by ending the process, with its own words on standard error.

Left out: replacing a lost rank. Its group is of no more use, so all ranks leave it, join a new one and make their
learners anew, from a checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""By kind of device."""
LOOPBACK = "127.0.0.1"
DIAGNOSIS_SECONDS = 2.0
"""How long a failed rank looks for the others before it gives up on saying where they are."""
_TRANSPORT = re.compile(r"gloo|nccl|c10d|process ?group", re.IGNORECASE)
_INTERFACE_SETTINGS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_ADDRESS_OF_INTERFACE = 0x8915
"""SIOCGIFADDR of Linux."""


class GroupError(RuntimeError):
    """The processes that learn together could not meet, or lost one another."""


@dataclasses.dataclass
class _Membership:
    """What this process knows of the group it has joined."""

    rank: int
    world_size: int
    store: Any
    settings: list[str]
    """Environment variables set on joining."""
    place: int = 0
    """How many pieces of work this rank has come to; all ranks come to the same."""
    store_answers: bool = True


_joined: _Membership | None = None


def join_group(
    rank: int,
    world_size: int,
    *,
    port: int,
    address: str = LOOPBACK,
    backend: str = BACKENDS["cpu"],
    timeout_seconds: float = 600.0,
) -> None:
    """Makes this process rank `rank` of `world_size`; returns when all have come.

    `address` and `port` are where rank 0 listens (`free_port` finds one). `timeout_seconds` limits this wait and every
    later one, so it has to be longer than rank 0 takes to write a checkpoint. Raises `ValueError` for impossible
    arguments and `GroupError` when the ranks do not meet.
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
    """Ends this process's part in its group, if it has one; does not wait for the others."""
    global _joined
    left, _joined = _joined, None
    if dist.is_initialized():
        dist.destroy_process_group()
    for name in left.settings if left is not None else ():
        os.environ.pop(name, None)


def free_port(address: str = LOOPBACK) -> int:
    """A port on which nobody listens at `address`, for rank 0 to listen on soon."""
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Leaves word that this rank has come to `what`; what fails in there for want of another rank is a `GroupError`."""
    _leave_word(what, next_place=True)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, GroupError) or not _is_of_transport(error):
            raise
        message = f"{_whereabouts(what)}: {first_line(error)}"
        _leave_word(f"{what}, and gave up", next_place=False)
        raise GroupError(message) from error


def _store(rank: int, world_size: int, address: str, port: int, limit: timedelta) -> Any:
    """The store at which ranks meet; rank 0 opens it, at that address only."""
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


def meet(store: Any, rank: int, world_size: int, place: str, limit: timedelta) -> None:
    """Waits until every rank has come, each once."""
    if store.add(f"joined/{rank}", 1) > 1:
        raise GroupError(f"two processes joined the group at {place} as rank {rank}; give every process its own rank")
    names = [f"joined/{other}" for other in range(world_size)]
    try:
        store.wait(names, limit)
    except RuntimeError as error:
        missing = _within(
            DIAGNOSIS_SECONDS, lambda: [other for other, name in enumerate(names) if not store.check([name])]
        )
        if missing is None:
            raise GroupError(
                f"rank {rank} of {world_size} lost rank 0 at {place} while the ranks were joining: {first_line(error)}"
            ) from error
        raise GroupError(
            f"rank {rank} of {world_size} waited {limit.total_seconds():g} s for {ranks_named(missing)} to join at"
            f" {place}; start all {world_size} processes within that time"
        ) from error


def ranks_named(ranks: list[int]) -> str:
    """For example "rank 1" or "ranks 1, 2"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def use_interface(address: str) -> list[str]:
    """Keeps gloo and NCCL to the network interface through which rank 0 is reached, unless they were told before."""
    interface = _interface(address)
    names = [name for name in _INTERFACE_SETTINGS if interface is not None and name not in os.environ]
    for name in names:
        os.environ[name] = str(interface)
    return names


def _interface(address: str) -> str | None:
    """The network interface that leads to `address`, or None where the system does not say."""
    if sys.platform != "linux":
        return None
    import fcntl  # of Unix only

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # one without an IPv4 address
                answer = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return None


def _leave_word(what: str, *, next_place: bool) -> None:
    """Writes down where this rank is; a store that is gone is found by the next collective operation."""
    if _joined is None or not _joined.store_answers:
        return
    _joined.place += next_place
    with suppress(RuntimeError):
        _joined.store.set(f"at/{_joined.rank}", f"{_joined.place} {what}")


def _is_of_transport(error: RuntimeError) -> bool:
    """Whether an error is about processes not reaching one another; gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or _TRANSPORT.search(str(error)) is not None


def _whereabouts(what: str) -> str:
    """Where this rank is and where the others were last seen, in words."""
    if _joined is None:
        return f"rank {dist.get_rank()} of {dist.get_world_size()} waited in vain in {what}"
    joined = _joined
    mine = f"rank {joined.rank} of {joined.world_size}, at {what}"
    seen = _within(DIAGNOSIS_SECONDS, lambda: _last_words(joined))
    if seen is None:
        joined.store_answers = False
        return f"{mine}, waited in vain; rank 0, where the ranks leave word, does not answer"
    behind = {rank: word for rank, (place, word) in seen.items() if place < joined.place}
    waited_for = behind or {rank: word for rank, (_, word) in seen.items()}
    last = "; ".join(f"rank {rank} was last seen at {word}" for rank, word in waited_for.items())
    return f"{mine}, waited in vain for {ranks_named(sorted(waited_for))}; {last}"


def _last_words(joined: _Membership) -> dict[int, tuple[int, str]]:
    """By rank, for all others: how far it has come and to what."""
    words = {}
    for rank in range(joined.world_size):
        if rank != joined.rank:
            key = f"at/{rank}"
            text = joined.store.get(key).decode() if joined.store.check([key]) else "0 its start"
            place, _, word = text.partition(" ")
            words[rank] = (int(place), word)
    return words


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What `ask()` gives, or None when it fails or takes longer; a store's own questions have no limit."""
    answers: list[Any] = []

    def work() -> None:
        with suppress(RuntimeError):
            answers.append(ask())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def first_line(error: BaseException) -> str:
    """What a torch error says, without the place in the C++ code before it and the advice and stack traces after."""
    first = str(error).strip().partition("\n")[0].partition(". This is typically")[0]
    return re.sub(r"^\[\S*\] ", "", first)
