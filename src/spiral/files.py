"""Writing files so that a crash, a full disk or a kill leaves either the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

UNLOCKABLE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems say that know no locks."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary path)` and moves the result to `path`; an earlier `path` stays whole until then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, all of them or none."""
    text = "".join(json_line(record) for record in records)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def json_line(record: Mapping[str, Any]) -> str:
    """A record as a line of a JSONL file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path` for the time of a `with` block; the system lets go of it when the process dies.

    Raises `BlockingIOError` that says who holds it, where another has it. The file stays behind: removing it would let
    two hold locks on two files of the same name. Where the platform or the file system knows no locks nothing is held.
    """
    with path.open("a+", encoding="utf-8") as file:
        if not _lock(file):
            file.seek(0)
            raise BlockingIOError(errno.EWOULDBLOCK, file.read().strip() or "another process", str(path))
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            _unlock(file)


def _lock(file: IO[str]) -> bool:
    """Whether the lock was free, or there is no such thing here."""
    try:
        import fcntl  # of Unix only
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise
    return True


def _unlock(file: IO[str]) -> None:
    """Lets go even where a forked child still has the file open."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # of Unix only

        fcntl.flock(file, fcntl.LOCK_UN)


def write_directory_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """The same for a directory: `write(temporary directory)` fills it, then it takes the place of `path`."""
    temporary, before = path.with_name(f".{path.name}.writing"), path.with_name(f".{path.name}.before")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        if path.exists():
            shutil.rmtree(before, ignore_errors=True)
            path.rename(before)
        temporary.rename(path)
        sync(path.parent)
    finally:
        if before.exists() and not path.exists():
            before.rename(path)
        shutil.rmtree(before, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(directory: Path) -> None:
    """Removes what killed writers left half done in `directory` itself; those below it are left alone."""
    for path in directory.glob(".*.[0-9]*.tmp"):
        path.unlink(missing_ok=True)  # one that is just being put in place
    for path in directory.glob(".*.writing"):
        shutil.rmtree(path)


def point_to(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to `target`, replacing an earlier one in one step.

    A directory in the link's place (a copy made by something that follows links) is removed.
    """
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def sync(path: Path) -> None:
    """Waits until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
