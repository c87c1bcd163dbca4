"""New weights from a learner's process to rollout workers' processes: how long by each way there is.

    python -m benchmarks.publish --model smollm2 --workers 1 2

A row is a whole publishing: it begins with the learner's float32 weights in its process and ends when every worker has
them in its own parameters, in place. Weights are random, in the model's shapes. Processes are Ray actors on this
machine, as in a run; they do nothing else meanwhile. The ways:

- "checkpoint file": written to the system's temporary directory and read, with safetensors. What systems do that
  restart or reload their engine, and what the ratios are against, a row of the same precision and number of workers.
- "object store, numpy": `spiral.distributed.weights.object_store`, arrays in shared memory that every worker maps.
- "object store, torch": tensors as they are, which Ray pickles. What one should not do.
- "broadcast, gloo": `spiral.distributed.weights.broadcast`, from process to process, and a copy into the parameters.
- "ipc, shared memory": `spiral.distributed.weights.ipc`, every worker reads where the learner has written.

Of several repetitions the fastest counts: the machine is shared. Between GPUs the broadcast is NCCL's, and processes
on one GPU read by CUDA IPC, neither of which is measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common import clock, record
from spiral.distributed.session import cluster_session, import_ray
from spiral.distributed.weights.base import TransportContext
from spiral.distributed.weights.broadcast import BroadcastReceiver, BroadcastSender, Rendezvous
from spiral.distributed.weights.ipc import Lender, Loan, open_loan
from spiral.distributed.weights.object_store import PackedWeights, pack, unpack
from spiral.models.shapes import model_config
from spiral.runs.cluster import ClusterConfig

BASELINE = "checkpoint file"
NOTE = (
    "Seconds are of the fastest repetition, from the learner's weights to the last worker's parameters. The ratio is"
    " how many times as fast as the checkpoint file with the same precision and number of workers. Files are read from"
    " the system's cache, as by a process on the machine that wrote them."
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SECONDS = 120.0
"""Longest that one publishing may take."""

Shapes = dict[str, tuple[int, ...]]


class Process:
    """What both sides are: weights by name, on one thread."""

    def __init__(self, shapes: Shapes, seed: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.weights = {name: torch.randn(shape) for name, shape in shapes.items()}

    def total(self, dtype: torch.dtype) -> float:
        """Differs when weights do, rounded to `dtype`."""
        return sum(float(weight.to(dtype).double().sum()) for weight in self.weights.values())


class Giver(Process):
    """The learner's side."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes, 0)
        contexts = {dtype: TransportContext(config=ClusterConfig(), dtype=dtype) for dtype in DTYPES.values()}
        self.senders = {dtype: BroadcastSender(context) for dtype, context in contexts.items()}
        self.lenders = {dtype: Lender(context, active=True, on_gpu=False) for dtype, context in contexts.items()}
        for lender in self.lenders.values():
            lender.begin_lending()
        self.version = 0

    def packed(self, dtype: torch.dtype) -> PackedWeights:
        """As numpy arrays."""
        return pack(self.weights.items(), dtype)

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """As tensors."""
        return {name: weight.to(dtype) for name, weight in self.weights.items()}

    def write(self, file: Path, dtype: torch.dtype) -> None:
        """As a file."""
        save_file(self.tensors(dtype), file)

    def open_store(self, dtype: torch.dtype) -> tuple[str, int]:
        """Where receivers connect."""
        return self.senders[dtype].open_store(True, SECONDS)

    def send(self, version: int, rendezvous: Rendezvous, dtype: torch.dtype) -> str | None:
        """To the receivers of a rendezvous."""
        self.senders[dtype].send(version, self.weights.items())
        return self.senders[dtype].broadcast(version, rendezvous)

    def lend(self, version: int, dtype: torch.dtype, readers: int) -> list[Loan | None]:
        """To readers of this process's memory."""
        lender = self.lenders[dtype]
        lender.send(version, self.weights.items())
        return [lender.lend(version) for _ in range(readers)]


class Taker(Process):
    """A rollout worker's side."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes, 1)
        self.receivers = {dtype: BroadcastReceiver(SECONDS) for dtype in DTYPES.values()}

    def forget(self) -> None:
        """Makes sure that what is found later has come later."""
        for weight in self.weights.values():
            weight.zero_()

    def load(self, given: Any) -> None:
        """Packed weights, or tensors by name."""
        self._copy(unpack(given) if isinstance(given, PackedWeights) else given.items())

    def read(self, file: Path) -> None:
        """From a file."""
        self._copy(load_file(file).items())

    def receive(self, version: int, rendezvous: Rendezvous, dtype: torch.dtype) -> str | None:
        """A broadcast."""
        fault = self.receivers[dtype].stage(version, rendezvous)
        taken = self.receivers[dtype].take(version)
        if taken is not None:
            self._copy(taken.tensors())
        return fault

    def borrow(self, loans: list[Loan], number: int) -> None:
        """In the learner's memory."""
        self._copy(open_loan(loans[number]))

    def _copy(self, weights: Any) -> None:
        for name, weight in weights:
            self.weights[name].copy_(weight)


@dataclasses.dataclass
class Stage:
    """The processes that take part, and how often they have broadcast."""

    giver: Any
    takers: list[Any]
    folder: Path
    versions: int = 0


def by_file(stage: Stage, dtype: torch.dtype) -> None:
    """Through the file system."""
    ray = import_ray()
    file = stage.folder / "model.safetensors"
    ray.get(stage.giver.write.remote(file, dtype))
    ray.get([taker.read.remote(file) for taker in stage.takers])


def by_numpy(stage: Stage, dtype: torch.dtype) -> None:
    """Through the object store."""
    ray = import_ray()
    given = stage.giver.packed.remote(dtype)
    ray.get([taker.load.remote(given) for taker in stage.takers])


def by_torch(stage: Stage, dtype: torch.dtype) -> None:
    """The same, with tensors."""
    ray = import_ray()
    given = stage.giver.tensors.remote(dtype)
    ray.get([taker.load.remote(given) for taker in stage.takers])


def by_gloo(stage: Stage, dtype: torch.dtype) -> None:
    """From process to process; the group is made by the first broadcast, which does not count."""
    ray = import_ray()
    address, port = ray.get(stage.giver.open_store.remote(dtype))
    stage.versions += 1
    rendezvous = Rendezvous(
        generation=len(stage.takers), rank=0, size=len(stage.takers) + 1, address=address, port=port, local=True,
        device="cpu", seconds=SECONDS,
    )  # fmt: skip
    sending = stage.giver.send.remote(stage.versions, rendezvous, dtype)
    receiving = [
        taker.receive.remote(stage.versions, dataclasses.replace(rendezvous, rank=rank), dtype)
        for rank, taker in enumerate(stage.takers, start=1)
    ]
    faults = [fault for fault in ray.get([sending, *receiving]) if fault is not None]
    if faults:
        raise RuntimeError(f"a broadcast failed: {'; '.join(faults)}")


def by_ipc(stage: Stage, dtype: torch.dtype) -> None:
    """Out of the learner's memory."""
    ray = import_ray()
    stage.versions += 1
    loans = stage.giver.lend.remote(stage.versions, dtype, len(stage.takers))
    ray.get([taker.borrow.remote(loans, number) for number, taker in enumerate(stage.takers)])


WAYS: dict[str, Callable[[Stage, torch.dtype], None]] = {
    BASELINE: by_file,
    "object store, numpy": by_numpy,
    "object store, torch": by_torch,
    "broadcast, gloo": by_gloo,
    "ipc, shared memory": by_ipc,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every way and records the table."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    shapes = model_shapes(options.model)
    parameters = sum(torch.Size(shape).numel() for shape in shapes.values())
    found: dict[tuple[str, str, int], float] = {}
    with stage_of(shapes, max(options.workers)) as stage:
        everybody = stage.takers
        for workers in options.workers:
            stage.takers = everybody[:workers]
            for dtype in options.dtype:
                for way in WAYS:
                    found[way, dtype, workers] = fastest(stage, way, DTYPES[dtype], options.repeats)
    settings = {"model": options.model, "parameters": parameters, "repetitions": options.repeats}
    record("publish", " ".join(["python -m benchmarks.publish", *given]), settings, _rows(found, parameters), NOTE)


def model_shapes(name: str) -> Shapes:
    """Every parameter's shape, tied ones once."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(name))
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


@contextlib.contextmanager
def stage_of(shapes: Shapes, workers: int) -> Iterator[Stage]:
    """A Ray of our own with a learner process and rollout workers."""
    size = 4 * sum(torch.Size(shape).numel() for shape in shapes.values()) / 2**30
    config = ClusterConfig(rollout_workers=workers, object_store_gib=max(0.2, 3 * size))
    with cluster_session(config), tempfile.TemporaryDirectory() as folder:
        ray = import_ray()
        giver = ray.remote(num_cpus=0)(Giver).remote(shapes)
        takers = [ray.remote(num_cpus=0)(Taker).remote(shapes) for _ in range(workers)]
        yield Stage(giver=giver, takers=takers, folder=Path(folder))


def fastest(stage: Stage, way: str, dtype: torch.dtype, repeats: int) -> float:
    """Seconds of the fastest of some repetitions, after one that does not count; checks what arrived."""
    ray = import_ray()
    ray.get([taker.forget.remote() for taker in stage.takers])
    seconds = []
    for _ in range(repeats + 1):
        with clock() as time:
            WAYS[way](stage, dtype)
        seconds.append(time.seconds)
    expected, *totals = ray.get([process.total.remote(dtype) for process in (stage.giver, *stage.takers)])
    if totals != [expected] * len(totals):
        raise RuntimeError(f"weights by {way} add up to {totals} in the workers; expected {expected}")
    return min(seconds[1:])


def _rows(found: dict[tuple[str, str, int], float], parameters: int) -> list[dict[str, object]]:
    return [
        {
            "way": way,
            "precision": dtype,
            "workers": workers,
            "seconds": seconds,
            "GB/s to each": parameters * DTYPES[dtype].itemsize / seconds / 1e9,
            f"times as fast as a {BASELINE}": found[BASELINE, dtype, workers] / seconds,
        }
        for (way, dtype, workers), seconds in found.items()
    ]


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description="Seconds to publish weights, by each way.")
    options.add_argument("--model", default="smollm2", help="whose shapes the weights have (%(default)s)")
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="rollout workers (%(default)s)")
    options.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES), help="(%(default)s)")
    options.add_argument("--repeats", type=int, default=3, help="repetitions that count (%(default)s)")
    return options


if __name__ == "__main__":
    main()
