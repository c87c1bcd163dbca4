"""Models in a Hugging Face cache, made by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

from spiral.models.loading import NANO_DIRECTORY

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, name: str, *, kind: str = "models", ref: str = "main") -> Path:
    """The snapshot of a copy of the built-in model that goes by a Hugging Face name."""
    repository = cache / f"{kind}--{name.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for directory in (snapshot, blobs, repository / "refs"):
        directory.mkdir(parents=True)
    (repository / "refs" / ref).write_text(COMMIT)
    for file in NANO_DIRECTORY.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    return snapshot
