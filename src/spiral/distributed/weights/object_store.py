"""The default transport: weights as numpy arrays in Ray's object store.

Every worker on a machine maps the arrays without a copy; torch tensors would be pickled, which takes about ten times as
long. numpy has no bfloat16: such a tensor travels as the uint16 numbers with the same bits.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spiral.distributed.session import ClusterError, import_ray
from spiral.distributed.weights.base import (
    IdleSender,
    Load,
    NamedTensors,
    WeightReceiver,
    WeightSender,
    WeightsHandle,
    WeightTransport,
    wait_for,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedWeights:
    """Every parameter by name as a numpy array; `bfloat16` names those that hold the bits of that type."""

    arrays: dict[str, NDArray[Any]]
    bfloat16: frozenset[str]

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())


def pack(weights: NamedTensors, dtype: torch.dtype | None = None) -> PackedWeights:
    """Weights as arrays in main memory, in `dtype` where one is given."""
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
    """The tensors of `pack`, bit for bit. They share memory with the arrays and must not be written."""
    for name, array in packed.arrays.items():
        # Arrays from the object store are read-only, of which torch warns.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(np.atleast_1d(array)).reshape(array.shape)
        yield name, tensor.view(torch.bfloat16) if name in packed.bfloat16 else tensor


def put(packed: PackedWeights) -> Any:
    """Puts weights into the object store; returns the Ray reference.

    Raises:
        ClusterError: there is not enough room.
    """
    ray = import_ray()

    try:
        return ray.put(packed)
    except ray.exceptions.ObjectStoreFullError as error:
        raise ClusterError(
            f"weights of {packed.num_bytes / 2**30:.2f} GiB do not fit into Ray's object store; give it a larger"
            " cluster.object_store_gib, with room for about three versions"
        ) from error


class ObjectStoreTransport(WeightTransport):
    """Rank 0 returns the packed weights as its payload, and workers read them from the object store."""

    def sender(self, rank: int) -> WeightSender:
        """Rank 0 sends."""
        return _Sender(self.context.dtype) if rank == 0 else IdleSender()

    def receiver(self) -> WeightReceiver:
        """Reads the payload."""
        return _Receiver(self.context.config.worker_seconds)


class _Sender(WeightSender):
    def __init__(self, dtype: torch.dtype | None) -> None:
        self._dtype = dtype

    def send(self, version: int, weights: NamedTensors) -> tuple[int, Any]:
        packed = pack(weights, self._dtype)
        return packed.num_bytes, packed


class _Receiver(WeightReceiver):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def receive(self, handle: WeightsHandle, load: Load) -> None:
        what = f"weights of version {handle.version} from the object store"
        load(unpack(wait_for(handle.payload, self._seconds, what, None)), handle.version)
