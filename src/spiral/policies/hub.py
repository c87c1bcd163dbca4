"""Models by their Hugging Face name, with and without a network.

Without one, the library behind `from_pretrained` asks again and again for the better part of a minute before it gives
up, even for a model that it has. So we look first: a hub that does not answer means the local copy or a clear error.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
TIMEOUT_SECONDS = 5.0
TEXT_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py")
"""Configuration and tokenizer."""


def hub_model(name: str) -> str:
    """`name` itself when the hub can be asked for it, else the path of its local copy.

    Raises `ValueError` when there is neither.
    """
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"there is no model {name!r}: no such path, and not a Hugging Face name such as 'org/model'")
    if hub_answers():
        return name
    copy = cached_copy(name)
    if copy is None:
        raise ValueError(
            f"there is no path {name!r} here, no local copy of a model of that name, and the Hugging Face hub cannot"
            " be reached to look for one"
        )
    return str(copy)


def cached_copy(name: str) -> Path | None:
    """The directory of the newest local copy of a hub's model, found without asking the hub; None without one."""
    from huggingface_hub import snapshot_download  # comes with transformers; slow to import

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None


def local_copy(name: str) -> str:
    """The directory of a model's files, fetched where `name` is one of the hub; a directory is itself.

    For engines that read the files themselves. Weights in other formats come only where there are no safetensors.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download  # comes with transformers; slow to import

    directory = Path(snapshot_download(name, allow_patterns=[*TEXT_FILES, "*.safetensors"]))
    if not any(directory.glob("*.safetensors")):
        directory = Path(snapshot_download(name, allow_patterns=[*TEXT_FILES, "*.bin"]))
    return str(directory)


@functools.cache
def hub_answers() -> bool:
    """Whether a connection to the hub can be made; asked once. A proxy is taken at its word."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "huggingface.co", port), TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True
