"""GGUF files byte by byte: values, tables, blocks of weights, and files that are not what they should be."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from spiral.models.gguf import read_gguf
from tiny_gguf import F32, Q4_0, Q4_1, Q8_0, gguf_bytes, pair


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file."""

    def from_bytes(content: bytes):
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return read_gguf(path)

    return from_bytes


def test_values_of_every_kind(read):
    numbers = {
        "B": 200,
        "b": -3,
        "H": 60_000,
        "h": -300,
        "I": 2**31,
        "i": -5,
        "f": 0.25,
        "?": True,
        "Q": 2**40,
        "q": -(2**40),
    }
    pairs = [pair(f"number.{kind}", kind, value) for kind, value in numbers.items()]
    pairs += [
        pair("words", "string", ["Ġhe", "", "日本"]),
        pair("shares", "d", [0.1, 0.2]),
        pair("name", "string", "ä"),
    ]
    assert read(gguf_bytes(pairs, {})).metadata == {
        **{f"number.{kind}": value for kind, value in numbers.items()},
        "words": ["Ġhe", "", "日本"],
        "shares": [0.1, 0.2],
        "name": "ä",
    }


@pytest.mark.parametrize("alignment", [32, 128])
def test_tensors_lie_one_after_the_other_with_gaps(read, alignment):
    first, second = np.arange(32, dtype="<f4").reshape(4, 8), -np.arange(96, dtype="<f4").reshape(2, 3, 16)
    tensors = {"first": (first.shape, F32, first.tobytes()), "second": (second.shape, F32, second.tobytes())}
    pairs = [] if alignment == 32 else [pair("general.alignment", "I", alignment)]
    found = read(gguf_bytes(pairs, tensors, alignment)).tensors
    assert found["first"].shape == (4, 8)
    assert np.array_equal(found["first"].read(), first)
    assert np.array_equal(found["second"].read(), second)


def test_four_bits_with_a_minimum(read):
    """Two blocks: low halves of the bytes first, then the high halves, each 0.5 or 2 steps above the minimum."""
    steps = bytes(low | (15 - low) << 4 for low in range(16))
    data = struct.pack("<ee", 0.5, -1.0) + steps + struct.pack("<ee", 2.0, 3.0) + bytes(16)
    expected = [[0.5 * step - 1 for step in [*range(16), *range(15, -1, -1)]], [3.0] * 32]
    assert read(gguf_bytes([], {"w": ((2, 32), Q4_1, data)})).tensors["w"].read().tolist() == expected


def test_eight_bits(read):
    data = struct.pack("<e32b", 0.25, *range(-16, 16))
    weights = read(gguf_bytes([], {"w": ((4, 8), Q8_0, data)})).tensors["w"].read()
    assert weights.dtype == np.float32
    assert weights.ravel().tolist() == [0.25 * step for step in range(-16, 16)]


def test_files_that_cannot_be_read(read):
    whole = gguf_bytes([pair("name", "string", "model"), pair("sizes", "I", [1, 2])], {})
    broken = {
        b"PK\x03\x04": "is not a GGUF file",
        b"": "is not a GGUF file",
        whole.replace(struct.pack("<I", 3), struct.pack("<I", 2), 1): "version 2; expected 3",
        whole[: whole.index(b"sizes") + 20]: "cannot be read",
        whole.replace(struct.pack("<I", 9), struct.pack("<I", 13), 1): "there is no value type 13",
    }
    for content, words in broken.items():
        with pytest.raises(ValueError, match=words):
            read(content)


def test_weights_that_cannot_be_read(read):
    tensors = {
        "old": ((32,), Q4_0, bytes(18)),
        "odd": ((33,), F32, bytes(132)),
        "short": ((64,), F32, bytes(128)),
    }
    found = read(gguf_bytes([], tensors)).tensors
    for name, words in {"old": "tensor type 2 is not read", "odd": "does not fill", "short": "1 of 2 blocks"}.items():
        with pytest.raises(ValueError, match=words):
            found[name].read()
