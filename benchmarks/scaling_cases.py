"""A model on a cluster of a given size: what the simulation needs, worked out by the cost model.

A case says what is simulated; `without` makes the same case with one cost taken away, which shows what that cost is to
blame for.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

from benchmarks.scaling_inputs import Device, Shape, Workload
from benchmarks.scaling_model import (
    GPUS_A_NODE,
    Constants,
    Engine,
    Publishing,
    engine,
    learner_seconds,
    least_learner_gpus,
    more_gpus,
    publish_seconds,
    replica_gpus,
)
from benchmarks.scaling_play import Game, draw_games
from benchmarks.scaling_simulation import CHUNKS_PER_WORKER, FORMER_CHUNKS, Result, Setting, simulate
from benchmarks.scaling_worker import Way
from spiral.runs.cluster import Schedule

COSTS = ("small batches", "uneven games", "waiting for weights", "learning", "publishing and the driver")
MOST_LEARNER_GPUS = 1024
SHORT = 2
"""Steps that count in a simulation that only says how long games take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is simulated. `learner_gpus` 0: as many as keep an update shorter than the games."""

    shape: Shape
    device: Device
    workers: int
    workload: Workload
    rows: int = 256
    """Games that a worker has in flight at most."""
    constants: Constants = dataclasses.field(default_factory=Constants)
    publishing: Publishing = "broadcast"
    schedule: Schedule = "sync"
    max_staleness: int = 1
    way: Way = "joined"
    chunks_per_worker: int = CHUNKS_PER_WORKER
    learner_gpus: int = 0
    full_batches: bool = False
    free_learning: bool = False
    steps: int = 4
    """Those that count."""
    seed: int = 0

    @property
    def replica(self) -> int:
        """GPUs of a rollout worker."""
        return replica_gpus(self.shape, self.device)

    @property
    def rollout_gpus(self) -> int:
        """Of all workers."""
        return self.workers * self.replica

    def engine(self) -> Engine:
        """Of a rollout worker."""
        made = engine(self.shape, self.device, self.replica, self.workload, self.constants, self.rows)
        return made.always_full() if self.full_batches else made

    def learn(self, gpus: int) -> float:
        """Seconds of an update on `gpus` GPUs."""
        return learner_seconds(self.shape, self.device, gpus, self.workload, self.constants)

    def as_before(self) -> Case:
        """The same with workers that play one chunk after the other."""
        return dataclasses.replace(self, way="chunks", chunks_per_worker=FORMER_CHUNKS)

    def balanced(self, seconds: float = 0.0) -> Case:
        """With as few learner GPUs as memory and an update within `seconds` allow; 0: within a step's games."""
        seconds = seconds or self.play_seconds()
        gpus = least_learner_gpus(self.shape, self.device)
        while self.learn(gpus) > seconds and gpus < MOST_LEARNER_GPUS:
            gpus = more_gpus(gpus)
        return dataclasses.replace(self, learner_gpus=gpus)

    def play_seconds(self) -> float:
        """Seconds of a step whose learner takes no time.

        Async begins the games of some steps at once and they end at once, so that only the mean of all counts.
        """
        free = dataclasses.replace(self, free_learning=True, learner_gpus=1).setting()
        draw = functools.partial(drawn, self.workload, self.seed)
        warm_up = 0 if self.schedule == "async" else 1 + free.steps_ahead
        return simulate(free, draw, 1 + free.steps_ahead + SHORT, warm_up).step

    def setting(self) -> Setting:
        """The settings of the simulation."""
        nodes = math.ceil(self.rollout_gpus / GPUS_A_NODE)
        hand_out, load = publish_seconds(self.shape, nodes, self.learner_gpus, self.constants, self.publishing)
        return Setting(
            workers=self.workers,
            schedule=self.schedule,
            engine=self.engine(),
            prompt=self.workload.prompt,
            max_staleness=self.max_staleness,
            way=self.way,
            in_flight=self.rows,
            chunks_per_worker=self.chunks_per_worker,
            learn=0.0 if self.free_learning else self.learn(self.learner_gpus),
            hand_out=hand_out,
            load=load,
            handling=self.constants.handling_seconds,
            batching=self.constants.batching_seconds,
        )

    def run(self) -> Result:
        """Simulates it. All games begin at once, and it takes as many steps as are ahead to forget that."""
        warm_up = 2 * max(1, self.setting().steps_ahead)
        draw = functools.partial(drawn, self.workload, self.seed)
        return simulate(self.setting(), draw, warm_up + self.steps, warm_up)

    def tokens_per_second(self, result: Result) -> float:
        """Learned from, prompts included."""
        return result.turns * (self.workload.prompt + self.workload.reply) / result.step

    def without(self, cost: str) -> Case:
        """The same case with one of `COSTS` taken away."""
        free = dataclasses.replace(self.constants, handling_seconds=0.0, batching_seconds=0.0)
        changes: Mapping[str, Mapping[str, object]] = {
            "small batches": {"full_batches": True},
            "uneven games": {"workload": self.workload.without_tail()},
            "waiting for weights": {"way": "in reply"},
            "learning": {"free_learning": True},
            "publishing and the driver": {"publishing": "free", "constants": free},
        }
        return dataclasses.replace(self, **changes[cost])  # type: ignore[arg-type]

    def blame(self) -> list[tuple[str, float]]:
        """How many times faster it is without each cost, the largest first; faster games get the learner they need."""
        now = self.tokens_per_second(self.run())
        gains: dict[str, float] = {}
        for cost in COSTS:
            other = self.without(cost)
            other = other if other.free_learning else other.balanced()
            gains[cost] = other.tokens_per_second(other.run()) / now
        return sorted(gains.items(), key=lambda item: -item[1])


@functools.lru_cache(maxsize=64)
def drawn(workload: Workload, seed: int, step: int) -> list[Game]:
    """The games of a step, drawn once."""
    return draw_games(workload, seed, step + 1)
