"""A process group beside the default one, for one process to send bytes to some others.

It is built from its parts, a store and a transport, and never becomes a process's default group: a learner has another
one there, and vLLM takes a default group for its own. (Ray's collective library does make its gloo group the default
one, which is why it is not used.) gloo carries it between CPUs and NCCL between GPUs, where every process needs one of
its own; nothing else differs.

Every wait has a limit. Whoever fails leaves the group, which breaks the connections of the others: a dead process is
noticed at once, a stopped one at the limit. A broken group is of no more use; the next meeting, by another number,
makes a new one.

Left out: a limit of ours to the first contact of NCCL's processes, which it does not take; whoever asked for a
broadcast has to have one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed import distributed_c10d as c10d

from spiral.distributed.session import import_ray

POLL_SECONDS = 0.01
LOOPBACK = "127.0.0.1"


class BroadcastError(RuntimeError):
    """Weights did not get through to somebody."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meeting:
    """Who is in a group and where they meet; the same for all but for `rank`."""

    generation: int
    """Another number is another group."""
    rank: int
    """0 is the sender's."""
    size: int
    address: str
    port: int
    """Of the sender's store."""
    local: bool
    """Whether all are on one machine and keep to its loopback interface."""
    device: str
    """Kind of device to send from and to receive on: "cpu" or "cuda"."""
    seconds: float
    """Longest that this process is busy with a broadcast, the meeting included."""


def own_address(local: bool) -> str:
    """Where other processes reach this one."""
    return LOOPBACK if local else str(import_ray().util.get_node_ip_address())


def group_prefix(generation: int) -> str:
    """Before all of a group's keys in the store."""
    return f"weights {generation}"


class Group:
    """One process's place in a group; `leave` ends it."""

    def __init__(self, meeting: Meeting, store: Any, end: float) -> None:
        """Returns when all have come. Raises `RuntimeError`, of which `BroadcastError` is one, when they do not."""
        self.generation = meeting.generation
        self.device = meeting.device
        inside = PrefixStore(group_prefix(meeting.generation), store)
        inside.set(f"here/{meeting.rank}", "")
        self._wait_for_all(meeting, inside, end)
        limit = timedelta(seconds=max(1.0, end - time.monotonic()))
        self._transport: Any = _transport(meeting, PrefixStore("transport", inside), limit)

    def broadcast(self, tensor: Tensor, end: float) -> None:
        """Fills the tensor with the sender's."""
        limit = timedelta(seconds=max(0.001, end - time.monotonic()))
        options = c10d.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = 0, 0, limit
        self._transport.broadcast([tensor], options).wait(limit)

    def leave(self) -> None:
        """Closes the connections, so that nobody waits for this process."""
        if self.device == "cuda" and self._transport is not None:
            with contextlib.suppress(RuntimeError):  # it may be broken already
                self._transport.abort()
        self._transport = None

    @staticmethod
    def _wait_for_all(meeting: Meeting, store: Any, end: float) -> None:
        names = {rank: f"here/{rank}" for rank in range(meeting.size)}
        while not store.check(list(names.values())):
            if store.check(["abandoned"]):
                raise BroadcastError("somebody else could not come")
            if time.monotonic() > end:
                missing = [str(rank) for rank, name in names.items() if not store.check([name])]
                raise BroadcastError(f"waited {meeting.seconds:g} s for rank {', '.join(missing)} to come")
            time.sleep(POLL_SECONDS)


class Place:
    """Where this process is at present: in one group or none."""

    def __init__(self) -> None:
        self._group: Group | None = None

    def at(self, meeting: Meeting, connect: Callable[[], Any], end: float) -> Group:
        """The group of the meeting, entered now if need be; `connect()` gives its store."""
        if self._group is None or self._group.generation != meeting.generation:
            self.leave()
            self._group = Group(meeting, connect(), end)
        return self._group

    def leave(self) -> None:
        """Into none."""
        group, self._group = self._group, None
        if group is not None:
            group.leave()


def _transport(meeting: Meeting, store: Any, limit: timedelta) -> Any:
    """What carries the bytes, connected."""
    if meeting.device == "cuda":
        nccl = c10d.ProcessGroupNCCL.Options()
        nccl._timeout = limit
        with _waits_raise():
            return c10d.ProcessGroupNCCL(store, meeting.rank, meeting.size, nccl)
    gloo = c10d.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    gloo._timeout = limit
    gloo._devices = [c10d.ProcessGroupGloo.create_device(hostname=own_address(meeting.local))]
    return c10d.ProcessGroupGloo(store, meeting.rank, meeting.size, gloo)


@contextlib.contextmanager
def _waits_raise() -> Iterator[None]:
    """A group of NCCL's made in here raises an error at a limit, where others end their process."""
    name = "TORCH_NCCL_BLOCKING_WAIT"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def one_line(error: BaseException) -> str:
    """The first line of what torch says, without the place in the C++ code and the advice."""
    first = str(error).strip().partition("\n")[0].partition(". This is typically")[0]
    return re.sub(r"^\[\S*\] ", "", first)
