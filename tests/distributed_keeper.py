"""A learner that learns nothing: it keeps weights and sends them, and can harm another process meanwhile."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from pathlib import Path

from distributed_policies import weights
from spiral.distributed.weights.base import WEIGHT_GROUPS, TransportContext, WeightsHandle
from spiral.distributed.weights.broadcast import BroadcastSender, Group
from spiral.distributed.weights.ipc import Lender, Lenders, own_locations
from spiral.runs.cluster import ClusterConfig


def context(versions=2, dtype=None):
    """Sets how many versions a sender keeps."""
    config = ClusterConfig(schedule="async", max_staleness=versions - 1) if versions > 1 else ClusterConfig()
    return TransportContext(config=config, dtype=dtype)


class Keeper:
    """The part of a `LearnerWorker` that publishes weights."""

    def __init__(self):
        self.sender = BroadcastSender(context())
        self.copies = 0
        self.victim = None
        self.fault = None

    def keep(self, version, named, dtype, versions):
        self.sender._dtype, self.sender._versions = dtype, versions
        size, _ = self.sender.send(version, named)
        return size

    def call_transport(self, method, *arguments):
        if method == "copy":
            self.copies += 1
        if method == "broadcast":
            return self.broadcast(*arguments)
        return getattr(self.sender, method)(*arguments)

    def broadcast(self, version, rendezvous):
        if self.fault is not None:
            return self.fault
        whole, sent = Group.broadcast, []

        def broadcast(group, tensor, end):
            if len(sent) == 2 and self.victim is not None:  # the layout has been sent, the weights have not
                os.kill(*self.victim)
                self.victim = None
            sent.append(tensor)
            whole(group, tensor, end)

        Group.broadcast = broadcast
        try:
            return self.sender.broadcast(version, rendezvous)
        finally:
            Group.broadcast = whole

    def harm(self, pid, signal):
        """The next broadcast also sends a signal."""
        self.victim = pid, signal

    def fail(self, fault):
        """Every broadcast fails from now on."""
        self.fault = fault

    def lend(self, on_gpu=False):
        """Weights are kept where other processes can read them; returns their location."""
        self.sender = Lender(context(), active=True, on_gpu=on_gpu)
        self.sender.begin_lending()
        return own_locations()[1]

    def copies_made(self):
        """How many copies were asked for."""
        return self.copies

    def threads(self):
        return gloo_threads()


def gloo_threads():
    """The number of gloo's threads in this process; Ray's own threads come and go."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            count += "gloo" in (task / "comm").read_text()
    return count


def keeper():
    """An actor."""
    import ray

    return ray.remote(num_cpus=0, concurrency_groups=WEIGHT_GROUPS)(Keeper).remote()


def lent(actor, version, location, keep=2, named=None, dtype=None):
    """A handle of weights that are read in the keeper's memory; `location` is what its `lend` returned."""
    given = handle(actor, version, keep, named, dtype)
    return dataclasses.replace(given, peers=Lenders(keeper=actor, by_location={location: actor}))


def handle(actor, version, keep=2, named=None, dtype=None):
    """A handle of weights that are broadcast, those of a `Coin` unless others are given."""
    import ray

    size = ray.get(actor.keep.remote(version, list(named or weights(version)), dtype, keep))
    return WeightsHandle(version=version, peers=actor, num_bytes=size)
