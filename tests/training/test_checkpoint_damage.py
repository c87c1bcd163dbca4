"""Whatever happens to a file of a checkpoint is noticed, and the checkpoint before it is named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiral.training.checkpoint import checkpoint_state, verify_checkpoint

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)),
    "training/optimizer.safetensors": b"\x00" * 64,
    "reference/model.safetensors": bytes(range(100)),
    "state.json": b'{"version": 2}',
    "spiral.json": b"{}\n",
}


def write_checkpoint(path: Path, files: dict[str, bytes] = FILES) -> Path:
    """A checkpoint of small files, whole as far as its manifest goes."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    (path / "manifest.json").write_text(json.dumps(digests, indent=2))
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(root / "step-000001")
    write_checkpoint(root / "step-000002")
    return root


def truncate(data: bytes, offset: int, _mask: int) -> bytes:
    return data[:offset]


def flip(data: bytes, offset: int, mask: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]


def remove(_data: bytes, _offset: int, _mask: int) -> None:
    return None


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from([*FILES, "manifest.json"]),
    harm=st.sampled_from([truncate, flip, remove]),
    offset=st.integers(0, 10_000),
    mask=st.integers(1, 255),
)
def test_any_harm_is_noticed_and_the_last_good_checkpoint_named(
    checkpoints: Path, name: str, harm: Callable[[bytes, int, int], bytes | None], offset: int, mask: int
) -> None:
    harmed = checkpoints / "step-000002"
    verify_checkpoint(harmed)
    file = harmed / name
    data = file.read_bytes()
    left = harm(data, offset % len(data), mask)
    try:
        if left is None:
            file.unlink()
        else:
            file.write_bytes(left)
        with pytest.raises(ValueError, match=r"step-000002 is damaged: .*; the last good checkpoint is step-000001; "):
            verify_checkpoint(harmed)
    finally:
        file.write_bytes(data)


@pytest.mark.parametrize("new", [b"\n", b"\r", b"\r\n", b"\t", b"", b"   "])
def test_white_space_of_the_manifest_counts_too(new: bytes, checkpoints: Path, tmp_path: Path) -> None:
    """Nothing holds the manifest's own hash, so it has to be just as it was written."""
    path = Path(shutil.copytree(checkpoints, tmp_path / "root")) / "step-000002"
    data = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(data.replace(b"  ", new, 1))
    with pytest.raises(ValueError, match=r"manifest\.json is not as it was written; the last good .* step-000001"):
        verify_checkpoint(path)


@pytest.mark.parametrize(
    "missing", ["config.json", "model.safetensors", "training/optimizer.safetensors", "state.json"]
)
def test_a_manifest_has_to_list_what_a_checkpoint_needs(missing: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "step-000003", {name: FILES[name] for name in FILES if name != missing})
    shown = "model*.safetensors" if missing.startswith("model") else missing
    message = f"is damaged: manifest.json lists no {shown}; no other checkpoint is whole"
    with pytest.raises(ValueError, match=re.escape(message)):
        verify_checkpoint(path)


def test_weights_may_be_in_several_files(tmp_path: Path) -> None:
    shards = {f"model-0000{part}-of-00002.safetensors": b"w" * part for part in (1, 2)}
    path = write_checkpoint(tmp_path / "step-000003", {**FILES, **shards})
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        verify_checkpoint(path)
    shutil.rmtree(path)
    write_checkpoint(path, {name: data for name, data in {**FILES, **shards}.items() if name != "model.safetensors"})
    verify_checkpoint(path)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "3", "null", '"config.json model.safetensors"', "", "[" * 200_000, '{"a":' * 200_000]
)
def test_a_manifest_that_is_none(text: str, checkpoints: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoints, tmp_path / "root")) / "step-000002"
    (path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"is damaged: manifest\.json .*; the last good checkpoint is step-000001"):
        verify_checkpoint(path)


def test_the_step_is_in_the_state_whatever_the_directory_is_called(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "latest", {**FILES, "state.json": b'{"version": 37}'})
    assert checkpoint_state(path)["version"] == 37
    os.truncate(path / "state.json", 3)
    with pytest.raises(ValueError, match=r"state\.json does not match"):
        checkpoint_state(path)
