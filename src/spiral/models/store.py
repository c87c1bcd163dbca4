"""Models on this machine: local ones with a short name, models that can be fetched, and the Hugging Face cache.

A name of our own stands for a directory `$SPIRAL_HOME/models/NAME` that plain `from_pretrained` loads; SPIRAL_HOME is
`~/.cache/spiral` when it is not set. A directory put there by hand counts as well. Like the names of the built-in
models, these come before paths, so that a recipe means the same wherever it is run; a directory of the same name is
written `./NAME`. Models in the Hugging Face cache go by their Hugging Face names.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from spiral.core.files import remove_unfinished, write_directory_atomically

NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
MAX_NAME = 255
"""Maximum number of characters of a file name."""
BUILT_IN: Mapping[str, Path] = MappingProxyType(
    {name: Path(__file__).parent / name.replace("-", "_") for name in ("nano", "nano-think")}
)
"""The directories of the models that come with the package."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""`from_pretrained` loads the first that exists: as one file, or in the parts that NAME.index.json lists."""
Notify = Callable[[str], object]


class NotFetchedError(ValueError):
    """A known model that is not here yet."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model {name!r} is not here yet; to fetch it, run `spiral models get {name}`")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fetchable:
    """A model that `spiral models get` can fetch, and how to fill its directory."""

    summary: str
    parameters: int
    bytes: int
    write: Callable[[Path, Notify], None]


def _write_smollm2(directory: Path, notify: Notify) -> None:
    from spiral.models.smollm2 import write_smollm2  # loads transformers

    write_smollm2(directory, notify)


FETCHABLE: Mapping[str, Fetchable] = MappingProxyType(
    {
        "smollm2": Fetchable(
            summary="SmolLM2-135M-Instruct, dequantised from 4 bits",
            parameters=134_515_008,
            bytes=272_586_200,
            write=_write_smollm2,
        )
    }
)


def store_directory() -> Path:
    """Where local models are kept: `models` in $SPIRAL_HOME, $XDG_CACHE_HOME/spiral or ~/.cache/spiral."""
    home = os.environ.get("SPIRAL_HOME")
    if home:
        return Path(os.path.abspath(os.path.expanduser(home))) / "models"
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # the XDG specification has relative paths ignored
        cache = os.path.expanduser("~/.cache")
    return Path(cache) / "spiral" / "models"


def local_model_directory(name: str) -> Path | None:
    """The directory of the local model `name`, or None when there is none."""
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        return None
    directory = store_directory() / name
    return directory if (directory / "config.json").is_file() else None


def local_models() -> dict[str, Path]:
    """The directory of every local model, by name."""
    store = store_directory()
    names = sorted(path.name for path in store.iterdir()) if store.is_dir() else []
    found = {name: local_model_directory(name) for name in names}
    return {name: directory for name, directory in found.items() if directory is not None}


def hub_models() -> dict[str, Path]:
    """The snapshot of every model in the Hugging Face cache that is complete, by its name; none without a cache."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir  # comes with transformers; slow to import

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):  # none, or not readable; single damaged models are left out of it
        return {}
    snapshots = {
        repo.repo_id: revision.snapshot_path
        for repo in repos
        for revision in repo.revisions
        if repo.repo_type == "model" and "main" in revision.refs  # what a name alone stands for
    }
    return {
        name: directory
        for name, directory in sorted(snapshots.items())
        if (directory / "config.json").is_file() and weight_files(directory)
    }


def weight_files(directory: Path) -> list[Path]:
    """The files that a model's weights are loaded from; none where one of them is missing."""
    for name in WEIGHTS:
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():
            return [directory / name]
        if index.is_file():
            parts = [directory / part for part in index_parts(index)]
            return parts if all(part.is_file() for part in parts) else []
    return []


def index_parts(index: Path) -> list[str]:
    """The names of the files that an index of weights lists; none where it is damaged."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def get_model(name: str, notify: Notify) -> Path:
    """The directory of model `name`, fetched if it is not here yet; `notify` receives lines of progress.

    It appears as a whole or not at all. Raises `ValueError` for a name that cannot be fetched and `OSError` when
    fetching fails.
    """
    found = local_model_directory(name)
    if found is not None:
        return found
    if name not in FETCHABLE:
        raise ValueError(f"there is no model {name!r} to get; expected one of {', '.join(FETCHABLE)}")
    directory = store_directory() / name
    remove_unfinished(store_directory())
    write_directory_atomically(directory, lambda path: FETCHABLE[name].write(path, notify))
    return directory
