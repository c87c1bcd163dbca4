"""Weights that a learner rank keeps for the transports that send them later or lend its memory.

They lie end to end in a few large buckets of bytes, since many small messages are slower than a few large ones. A
worker that misses a version gets a copy through the object store.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from spiral.distributed.weights.base import (
    Load,
    NamedTensors,
    TransportContext,
    WeightSender,
    WeightsHandle,
    call,
    wait_for,
)
from spiral.distributed.weights.object_store import pack, put, unpack

BUCKET_BYTES = 64 * 2**20
"""Size from which a bucket is full; the last weight in it may exceed this."""
ALIGNMENT = 16
"""In bytes; tensors of any dtype can be read at a multiple of it."""
KEEPER = "learner worker 0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """Position of a parameter in `FlatWeights`."""

    name: str
    dtype: str
    """For example "bfloat16"."""
    shape: tuple[int, ...]
    bucket: int
    offset: int
    """In bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlatWeights:
    """Every parameter's bytes, end to end in buckets."""

    slots: tuple[Slot, ...]
    buckets: tuple[Tensor, ...]
    """Of uint8 and one dimension."""

    @property
    def num_bytes(self) -> int:
        """Size of all buckets."""
        return sum(len(bucket) for bucket in self.buckets)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters by name. They share memory with the buckets and must not be written."""
        for slot in self.slots:
            dtype = getattr(torch, slot.dtype)
            end = slot.offset + math.prod(slot.shape) * dtype.itemsize
            yield slot.name, self.buckets[slot.bucket][slot.offset : end].view(dtype).reshape(slot.shape)

    def on(self, device: str, copy: bool = False) -> FlatWeights:
        """The same weights on a device, in the same memory if they are there already, unless `copy` is set."""
        return dataclasses.replace(self, buckets=tuple(bucket.to(device, copy=copy) for bucket in self.buckets))

    def layout(self, version: int) -> str:
        """Everything but the bytes, for `parse_layout`."""
        slots = [dataclasses.astuple(slot) for slot in self.slots]
        return json.dumps({"version": version, "slots": slots, "sizes": [len(bucket) for bucket in self.buckets]})


def parse_layout(text: str) -> tuple[int, tuple[Slot, ...], list[int]]:
    """The version, the slots and the sizes of the buckets in bytes."""
    layout = json.loads(text)
    slots = tuple(
        Slot(name=name, dtype=dtype, shape=tuple(shape), bucket=bucket, offset=offset)
        for name, dtype, shape, bucket, offset in layout["slots"]
    )
    return layout["version"], slots, layout["sizes"]


def flatten(weights: NamedTensors, dtype: torch.dtype | None = None, bucket_bytes: int = BUCKET_BYTES) -> FlatWeights:
    """A copy of weights as bytes, on their device, in `dtype` where one is given."""
    slots: list[Slot] = []
    buckets: list[Tensor] = []
    parts: list[Tensor] = []
    filled = 0
    for name, tensor in weights:
        plain = tensor.detach().to(dtype or tensor.dtype).contiguous()
        kind = str(plain.dtype).removeprefix("torch.")
        slots.append(Slot(name=name, dtype=kind, shape=tuple(plain.shape), bucket=len(buckets), offset=filled))
        data = plain.reshape(-1).view(torch.uint8)
        parts.append(torch.nn.functional.pad(data, (0, -len(data) % ALIGNMENT)))
        filled += len(parts[-1])
        if filled >= bucket_bytes:
            buckets.append(torch.cat(parts))
            parts, filled = [], 0
    if parts:
        buckets.append(torch.cat(parts))
    return FlatWeights(slots=tuple(slots), buckets=tuple(buckets))


def refill(flat: FlatWeights, weights: NamedTensors, dtype: torch.dtype | None = None) -> FlatWeights:
    """Writes weights into buckets that `flatten` has made for the same names, shapes and types."""
    for (name, tensor), (slot_name, slot) in zip(weights, flat.tensors(), strict=True):
        given = (name, tensor.shape, dtype or tensor.dtype)
        assert given == (slot_name, slot.shape, slot.dtype), (given, slot_name, slot.shape, slot.dtype)
        slot.copy_(tensor.detach())
    return flat


class KeepingSender(WeightSender):
    """Keeps the newest versions and puts copies into the object store on request."""

    def __init__(self, context: TransportContext) -> None:
        self._dtype = context.dtype
        self._versions = context.config.steps_ahead + 1
        self._kept: dict[int, FlatWeights] = {}
        self._copies: dict[int, Any] = {}
        self._lock = threading.Lock()

    def send(self, version: int, weights: NamedTensors) -> tuple[int, Any]:
        """Keeps a copy on its device, moves older versions to main memory, and drops the oldest."""
        flat = flatten(weights, self._dtype)
        with self._lock:
            kept = {known: older.on("cpu") for known, older in self._kept.items()} | {version: flat}
            self._kept = {known: kept[known] for known in sorted(kept)[-self._versions :]}
            self._drop_copies(self._kept)
        return flat.num_bytes, None

    def copy(self, version: int) -> list[Any]:
        """Puts a version into the object store; returns the reference in a list, so that Ray does not resolve it.

        Raises:
            ValueError: this version is kept no longer.
        """
        with self._lock:
            if version not in self._copies:
                if version not in self._kept:
                    raise ValueError(
                        f"weights of version {version} are kept no longer; kept are versions {sorted(self._kept)}"
                    )
                self._copies[version] = put(pack(self._kept[version].tensors()))
            return [self._copies[version]]

    def _drop_copies(self, staying: Iterable[int]) -> None:
        self._copies = {known: ref for known, ref in self._copies.items() if known in staying}


def load_copy(handle: WeightsHandle, keeper: Any, seconds: float, load: Load) -> None:
    """Loads weights through the object store, where the rank that keeps them puts a copy now."""
    what = f"weights of version {handle.version} from the object store"
    (ref,) = wait_for(call(keeper, "copy", handle.version), seconds, what, KEEPER)
    load(unpack(wait_for(ref, seconds, what, KEEPER)), handle.version)
