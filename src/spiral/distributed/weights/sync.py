"""Weights sent from process to process: rank 0 of the learner to all rollout workers, by `torch.distributed`.

    learner rank 0: sender.keep(version, learner.weights())       sender.send(version, meeting)
    every worker:                                                 receiver.receive(version, meeting)

Sender and receivers make up a process group of their own (`broadcast.py`), apart from the group of those that learn
together: gloo between CPUs, NCCL between GPUs. Rank 0 of it is the sender.

A receiver does not touch its policy. It receives in a thread of its own, games going on meanwhile, and keeps what came
in main memory until the policy takes it between turns. So nobody waits for anybody's games, and weights
of the games under way stay.

What did not arrive, and what a worker had and has no more, can be had from the sender through the object store.

Left out: receiving straight into a policy's memory, which would be quicker between GPUs and would have games wait.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from spiral.distributed.placement import pairs
from spiral.distributed.session import ClusterError, import_ray
from spiral.distributed.weights.base import FlatWeights, flatten, pack, parse_layout
from spiral.distributed.weights.broadcast import (
    BroadcastError,
    Group,
    Meeting,
    Place,
    group_prefix,
    one_line,
    own_address,
)
from spiral.runs.cluster import ClusterConfig

WEIGHTS = "weights"
"""The thread group of actors for what moves weights."""
STAGED = 2
"""Versions that a receiver keeps: with `overlap`, the games under way may be followed by some with the one before the
newest."""


def way(config: ClusterConfig, learner_gpus: float) -> Literal["object_store", "broadcast", "ipc"]:
    """How weights travel: 'auto' reads in the learner's memory where GPUs are shared, and broadcasts between others."""
    if config.publish != "auto":
        return config.publish
    if pairs(config, learner_gpus):
        return "ipc"
    return "broadcast" if broadcast_device(config, learner_gpus) == "cuda" else "object_store"


def broadcast_device(config: ClusterConfig, learner_gpus: float) -> str:
    """Between which kind of devices: "cuda" where every process has a GPU to itself, as NCCL needs it, else "cpu"."""
    return "cuda" if learner_gpus >= 1 and config.gpus_per_worker >= 1 else "cpu"


class Sender:
    """Keeps the newest versions of weights, sends them, and puts them into the object store for whoever asks."""

    def __init__(self) -> None:
        self._place = Place()
        self._store: Any = None
        self._address = ("", 0)
        self._kept: dict[int, FlatWeights] = {}
        self._copies: dict[int, Any] = {}
        self._lock = threading.Lock()

    def keep(self, version: int, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None, keep: int) -> int:
        """Takes a copy of weights, in `dtype` where one is given, and drops all but `keep` versions. Returns its size.

        The newest stays on its device until it is sent.
        """
        flat = flatten(weights, dtype)
        with self._lock:
            kept = {known: older.on("cpu") for known, older in self._kept.items()} | {version: flat}
            self._kept = {known: kept[known] for known in sorted(kept)[-keep:]}
            self._copies = {known: ref for known, ref in self._copies.items() if known in self._kept}
        return flat.num_bytes

    def meeting_place(self, local: bool, seconds: float) -> tuple[str, int]:
        """Address and port of the store at which all groups meet; opens it the first time."""
        if self._store is None:
            address = own_address(local)
            listening = socket.create_server((address, 0), backlog=128)
            self._address = (address, int(listening.getsockname()[1]))
            self._store = TCPStore(
                *self._address, None, True, timedelta(seconds=seconds), wait_for_workers=False,
                master_listen_fd=listening.detach(),
            )  # fmt: skip
        return self._address

    def send(self, version: int, meeting: Meeting) -> str | None:
        """Sends a version to all of a meeting; returns what went wrong, in one line, if anything did."""
        end = time.monotonic() + meeting.seconds
        flat = self._kept[version]
        try:
            group = self._place.at(meeting, lambda: self._store, end)
            text = torch.frombuffer(bytearray(flat.layout(version).encode()), dtype=torch.uint8)
            for tensor in (torch.tensor([len(text)]), text, *flat.buckets):
                group.broadcast(tensor.to(group.device), end)
        except (RuntimeError, OSError) as error:
            self._place.leave()
            return one_line(error)
        finally:
            with self._lock:
                if version in self._kept:
                    self._kept[version] = flat.on("cpu")
        return None

    def abandon(self, generation: int) -> None:
        """Sends those home who wait in vain for others to come to a meeting; for another thread than `send`'s."""
        own = TCPStore(*self._address, None, False, timedelta(seconds=5), wait_for_workers=False)
        PrefixStore(group_prefix(generation), own).set("abandoned", "")

    def copy(self, version: int) -> list[Any]:
        """A reference to `PackedWeights` in the object store, in a list, so that Ray leaves it as it is."""
        ray = import_ray()

        with self._lock:
            if version not in self._copies:
                if version not in self._kept:
                    raise ValueError(f"weights of version {version} are gone; kept are {sorted(self._kept)}")
                packed = pack(self._kept[version].tensors())
                try:
                    self._copies[version] = ray.put(packed)
                except ray.exceptions.ObjectStoreFullError as error:
                    raise ClusterError(store_full(packed.num_bytes)) from error
            return [self._copies[version]]

    def close(self) -> None:
        """Leaves the group and closes the store."""
        self._place.leave()
        self._store = None


class Receiver:
    """Receives weights and keeps them until they are taken."""

    def __init__(self) -> None:
        self._place = Place()
        self._staged: dict[int, FlatWeights] = {}
        self._lock = threading.Lock()

    def receive(self, version: int, meeting: Meeting) -> str | None:
        """Receives a version; returns what went wrong, in one line, if anything did."""
        end = time.monotonic() + meeting.seconds
        try:
            group = self._place.at(meeting, lambda: _connect(meeting), end)
            flat = _received(group, version, end)
        except (RuntimeError, OSError) as error:
            self._place.leave()
            return one_line(error)
        with self._lock:
            staged = self._staged | {version: flat}
            self._staged = {known: staged[known] for known in sorted(staged)[-STAGED:]}
        return None

    def take(self, version: int) -> FlatWeights | None:
        """What was received of a version, if it was; forgets it and all older ones."""
        with self._lock:
            taken = self._staged.get(version)
            if taken is not None:
                self._staged = {known: flat for known, flat in self._staged.items() if known > version}
        return taken

    def close(self) -> None:
        """Leaves the group."""
        self._place.leave()


def store_full(num_bytes: int) -> str:
    """What to tell when weights do not go into the object store."""
    return (
        f"weights of {num_bytes / 2**30:.2f} GiB find no room in Ray's object store; expected a larger"
        " cluster.object_store_gib, with room for about three versions"
    )


def _received(group: Group, version: int, end: float) -> FlatWeights:
    """The next weights that the group's sender sends, which should be of this version."""

    def receive(size: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        tensor = torch.empty(size, dtype=dtype, device=group.device)
        group.broadcast(tensor, end)
        return tensor.to("cpu")

    text = receive(int(receive(1, torch.int64)))
    sent, slots, sizes = parse_layout(bytes(text.tolist()).decode())
    if sent != version:
        raise BroadcastError(f"got weights of version {sent}; expected version {version}")
    return FlatWeights(slots=slots, buckets=tuple(receive(size) for size in sizes))


def _connect(meeting: Meeting) -> Any:
    limit = timedelta(seconds=meeting.seconds)
    return TCPStore(meeting.address, meeting.port, None, False, limit, wait_for_workers=False)
