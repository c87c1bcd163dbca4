"""Write files so that a crash, a full disk or a kill leaves the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

UNSYNCABLE = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF, errno.EPERM, errno.EACCES)
"""Errors of file systems that do not support fsync."""
UNFINISHED = re.compile(r"\.(?P<name>.+)\.\d+-[0-9a-f]{8}\.(?P<purpose>tmp|writing|before)", re.DOTALL)
"""The temporary names that `_beside` makes."""
FORMERLY_UNFINISHED = re.compile(
    r"\.(?P<name>config\.toml|(metrics|[\w.=-]+-states)\.jsonl|cluster\.json|latest|learning_curve\.png"
    r"|(step-\d+|[\w.=-]+-against-[\w.=-]+)\.(json|parquet))\.\d+\.(?P<purpose>tmp)"
    r"|\.(?P<directory>step-\d+)\.(?P<directory_purpose>writing|before)"
)
"""The temporary names of earlier versions, in run directories."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)` and move the result to `path`; an earlier `path` stays whole until then."""
    temporary = _beside(path, "tmp")
    try:
        write(temporary)
        sync(temporary)
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text atomically, in UTF-8 with line feeds on every system."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, all of them or none."""
    text = "".join(json_line(record) for record in records)
    write_text_atomically(path, text)


def json_line(record: Mapping[str, Any]) -> str:
    """Return a record as one line of a JSONL file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def read_json(text: str | bytes) -> Any:
    """Return the value of an untrusted JSON text.

    Raises:
        ValueError: It is no JSON, nested too deeply, or holds a whole number that is larger than any float.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _whole(digits: str) -> int:
    number = int(digits)
    try:
        float(number)
    except OverflowError as error:
        raise ValueError(f"a number of {len(digits)} digits is too large") from error
    return number


def write_directory_atomically(
    path: Path, write: Callable[[Path], object], check: Callable[[], None] = lambda: None
) -> None:
    """Fill a temporary directory with `write(temporary directory)`, then move it to `path`.

    `check()` is called right before the move; an exception from it leaves `path` as it was.
    """
    temporary, before = _beside(path, "writing"), _beside(path, "before")
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        check()
        if os.path.lexists(path):
            path.rename(before)
        temporary.rename(path)
        sync(path.parent)
    finally:
        if os.path.lexists(before) and not os.path.lexists(path):
            before.rename(path)
        remove(before)
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path, purpose: str) -> Path:
    """Return a name in the same directory that no other process or call uses."""
    return path.with_name(f".{path.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.{purpose}")


def _replace(new: Path, path: Path) -> None:
    """Move a file over another. On disks that refuse this (some SMB shares), move the old file away first."""
    try:
        os.replace(new, path)
    except OSError:
        if not os.path.lexists(path) or path.is_dir() or not os.path.lexists(new):
            raise
        before = _beside(path, "before")
        os.rename(path, before)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(before, path)
            raise
        before.unlink()


def remove(path: Path) -> None:
    """Remove a directory with its content, a file, or a link but not its target; do nothing if it does not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(directory: Path) -> None:
    """Remove the temporary files that killed writers left in `directory` itself, not those in its subdirectories.

    An old file or directory that was moved away for a new one that never came is moved back.
    """
    for path in directory.glob(".*"):
        name, purpose = _unfinished(path.name)
        is_directory = path.is_dir() and not path.is_symlink()
        if purpose == "before" and not os.path.lexists(directory / name):
            path.rename(directory / name)
        elif purpose == "before" or (purpose and is_directory == (purpose == "writing")):
            remove(path)


def _unfinished(name: str) -> tuple[str, str]:
    """Return the final name and the purpose of a temporary name; empty strings for other names."""
    found = UNFINISHED.fullmatch(name)
    if found is not None:
        return found["name"], found["purpose"]
    found = FORMERLY_UNFINISHED.fullmatch(name)
    if found is None:
        return "", ""
    return (found["name"], found["purpose"]) if found["name"] else (found["directory"], found["directory_purpose"])


def point_to(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, replacing an earlier one in one step.

    On disks without symbolic links it becomes a text file with the target's name; `pointed_to` reads both. A directory
    at `link` (made by a copy that follows links) is removed.
    """
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    temporary = _beside(link, "tmp")
    try:
        temporary.symlink_to(target)
        _replace(temporary, link)
    except (OSError, NotImplementedError):
        temporary.unlink(missing_ok=True)
        write_text_atomically(link, target + "\n")


def pointed_to(link: Path) -> Path | None:
    """Return the target of `link`, which is a symbolic link, a text file or the target itself; None without a link.

    The target need not exist.
    """
    if link.is_symlink():
        return link.parent / os.readlink(link)
    if link.is_file():
        name = link.read_bytes()[:4096].decode("utf-8", "replace").strip("\r\n\t \ufeff")
        return link.parent / name if name else None
    return link if link.is_dir() else None


def set_mode(path: Path, mode: int) -> None:
    """Set a file's access mode on file systems that allow it."""
    with contextlib.suppress(OSError):  # CIFS, exFAT and bucket mounts refuse
        path.chmod(mode)


def sync(path: Path) -> None:
    """Flush a file or directory to disk on file systems that support it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCABLE:
            raise
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
