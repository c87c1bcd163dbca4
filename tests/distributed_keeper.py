"""A learner that learns nothing: it keeps weights and sends them, and can harm a process while it does."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from pathlib import Path

from distributed_policies import weights
from spiral.distributed.session import CONTROL
from spiral.distributed.weights.base import Source, WeightsHandle
from spiral.distributed.weights.broadcast import Group
from spiral.distributed.weights.ipc import Lender, own_places
from spiral.distributed.weights.sync import WEIGHTS, Sender


class Keeper:
    """The methods of a `LearnerWorker` that publish weights."""

    def __init__(self):
        self.sender = Sender()
        self.copies = 0
        self.victim = None
        self.fault = None

    def keep(self, version, named, dtype, keep):
        return self.sender.keep(version, named, dtype, keep)

    def broadcast_place(self, local, seconds):
        return self.sender.meeting_place(local, seconds)

    def send_weights(self, version, meeting):
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
            return self.sender.send(version, meeting)
        finally:
            Group.broadcast = whole

    def harm(self, pid, signal):
        """The next sending sends a signal too."""
        self.victim = pid, signal

    def fail(self, fault):
        """Nothing is sent from now on."""
        self.fault = fault

    def lend(self, newest_only=False):
        """Weights are kept where others can read them, and not broadcast."""
        self.sender = Lender(newest_only)
        return own_places()[1]

    def lend_weights(self, version):
        return self.sender.lend(version)

    def holds_weights(self, number):
        return self.sender.holds(number)

    def abandon(self, generation):
        self.sender.abandon(generation)

    def copy_weights(self, version):
        self.copies += 1
        return self.sender.copy(version)

    def asked_for(self):
        """How many copies."""
        return self.copies

    def threads(self):
        """Those of gloo in this process."""
        return gloo_threads()


def gloo_threads():
    """How many there are in this process; Ray's own threads come and go."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            count += "gloo" in (task / "comm").read_text()
    return count


def keeper():
    """An actor."""
    import ray

    return ray.remote(num_cpus=0, concurrency_groups={CONTROL: 1, WEIGHTS: 1})(Keeper).remote()


def lent(actor, version, place, keep=2, named=None, dtype=None):
    """The same for weights that are read in the keeper's memory; `place` is what its `lend` gives."""
    given = handle(actor, version, keep, named, dtype)
    return dataclasses.replace(given, source=Source(actor=actor, device=None, lenders={place: actor}))


def handle(actor, version, keep=2, named=None, dtype=None):
    """What a learner's `weights()` gives, for a `Coin` unless others are given."""
    import ray

    size = ray.get(actor.keep.remote(version, list(named or weights(version)), dtype, keep))
    return WeightsHandle(version=version, source=Source(actor=actor, device="cpu"), num_bytes=size)
