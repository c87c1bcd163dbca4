"""One hash over the weights of a model, in whatever format they are stored.

Results are keyed by it, and so is what was found out about a model once. A file is hashed once: the hash is kept in
`hashes.json` beside the local models, with the file's path, size, inode and times, and computed again when one of them
has changed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import sha256, write_atomically
from spiral.models.store import store_directory

WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth")
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state")
"""Other files that trainers write, with the same suffixes as weights."""
SETTING_PATTERNS = (
    "config.json", "generation_config.json", "adapter_config.json", "*.index.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.jinja",
)  # fmt: skip
"""The files beside the weights that decide what a model computes and how it is prompted."""
SETTLED_SECONDS = 2.0
"""A file that changed less than this ago may change again without a difference in its times."""
MAX_KEPT = 1000


def weights_sha256(directory: str | Path) -> str | None:
    """The hash over all weight files in a model's directory: safetensors, .bin, shards, GGUF and adapters.

    Returns None for a directory without weights, and for a name that is no directory here.
    """
    return _combined(_matching(Path(directory), WEIGHT_PATTERNS), named=False)


def settings_sha256(directory: str | Path) -> str | None:
    """The hash over configuration, index of shards and tokenizer; None where there are none."""
    return _combined(_matching(Path(directory), SETTING_PATTERNS), named=True)


def weights_in_manifest(manifest: Mapping[str, Any]) -> str | None:
    """What `weights_sha256` gives for a checkpoint, from the hashes of its files in its manifest."""
    names = sorted(
        name
        for name in manifest
        if "/" not in name
        and not name.startswith(NOT_WEIGHTS)
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in WEIGHT_PATTERNS)
    )
    return _combined_hash([str(manifest[name]) for name in names])


def _matching(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in directory.glob(pattern)}
    return sorted(path for path in found if path.is_file() and not path.name.startswith(NOT_WEIGHTS))


def _combined(files: list[Path], *, named: bool) -> str | None:
    """A single weight file's own hash; else the hash over those of all."""
    if not named:
        return _combined_hash([_file_sha256(file) for file in files])
    parts = [f"{file.name}{_file_sha256(file)}" for file in files]
    return hashlib.sha256("".join(parts).encode()).hexdigest() if parts else None


def _combined_hash(hashes: Sequence[str]) -> str | None:
    """A single hash itself; else the hash over all; None where there are none."""
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    """The hash of one file, from memory or disk where the file is known and unchanged."""
    path = Path(os.path.realpath(path))
    status = path.stat()
    key = f"{path}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
    cache = store_directory().parent / "hashes.json"
    known = _known(cache)
    if key not in known:
        found = sha256(path)
        if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
            return found
        known[key] = found
        _keep(cache, key, found)
    return known[key]


@functools.cache
def _known(cache: Path) -> dict[str, str]:
    """The hashes on disk when this process first asked, and those it has added since."""
    try:
        values = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {key: value for key, value in values.items() if isinstance(value, str) and len(value) == 64}


def _keep(cache: Path, key: str, value: str) -> None:
    """Adds a hash to those on disk. Where it cannot be written, it is computed again next time."""
    entries = [*_known.__wrapped__(cache).items(), (key, value)]
    text = json.dumps(dict(entries[-MAX_KEPT:]), indent=0)
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, lambda temporary: temporary.write_text(text, encoding="utf-8"))
