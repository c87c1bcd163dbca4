"""Writing files so that a crash, a full disk or a kill leaves either the old content or the new, never a part."""

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
"""What file systems answer that cannot be asked to write now."""
UNFINISHED = re.compile(r"\.(?P<name>.+)\.\d+-[0-9a-f]{8}\.(?P<purpose>tmp|writing|before)", re.DOTALL)
"""The names of `_beside`."""
FORMERLY_UNFINISHED = re.compile(
    r"\.(?P<name>config\.toml|(metrics|[\w.=-]+-states)\.jsonl|cluster\.json|latest|learning_curve\.png"
    r"|(step-\d+|[\w.=-]+-against-[\w.=-]+)\.(json|parquet))\.\d+\.(?P<purpose>tmp)"
    r"|\.(?P<directory>step-\d+)\.(?P<directory_purpose>writing|before)"
)
"""Those of earlier versions, in run directories."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary path)` and moves the result to `path`; an earlier `path` stays whole until then."""
    temporary = _beside(path, "tmp")
    try:
        write(temporary)
        sync(temporary)
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """The same for a text, in UTF-8 with line feeds whatever the locale and the system."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, all of them or none."""
    text = "".join(json_line(record) for record in records)
    write_text_atomically(path, text)


def json_line(record: Mapping[str, Any]) -> str:
    """A record as a line of a JSONL file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_directory_atomically(
    path: Path, write: Callable[[Path], object], check: Callable[[], None] = lambda: None
) -> None:
    """The same for a directory: `write(temporary directory)` fills it, then it takes the place of `path`.

    `check()` is called right before that, and may raise.
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
    """A name in the same directory that no other process and no other call uses."""
    return path.with_name(f".{path.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.{purpose}")


def _replace(new: Path, path: Path) -> None:
    """Moves a file over another one. Where a disk refuses that (some SMB shares), the old one is moved away first."""
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
    """Removes a directory with all that is in it, or a file, or a link but not what it names; nothing may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(directory: Path) -> None:
    """Removes what killed writers left half done in `directory` itself; those below it are left alone.

    What was moved away for something new that did not come is put back.
    """
    for path in directory.glob(".*"):
        name, purpose = _unfinished(path.name)
        is_directory = path.is_dir() and not path.is_symlink()
        if purpose == "before" and not os.path.lexists(directory / name):
            path.rename(directory / name)
        elif purpose == "before" or (purpose and is_directory == (purpose == "writing")):
            remove(path)


def _unfinished(name: str) -> tuple[str, str]:
    """What a temporary name stands for, and why; empty for other names."""
    found = UNFINISHED.fullmatch(name)
    if found is not None:
        return found["name"], found["purpose"]
    found = FORMERLY_UNFINISHED.fullmatch(name)
    if found is None:
        return "", ""
    return (found["name"], found["purpose"]) if found["name"] else (found["directory"], found["directory_purpose"])


def point_to(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to `target`, replacing an earlier one in one step.

    Where the disk has no symbolic links, it becomes a text file with the name of the target: read it by `pointed_to`.
    A directory in the link's place (a copy made by something that follows links) is removed.
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
    """What `link` names, whether it is a symbolic link, a text file, or the thing itself; None where there is no link.

    The target need not exist.
    """
    if link.is_symlink():
        return link.parent / os.readlink(link)
    if link.is_file():
        name = link.read_bytes()[:4096].decode("utf-8", "replace").strip("\r\n\t \ufeff")
        return link.parent / name if name else None
    return link if link.is_dir() else None


def share_mode(path: Path, mode: int) -> None:
    """Gives a file an access mode, where the file system has such a thing and lets it be changed."""
    with contextlib.suppress(OSError):  # CIFS, exFAT and bucket mounts refuse
        path.chmod(mode)


def sync(path: Path) -> None:
    """Waits until a file or directory is on disk, where the file system can say so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # of Windows
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
    """The hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
