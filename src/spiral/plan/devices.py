"""What is on which device: the learner and the engines together, apart, or all in the memory of one machine.

    one process                            learner and engine on its device
    0 < cluster.gpus_per_worker < 1        an engine on the GPU of each of the learner's ranks; other GPUs for the rest
    cluster.gpus_per_worker of 1 or more   the learner's GPUs and the engines' GPUs
    CPUs                                   every process of a machine takes its part of one memory

Processes are placed by `distributed/placement.py`. A recipe for several devices without rollout workers is planned as
if they shared the learner's GPUs. Left out: how many CPU machines a joined Ray has; there, the learner's ranks are
taken to be on one of them, and every rollout worker to have one to itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from spiral.plan.memory import Item, Phase
from spiral.runs.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """Devices that hold the same."""

    name: str
    items: tuple[Item, ...]
    together: str = ""
    """Why it plays and updates at the same time, where it does."""

    def phase_gib(self, phase: Phase) -> float:
        """What is held in a phase of the step, or always."""
        return sum(item.gib for item in self.items if item.phase in ("always", phase))

    @property
    def need_gib(self) -> float:
        """The most that is held at once."""
        if self.together:
            return sum(item.gib for item in self.items)
        return max(self.phase_gib("playing"), self.phase_gib("updating"))


def lay_out(
    recipe: Recipe, learner: Iterable[Item], engine: Iterable[Item], others: Iterable[Item], gpu: bool
) -> tuple[Device, ...]:
    """Every kind of device, given what a rank of the learner, the engine that measures and each of the others hold."""
    ranks, workers = recipe.hardware.devices, recipe.cluster.rollout_workers
    learner, engine = tuple(learner), tuple(engine)
    if not workers and (gpu or ranks == 1):
        return (Device(name=_each(ranks, "device"), items=(*learner, *engine)),)
    return _gpus(recipe, learner, engine) if gpu else _machines(recipe, learner, engine, tuple(others))


def _gpus(recipe: Recipe, learner: tuple[Item, ...], engine: tuple[Item, ...]) -> tuple[Device, ...]:
    """GPUs of the learner's ranks and of rollout workers."""
    cluster, ranks = recipe.cluster, recipe.hardware.devices
    if not cluster.shares_gpus:
        return (
            Device(name=_each(ranks, "GPU") + " of the learner", items=learner),
            Device(name=_each(cluster.rollout_workers, "GPU") + " of rollout workers", items=engine),
        )
    ahead = "both at once on a shared GPU" if cluster.schedule != "sync" else ""
    shared = Device(name=_each(ranks, "GPU") + " of the learner", items=(*learner, *engine), together=ahead)
    others = min(cluster.rollout_workers - ranks, int(1 / cluster.gpus_per_worker))
    if others <= 0:
        return (shared,)
    return shared, Device(name=f"a GPU of {_count(others, 'other rollout worker')}", items=_times(engine, others))


def _machines(
    recipe: Recipe, learner: tuple[Item, ...], engine: tuple[Item, ...], others: tuple[Item, ...]
) -> tuple[Device, ...]:
    """Memory of CPUs."""
    cluster, ranks = recipe.cluster, recipe.hardware.devices
    workers = cluster.rollout_workers or ranks
    learners = _times(learner, ranks)
    if cluster.rollout_workers and cluster.address != "local":
        return (
            Device(name=f"the machine of {_count(ranks, 'learner worker')}", items=learners),
            Device(name="the machine of a rollout worker", items=engine),
        )
    ahead = "both at once on one machine" if cluster.rollout_workers and cluster.schedule != "sync" else ""
    name = f"a machine of {_count(ranks, 'learner worker')} and {_count(workers, 'rollout worker')}"
    return (Device(name=name, items=(*learners, *_with_others(engine, others, workers - 1)), together=ahead),)


def _times(items: Iterable[Item], processes: int) -> tuple[Item, ...]:
    """What so many processes hold in one memory."""
    if processes == 1:
        return tuple(items)
    return tuple(
        dataclasses.replace(
            item,
            gib=item.gib * processes,
            note=", ".join(filter(None, (item.note, f"in {processes} processes"))),
        )
        for item in items
    )


def _with_others(engine: tuple[Item, ...], others: tuple[Item, ...], number: int) -> tuple[Item, ...]:
    """What the engine that measures and so many others hold in one memory, item by item."""
    if engine == others or not number:
        return _times(engine, 1 + number)
    return tuple(
        dataclasses.replace(
            own,
            gib=own.gib + number * other.gib,
            note=", ".join(
                filter(None, (own.note, _count(number, "other process", "es") + f": {other.note}".rstrip(": ")))
            ),
        )
        for own, other in zip(engine, others, strict=True)
    )


def _each(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"each of {number} {what}s"


def _count(number: int, what: str, more: str = "s") -> str:
    return f"{number} {what}{more if number != 1 else ''}"
