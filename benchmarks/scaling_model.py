"""What one training step costs, in closed form: FLOP, bytes and seconds of generating, learning and publishing.

    generation   a pass decodes one token of every reply in flight. It reads all weights once and the keys and values
                 of every reply, so it is bound by memory until the batch is large; prompts are bound by FLOP
    learning     6 FLOP a weight and token and attention, a third more where activations are computed again; beside it
                 FSDP2 gathers the weights twice and reduces gradients once for every micro-batch
    publishing   gathered from the shards, broadcast or put into Ray's object store, loaded into the engines
    driver       one process checks, credits and batches every turn

Constants are of three kinds, and `docs/scaling.md` lists which is which: measured with this software on one machine,
taken from data sheets, assumed. Sources of the form: the roofline model; 6 FLOP a parameter and token; PyTorch FSDP2.

Left out: prefix caches and shared prompts on GPUs, speculative decoding, quantisation, pipeline and expert parallelism,
preemption when keys and values run out, slow or failing machines, checkpoints and evaluation.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from benchmarks.scaling_inputs import Device, Shape, Workload
from spiral.runs.cluster import Schedule

Publishing = Literal["store", "broadcast", "free"]
GPUS_A_NODE = 8
MICROBATCH = 16_384
"""Tokens of a learner GPU's micro-batch: `learner.tokens_per_microbatch` of the recipes for Qwen3-4B."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """Everything that is neither a model nor a device. Rates are bytes a second, one way."""

    nvlink: float = 450e9
    network: float = 50e9
    bandwidth_share: float = 0.7
    prefill_share: float = 0.5
    learner_share: float = 0.45
    """Of the peak FLOP, recomputation included."""
    memory_share: float = 0.9
    pass_seconds: float = 2e-3
    """What an engine adds to every pass."""
    reduce_seconds: float = 10e-6
    """One all-reduce of a model on several GPUs; two a layer."""
    pcie: float = 20e9
    """Between a GPU and main memory."""
    store_put: float = 1.8e9
    store_transfer: float = 5e9
    """Between two nodes, out of one object store and into the other."""
    load: float = 10e9
    """From a node's memory into an engine."""
    handling_seconds: float = 160e-6
    """The driver's, a turn, when games come in."""
    batching_seconds: float = 60e-6
    """The driver's, a turn, between the last game and the update."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """What a rollout worker's engine takes for a pass and for a prompt, in seconds."""

    pass_seconds: float
    weights_seconds: float
    """Reading all weights; the least a pass takes beside `pass_seconds`."""
    row_seconds: float
    """FLOP of one token."""
    cache_seconds: float
    """Reading the keys and values of one token."""
    prompt_seconds: float
    """FLOP of one prompt."""
    rows: int
    """Replies in flight at most."""

    def pass_base(self, rows: int) -> float:
        """A pass over `rows` replies, without keys and values."""
        return self.pass_seconds + max(self.weights_seconds, rows * self.row_seconds)

    def always_full(self) -> Engine:
        """One for which small batches are as good as large ones."""
        full = self.pass_base(self.rows) / self.rows
        return dataclasses.replace(self, pass_seconds=0.0, weights_seconds=0.0, row_seconds=full)


def engine(shape: Shape, device: Device, gpus: int, workload: Workload, constants: Constants, rows: int) -> Engine:
    """An engine of `gpus` devices that hold a model together. Raises `ValueError` when the model does not fit."""
    room = gpus * device.memory * constants.memory_share - 2 * shape.parameters
    context = workload.prompt + workload.reply
    fitting = int(room / (shape.cache_bytes * context))
    if fitting < 1:
        raise ValueError(
            f"{shape.name} and a context of {context:.0f} tokens got {gpus} x {device.name}; expected more"
        )
    bandwidth = gpus * device.bandwidth * constants.bandwidth_share
    flop = gpus * device.flop * constants.prefill_share
    reduces = 2 * shape.layers * constants.reduce_seconds if gpus > 1 else 0.0
    return Engine(
        pass_seconds=constants.pass_seconds + reduces,
        weights_seconds=2 * shape.parameters / bandwidth,
        row_seconds=2 * shape.active / flop,
        cache_seconds=shape.cache_bytes / bandwidth,
        prompt_seconds=2 * shape.active * workload.prompt / flop,
        rows=min(rows, fitting),
    )


def replica_gpus(shape: Shape, device: Device) -> int:
    """The least power of two that holds the weights in three quarters of its memory, so that there is room to play."""
    gpus = 1
    while 2 * shape.parameters > 0.75 * gpus * device.memory:
        gpus *= 2
    return gpus


def chunk_seconds(engine: Engine, workload: Workload, games: int) -> float:
    """Seconds of a chunk whose games and replies are all of one length and all in flight; exact."""
    assert games <= engine.rows, (games, engine.rows)
    context = games * (workload.prompt + workload.reply / 2)
    turn = games * engine.prompt_seconds + workload.reply * (engine.pass_base(games) + engine.cache_seconds * context)
    return workload.mean_turns * turn


def more_gpus(gpus: int) -> int:
    """The next larger group: powers of two within a node, then whole nodes."""
    return 2 * gpus if gpus < GPUS_A_NODE else gpus + GPUS_A_NODE


def least_learner_gpus(shape: Shape, device: Device) -> int:
    """The smallest group that holds 16 bytes a weight in four fifths of its memory."""
    gpus = 1
    while 16 * shape.parameters > 0.8 * gpus * device.memory:
        gpus = more_gpus(gpus)
    return gpus


def learner_seconds(shape: Shape, device: Device, gpus: int, workload: Workload, constants: Constants) -> float:
    """One update: as long as the slower of computing and communicating takes, since FSDP2 does both at once."""
    return max(
        learner_compute_seconds(shape, device, gpus, workload, constants),
        learner_communication_seconds(shape, gpus, workload, constants),
    )


def learner_compute_seconds(shape: Shape, device: Device, gpus: int, workload: Workload, constants: Constants) -> float:
    """FLOP of all passes, a third more for what gradient checkpointing computes again."""
    flop = 4 / 3 * shape.training_flop(workload.prompt + workload.reply) * workload.tokens * workload.epochs
    return flop / (gpus * device.flop * constants.learner_share)


def learner_communication_seconds(shape: Shape, gpus: int, workload: Workload, constants: Constants) -> float:
    """8 bytes a weight and micro-batch: gathered twice in bfloat16, gradients reduced once in float32."""
    if gpus == 1:
        return 0.0
    link = _link(gpus, constants)
    microbatches = workload.epochs * math.ceil(workload.tokens / (gpus * MICROBATCH))
    return microbatches * 8 * shape.parameters * (gpus - 1) / gpus / link


def publish_seconds(
    shape: Shape, nodes: int, learner_gpus: int, constants: Constants, way: Publishing
) -> tuple[float, float]:
    """Seconds until weights are handed out (the learner waits), and from then until an engine has them (games wait).

    Rank 0 gathers them in float32 and gives them out in bfloat16. "broadcast": to all workers at once, who keep them in
    main memory. "store": through main memory into the object store; the number of nodes that have them doubles with
    every transfer. Then every engine loads them.
    """
    if way == "free":
        return 0.0, 0.0
    size = 2 * shape.parameters
    gather = 2 * size / _link(learner_gpus, constants) if learner_gpus > 1 else 0.0
    load = size / constants.load
    if way == "broadcast":
        return gather + size / constants.network + size / constants.pcie, load
    rounds = math.ceil(math.log2(nodes + 1))
    return gather + size / constants.pcie + size / constants.store_put, rounds * size / constants.store_transfer + load


def _link(gpus: int, constants: Constants) -> float:
    """Bytes a second between the GPUs of a learner: those of the slower link."""
    return constants.nvlink if gpus <= GPUS_A_NODE else constants.network


def step_seconds(schedule: Schedule, play: float, learn: float, hand_out: float, load: float) -> float:
    """A step where all games are alike and the driver takes no time; `play` is a worker's share of a step.

    sync does everything in turn. The others do two things at once: workers load and play, the learner learns and hands
    out.
    """
    return load + play + learn + hand_out if schedule == "sync" else max(load + play, learn + hand_out)
