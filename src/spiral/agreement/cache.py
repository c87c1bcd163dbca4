"""Results of the checks, stored so that the same weights, settings and versions are checked once.

One small file per result in `agreement/` beside the local models. A result that cannot be written is checked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiral.core.files import write_atomically
from spiral.core.versions import versions
from spiral.models.store import store_directory
from spiral.models.weights_hash import settings_sha256, weights_sha256

MAX_KEPT = 500
METHOD = 2
"""Raise it when the checks or tolerances change."""


def agreement_key(directory: str, settings: Mapping[str, Any]) -> str | None:
    """The key of a result; None for weights that are not on this machine, which are checked every time."""
    weights = weights_sha256(directory)
    if weights is None:
        return None
    parts = [METHOD, weights, settings_sha256(directory), settings, versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def is_known(key: str | None) -> bool:
    """Whether this was checked before and agreed."""
    return key is not None and _file(key).is_file()


def keep(key: str | None, record: Mapping[str, Any]) -> None:
    """Stores that this was checked and agreed."""
    if key is None:
        return
    file = _file(key)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8"))
        entries = sorted(file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in entries[:-MAX_KEPT]:
            old.unlink()


def _file(key: str) -> Path:
    return store_directory().parent / "agreement" / f"{key}.json"
