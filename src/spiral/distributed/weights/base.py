"""Weights on their way from the learner to the rollout workers: arrays for the object store, buckets of bytes else.

As numpy arrays in Ray's object store they are mapped, not copied, by every reader on a machine; torch tensors would be
pickled, which takes some ten times as long. numpy has no bfloat16: such a tensor travels as the uint16 numbers with the
same bits. For a broadcast (`weight_sync.py`), or for others to read (`sharing.py`), they lie end to end in a few large
buckets of bytes, since many small messages are slower than a few large ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUCKET_BYTES = 64 * 2**20
"""A bucket is full when it holds so much; the last weight in it may lead beyond."""
ALIGNMENT = 16
"""Bytes; any dtype can be read at a multiple of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedWeights:
    """Every parameter by name as a numpy array; `bfloat16` names those that hold the bits of that type."""

    arrays: dict[str, NDArray[Any]]
    bfloat16: frozenset[str]

    @property
    def num_bytes(self) -> int:
        """What travels."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Who keeps weights that are not in the object store, and puts a copy there when asked."""

    actor: Any
    """An actor with the methods of `LearnerWorker`: rank 0 of the learner."""
    device: str | None
    """Between what kind of devices the actor broadcasts: "cpu" or "cuda"; None: it does not."""
    lenders: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Ranks of the learner by the places (`sharing.own_places`) where their memory can be read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsHandle:
    """Weights by their version, and where to get them: `ref`, or where that is None, `source`.

    The process that asked for an object in the store owns it, and it is lost with its owner: a learner actor does best
    to return its `PackedWeights` from a method, so that they belong to the driver.
    """

    version: int
    """Updates that the weights have seen."""
    ref: Any = None
    """A Ray reference to `PackedWeights`."""
    source: Source | None = None
    num_bytes: int = 0
    """0 where it is not known."""
    seconds: float = 0.0
    """What it took to make them ready for the way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """Where a parameter lies in `FlatWeights`."""

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
    """Of uint8, one dimension."""

    @property
    def num_bytes(self) -> int:
        """What travels."""
        return sum(len(bucket) for bucket in self.buckets)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters by name. They share memory with the buckets and are only to be read."""
        for slot in self.slots:
            dtype = getattr(torch, slot.dtype)
            end = slot.offset + math.prod(slot.shape) * dtype.itemsize
            yield slot.name, self.buckets[slot.bucket][slot.offset : end].view(dtype).reshape(slot.shape)

    def on(self, device: str, copy: bool = False) -> FlatWeights:
        """The same there; in the same memory where they are there already, unless `copy` says otherwise."""
        return dataclasses.replace(self, buckets=tuple(bucket.to(device, copy=copy) for bucket in self.buckets))

    def layout(self, version: int) -> str:
        """All but the bytes, for `parse_layout`."""
        slots = [dataclasses.astuple(slot) for slot in self.slots]
        return json.dumps({"version": version, "slots": slots, "sizes": [len(bucket) for bucket in self.buckets]})


def parse_layout(text: str) -> tuple[int, tuple[Slot, ...], list[int]]:
    """The version, the slots and the buckets' sizes in bytes."""
    layout = json.loads(text)
    slots = tuple(
        Slot(name=name, dtype=dtype, shape=tuple(shape), bucket=bucket, offset=offset)
        for name, dtype, shape, bucket, offset in layout["slots"]
    )
    return layout["version"], slots, layout["sizes"]


def flatten(
    weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None, bucket_bytes: int = BUCKET_BYTES
) -> FlatWeights:
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


def refill(flat: FlatWeights, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None) -> FlatWeights:
    """Writes weights into these buckets, which `flatten` has made of others with the same names, shapes and types."""
    for (name, tensor), (place_name, place) in zip(weights, flat.tensors(), strict=True):
        given = (name, tensor.shape, dtype or tensor.dtype)
        assert given == (place_name, place.shape, place.dtype), (given, place_name, place.shape, place.dtype)
        place.copy_(tensor.detach())
    return flat


def pack(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None) -> PackedWeights:
    """Weights as arrays, in `dtype` where one is given: sampling in bfloat16 needs no more than that."""
    arrays: dict[str, NDArray[Any]] = {}
    bfloat16: set[str] = set()
    for name, tensor in weights:
        plain = tensor.detach().to(dtype=dtype or tensor.dtype, device="cpu").contiguous()
        if plain.dtype == torch.bfloat16:
            bfloat16.add(name)
            plain = plain.view(torch.uint16)
        arrays[name] = plain.numpy()
    return PackedWeights(arrays=arrays, bfloat16=frozenset(bfloat16))


def unpack(packed: PackedWeights) -> Iterator[tuple[str, Tensor]]:
    """The tensors of `pack`, bit for bit. They share memory with the arrays and are only to be read."""
    for name, array in packed.arrays.items():
        # Arrays out of the object store cannot be written, of which torch warns; nobody writes to these.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(np.atleast_1d(array)).reshape(array.shape)
        yield name, tensor.view(torch.bfloat16) if name in packed.bfloat16 else tensor
