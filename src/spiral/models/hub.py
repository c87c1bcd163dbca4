"""Models by their Hugging Face name, with and without a network.

Without a network, the library behind `from_pretrained` retries for minutes, even for a model that is in its cache. So
the hub is contacted first, through the proxy if there is one. If it does not answer within seconds, the local copy is
used, or a clear error is raised.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from spiral.core.settings import shown
from spiral.models.store import store_directory

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
MAX_HUB_NAME = 96
"""Maximum number of characters of a name on the hub."""
TIMEOUT_SECONDS = 5.0
TEXT_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Configuration and tokenizer."""
PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


class NotHereError(ValueError):
    """A model of the hub that is not on this machine and cannot be fetched now."""


def hub_model(name: str) -> str:
    """`name` itself when the hub answers, else the path of its local copy.

    Raises `NotHereError` when there is neither, and `ValueError` for an invalid name.
    """
    if not is_hub_name(name):
        raise ValueError(
            f"there is no model {shown(name)}: no such path, and not a Hugging Face name such as 'org/model'"
        )
    if hub_answers():
        return name
    copy = cached_copy(name)
    if copy is None:
        raise NotHereError(
            f"there is no path {name!r} here, no local copy of a model of that name, and the Hugging Face hub cannot"
            f" be reached to look for one{_why_not()}. {how_to_get(name)}"
        )
    return str(copy)


def is_hub_name(name: str) -> bool:
    """Whether the hub could have a model of that name."""
    return len(name) <= MAX_HUB_NAME and HUB_NAME.fullmatch(name) is not None


def how_to_get(name: str) -> str:
    """Advice on how to get a model onto this machine."""
    directory = store_directory() / name.rpartition("/")[2]
    return (
        f"To get it, run `hf download {name}` where there is a network and copy the files to {directory}, which makes"
        f" {directory.name!r} its name here; `spiral models` lists what is here"
    )


def cached_copy(name: str) -> Path | None:
    """The directory of the newest local copy of a hub's model, found without asking the hub; None without one."""
    from huggingface_hub import snapshot_download  # comes with transformers; slow to import

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None


def local_copy(name: str, *, weights: bool = True) -> str:
    """The directory of a model's files, fetched where `name` is one of the hub; a directory is itself.

    Weights in other formats come only where there are no safetensors. Code that comes with a model stays where it is.
    Raises `NotHereError` for a model that cannot be fetched.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download  # comes with transformers; slow to import

    try:
        if not weights:
            return str(snapshot_download(name, allow_patterns=[*TEXT_FILES]))
        directory = Path(snapshot_download(name, allow_patterns=[*TEXT_FILES, "*.safetensors"]))
        if not any(directory.glob("*.safetensors")):
            directory = Path(snapshot_download(name, allow_patterns=[*TEXT_FILES, "*.bin"]))
    except (
        Exception
    ) as error:  # the hub's client raises many kinds: no such model, a gated one, no network, a full disk
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NotHereError(
            f"cannot fetch model {name!r} from the Hugging Face hub: {reason}. {how_to_get(name)}"
        ) from error
    return str(directory)


def hub_answers() -> bool:
    """Whether the hub answers; asked once per process."""
    return hub_fault() is None


@functools.cache
def hub_fault() -> str | None:
    """Why the hub does not answer, or None if it does; asked once per process, for at most TIMEOUT_SECONDS."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set"
    found = ["no answer in time"]
    thread = threading.Thread(target=lambda: found.append(_asked()), daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)  # the client's timeout is per packet, so slow packets could take forever
    return found[-1] or None


def _asked() -> str:
    """Requests the hub's front page with its own client. Returns why that failed, or an empty text."""
    from huggingface_hub import get_session  # as above

    try:
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        status = get_session().head(endpoint, timeout=TIMEOUT_SECONDS, follow_redirects=False).status_code
    except Exception as error:  # of httpx, by whichever name, and what is wrong with an address
        return " ".join(str(error).split()) or type(error).__name__
    return f"it answers with status {status}" if status >= 500 else ""


def _why_not() -> str:
    """The fault of the hub, and the proxy used, as text."""
    proxy = next((os.environ[key] for key in PROXIES if os.environ.get(key)), "")
    host = urlsplit(proxy if "//" in proxy else f"//{proxy}").netloc.rpartition("@")[2]  # no password in messages
    said = ", ".join(filter(None, (hub_fault(), f"through the proxy {host}" if host else "")))
    return f" ({said})" if said else ""


@contextlib.contextmanager
def offline_unless_answered() -> Iterator[None]:
    """Context manager in which Hugging Face's libraries use their caches only, if the hub does not answer."""
    if hub_answers():
        yield
        return
    from huggingface_hub import constants

    settings = [constants, *filter(None, [sys.modules.get("datasets.config")])]
    before = [module.HF_HUB_OFFLINE for module in settings]
    try:
        for module in settings:
            module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        yield
    finally:
        for module, value in zip(settings, before, strict=True):
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]
