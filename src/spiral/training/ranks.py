"""What the processes that learn together tell each other: sums, maxima, and whether they agree.

A process by itself is rank 0 of 1, and has nobody to tell anything; all of this then costs nothing. Every method is
collective: all ranks call it, in the same order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from spiral.core.metrics import Metrics
from spiral.core.seeds import derive_seed
from spiral.training.batch import Batch
from spiral.training.process_group import BACKENDS, GroupError, at_work, ranks_named

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranks:
    """The place of this process among those that learn together."""

    rank: int = 0
    size: int = 1
    device: torch.device
    """Where tensors that are exchanged lie: where the model is."""

    @contextmanager
    def at(self, what: str) -> Iterator[None]:
        """Says where this rank is; a wait in there that ends in vain is a `GroupError` saying who waited for whom."""
        if self.size == 1:
            yield
            return
        with at_work(what):
            yield

    def add_up(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over all ranks, the same bits on each."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def add_up_metrics(self, sums: Metrics, keys: Sequence[str]) -> Metrics:
        """The sums under `keys` added up over all ranks; others are the same everywhere and stay."""
        if self.size == 1:
            return sums
        values = torch.tensor([sums.get(key, 0.0) for key in keys], dtype=torch.float64, device=self.device)
        self.add_up(values)
        return {**sums, **dict(zip(keys, values.tolist(), strict=True))}

    def most(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value)

    def check_same(self, what: str, fingerprint: Callable[[], int], mend: str) -> None:
        """Raises `ValueError` on all ranks when they do not have the same; one process is not asked for anything."""
        if self.size == 1:
            return
        own = torch.tensor([fingerprint()], device=self.device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        others = [rank for rank, value in enumerate(found) if not torch.equal(value, found[0])]
        if others:
            raise ValueError(f"{what} of {ranks_named(others)} is not that of rank 0; expected the same: {mend}")

    def lead(self, work: Callable[[], None]) -> None:
        """Rank 0 does the work while the others wait for its end; when it fails, it fails on all."""
        failure = None
        if self.rank == 0:
            try:
                work()
            except Exception as error:
                failure = error
        failed = self.most(int(failure is not None))
        if failure is not None:
            raise failure
        if failed:
            raise GroupError("rank 0 failed at what the others waited for; its own error says why")


def current_ranks(device: torch.device) -> Ranks:
    """The rank in the default group, or a process by itself. Raises `ValueError` for devices without a backend."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Ranks(device=device)
    if device.type not in BACKENDS:
        raise ValueError(
            f"got a model on {device.type} and {dist.get_world_size()} learning processes; expected it on"
            f" {' or '.join(BACKENDS)}, or one process"
        )
    return Ranks(rank=dist.get_rank(), size=dist.get_world_size(), device=device)


def weights_fingerprint(weights: Iterable[Tensor]) -> int:
    """A number that follows from the weights' bits, whatever the order in which they are summed."""
    sums = [
        int(weight.detach().contiguous().view(_INTEGERS[weight.element_size()]).sum(dtype=torch.int64))
        for weight in weights
    ]
    return derive_seed("weights", *sums)


def batch_fingerprint(batch: Batch | None) -> int:
    """A number that follows from everything in a batch; 0 for none."""
    if batch is None:
        return 0
    parts = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return derive_seed("batch", *(hashlib.blake2b(part.numpy()).hexdigest() for part in parts))
