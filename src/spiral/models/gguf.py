"""Reading GGUF, the one-file format of llama.cpp: metadata and quantised weights.

Source: the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), version 3, little-endian.
The file is a header, key-value pairs, a table of tensors, and the tensors' bytes. Quantised weights come in blocks of
32, each with its own scale. Supported types: F32, Q4_1 and Q8_0, which are all that `smollm2.py` meets.
The loader in transformers knows them all, but needs two further packages (and what those need) and a recent release,
and forgets how this model splits numbers.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCK_LENGTH = 32
BLOCKS = {
    F32: np.dtype([("values", "<f4", BLOCK_LENGTH)]),
    Q4_1: np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("pairs", "u1", BLOCK_LENGTH // 2)]),
    Q8_0: np.dtype([("scale", "<f2"), ("steps", "i1", BLOCK_LENGTH)]),
}
"""The layout of 32 weights in the file."""

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Location of one tensor; its bytes are read on demand."""

    path: Path
    shape: tuple[int, ...]
    kind: int
    offset: int

    def read(self) -> Floats:
        """The weights as float32, dequantised. Raises `ValueError` for a type not read here and for a short file."""
        if self.kind not in BLOCKS:
            raise ValueError(f"{self.path}: tensor type {self.kind} is not read here; expected one of {sorted(BLOCKS)}")
        blocks, rest = divmod(math.prod(self.shape), BLOCK_LENGTH)
        if rest:
            raise ValueError(f"{self.path}: a tensor of shape {self.shape} does not fill blocks of {BLOCK_LENGTH}")
        stored = np.fromfile(self.path, BLOCKS[self.kind], count=blocks, offset=self.offset)
        if len(stored) < blocks:
            raise ValueError(f"{self.path} is cut short: {len(stored)} of {blocks} blocks of a tensor are there")
        return dequantised(stored, self.kind).reshape(self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gguf:
    """Metadata of a GGUF file, and its tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_gguf(path: Path) -> Gguf:
    """Reads everything but the weights. Raises `ValueError` for a file that is not GGUF version 3, or is damaged."""
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is not a GGUF file")
        try:
            version, num_tensors, num_pairs = _numbers(stream, "IQQ")
            if version != VERSION:
                raise ValueError(f"GGUF version {version}; expected {VERSION}")
            metadata = {_string(stream): _value(stream, *_numbers(stream, "I")) for _ in range(num_pairs)}
            table = [_tensor_entry(stream) for _ in range(num_tensors)]
        except (struct.error, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        alignment = int(metadata.get("general.alignment", ALIGNMENT))
        start = math.ceil(stream.tell() / alignment) * alignment
    tensors = {
        name: StoredTensor(path=path, shape=shape, kind=kind, offset=start + offset)
        for name, shape, kind, offset in table
    }
    return Gguf(metadata=metadata, tensors=tensors)


def dequantised(blocks: npt.NDArray[Any], kind: int) -> Floats:
    """[number of blocks, 32] float32 from blocks as they are stored.

    Q8_0 keeps whole steps of a scale. Q4_1 keeps steps of 0 to 15 above a minimum, two to a byte: the low halves are
    the first sixteen weights, the high halves the last sixteen.
    """
    if kind == F32:
        return np.asarray(blocks["values"], dtype=np.float32)
    scale = blocks["scale"].astype(np.float32)[:, None]
    if kind == Q8_0:
        return np.asarray(scale * blocks["steps"])
    steps = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1)
    return np.asarray(scale * steps + blocks["minimum"].astype(np.float32)[:, None])


def _tensor_entry(stream: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type, and offset from the start of the weights. The file lists the fastest dimension first."""
    name = _string(stream)
    (dimensions,) = _numbers(stream, "I")
    *shape, kind, offset = _numbers(stream, f"{dimensions}QIQ")
    return name, tuple(reversed(shape)), kind, offset


def _value(stream: BinaryIO, kind: int) -> Any:
    """A number, a string, or a list of them."""
    if kind == STRING:
        return _string(stream)
    if kind == ARRAY:
        inner, length = _numbers(stream, "IQ")
        if inner in SCALARS:
            return list(_numbers(stream, f"{length}{SCALARS[inner]}"))
        return [_value(stream, inner) for _ in range(length)]
    if kind not in SCALARS:
        raise ValueError(f"there is no value type {kind}")
    return _numbers(stream, SCALARS[kind])[0]


def _string(stream: BinaryIO) -> str:
    (length,) = _numbers(stream, "Q")
    return b"".join(_numbers(stream, f"{length}s")).decode("utf-8")


def _numbers(stream: BinaryIO, layout: str) -> tuple[Any, ...]:
    """The next values in the file, in a `struct` layout without padding."""
    packed = struct.Struct(f"<{layout}")
    return packed.unpack(stream.read(packed.size))
