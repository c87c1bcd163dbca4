"""File locks that name their holder, between processes of one machine or several.

    .lock          empty; its holder has locked it with flock. It is never removed, or two processes could hold it.
    .lock.owner    one JSON object: the holder, and a heartbeat counter. Removed on release.

A flock ends with its process, also by SIGKILL, and lasts while the process is suspended. Some disks have no flock, and
on some network disks it covers one machine only; there the owner file decides. An owner on this machine is dead when
its process is gone (a reused process id has another start time); one on another machine, when its heartbeat has stopped
for `SILENT_SECONDS`, by the disk's clock or by watching it. So a crash never needs a forced unlock.

If a process is suspended so long, on a disk without flock, that another takes its lock, the owner file holds another
token: holders call `Claim.check` before they write.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import errno
import json
import logging
import os
import platform
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0
"""An owner on another machine counts as dead after this time without a heartbeat."""
SETTLE_SECONDS = 1.0
"""Where flock may not reach other machines, the last process to write its name gets the lock, after this time."""
LOOK_SECONDS = 0.25
NAMED_SECONDS = 2.0
"""Time in which the holder of a flock must write its name."""
UNLOCKABLE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks."""
BEAT_PLACE = len('{"beat": "')
BEAT_DIGITS = 12
RECORD_BYTES = 1024
"""All owner files have this size, so that a new record covers the old one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """The holder of a lock."""

    token: str
    host: str
    machine: str
    pid: int
    started: str
    """Start time of the process, in the system's units; distinguishes it from a later process with the same id."""
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class HeldError(BlockingIOError):
    """Another process holds the lock; `strerror` names it."""

    def __init__(self, path: Path, owner: Owner | None, silent_seconds: float = 0.0) -> None:
        super().__init__(errno.EWOULDBLOCK, str(owner) if owner else "another process", str(path))
        self.owner = owner
        self.silent_seconds = silent_seconds
        """Seconds since its last heartbeat."""


class LockLostError(RuntimeError):
    """Another process took a lock that this process held."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A held lock as plain data, which can be sent to other processes that write for the holder."""

    file: Path
    token: str

    def check(self) -> None:
        """Raise `LockLostError` when the lock is no longer held, `OSError` when the owner file cannot be read."""
        owner, _ = _parsed(_bytes(self.file))
        if owner is not None and owner.token == self.token:
            return
        taken = f"{owner} has held it since {owner.since}" if owner else f"{self.file} is gone"
        raise LockLostError(f"this process does not hold {self.file.parent} any more: {taken}")


class Lock:
    """A lock that this process holds, possibly several times; made by `acquire`."""

    def __init__(self, path: Path, descriptor: int, owner: Owner) -> None:
        self.path = path
        self.claim = Claim(file=_owner_file(path.absolute()), token=owner.token)
        self.owner = owner
        self.holds = 1
        self._descriptor = descriptor
        self._released = threading.Event()
        threading.Thread(target=self._beat, name=f"lock {path}", daemon=True).start()

    def check(self) -> None:
        """Raise `LockLostError` when the lock is no longer held."""
        self.claim.check()

    def release(self) -> None:
        """Release the lock; one that was acquired several times is held until the last release."""
        with _guard:
            self.holds -= 1
            if self.holds:
                return
            _held.pop(_key(self.path), None)
        self._released.set()
        owner = _read(self.claim.file)
        if owner is not None and owner.token == self.owner.token:
            with contextlib.suppress(OSError):
                self.claim.file.unlink()
        _unlock(self._descriptor)
        os.close(self._descriptor)

    def forget(self) -> None:
        """Close the file in a forked child, where the lock belongs to the parent."""
        self._released.set()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _beat(self) -> None:
        beat = 0
        while not self._released.wait(BEAT_SECONDS):
            beat += 1
            with contextlib.suppress(OSError), self.claim.file.open("r+b", buffering=0) as file:
                owner, _ = _parsed(file.read(RECORD_BYTES))
                if owner is not None and owner.token != self.owner.token:
                    return
                # Write the beat alone: if another process takes the lock at this moment, its record stays.
                file.seek(BEAT_PLACE)
                file.write(f"{beat:0{BEAT_DIGITS}d}".encode())


_held: dict[str, Lock] = {}
_guard = threading.RLock()


def acquire(path: Path, *, again: bool = False) -> Lock:
    """Acquire the lock file `path`.

    This waits up to `SILENT_SECONDS` where only a missing heartbeat shows that the owner is dead.

    Args:
        path: The lock file; its directory exists.
        again: Whether this process may hold the lock already.

    Raises:
        HeldError: Another process holds the lock, or this one does and `again` is False.
        OSError: The file cannot be written.
    """
    with _guard:
        lock = _held.get(_key(path))
        if lock is not None:
            if not again:
                raise HeldError(path, lock.owner)
            lock.holds += 1
            return lock
        descriptor, excludes = _flocked(path)
        try:
            owner = _take(path, excludes)
        except BaseException:
            _unlock(descriptor)
            os.close(descriptor)
            raise
        lock = _held[_key(path)] = Lock(path, descriptor, owner)
        return lock


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Hold the lock file `path` during a `with` block. Raises `HeldError` when it is held already."""
    lock = acquire(path)
    try:
        yield lock
    finally:
        lock.release()


def holder(path: Path) -> Owner | None:
    """Return who holds the lock file, as far as its owner file tells; nothing is locked, written or waited for.

    An owner on another machine counts as alive until `SILENT_SECONDS` after its last heartbeat by this machine's clock.
    """
    file = _owner_file(path.absolute())
    owner = _read(file)
    if owner is None:
        return None
    if owner.machine == _machine():
        return owner if _key(path) in _held or _alive(owner) else None
    try:
        return owner if time.time() - file.stat().st_mtime < SILENT_SECONDS else None
    except OSError:
        return None


def _take(path: Path, excludes: bool) -> Owner:
    """Write this process into the owner file, unless the present owner is alive."""
    file = _owner_file(path)
    before = _read(file)
    elsewhere = before is not None and before.machine != _machine()
    # With flock, a live owner on this machine would hold it. Without, it holds the lock if its process runs.
    if before is not None and (_still_beats(file, before) if elsewhere else not excludes and _alive(before)):
        raise HeldError(path, before)
    owner = Owner(
        token=secrets.token_hex(8),
        host=platform.node()[:60],
        machine=_machine(),
        pid=os.getpid(),
        started=process_start(os.getpid()) or "",
        since=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    )
    _write(file, owner)
    if elsewhere or not excludes:
        time.sleep(SETTLE_SECONDS)
        now = _read(file)
        if now is None or now.token != owner.token:
            raise HeldError(path, now)
    return owner


def _flocked(path: Path) -> tuple[int, bool]:
    """Open the lock file and lock it; return the descriptor and whether the file system has locks.

    Raises `HeldError` when another process holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            excludes = _lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise _held_error(path) from None
        except BaseException:
            os.close(descriptor)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, excludes
        os.close(descriptor)  # removed since it was opened


def _lock(descriptor: int) -> bool:
    """Lock a file and return whether flock works here. Raises `BlockingIOError` when another process holds the lock."""
    try:
        import fcntl  # Unix only
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise
        return False
    return True


def _unlock(descriptor: int) -> None:
    """Unlock, even while a child process has the file open."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # Unix only

        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _held_error(path: Path) -> HeldError:
    """Return an error that names the holder, which may not yet have written its name over a dead owner's."""
    file, end = _owner_file(path), time.monotonic() + NAMED_SECONDS
    while True:
        owner = _read(file)
        if owner is not None and (owner.machine != _machine() or _alive(owner)):
            with contextlib.suppress(OSError):
                return HeldError(path, owner, _silent_seconds(file))
            return HeldError(path, owner)
        if time.monotonic() > end:
            return HeldError(path, None)
        time.sleep(LOOK_SECONDS / 5)


def _alive(owner: Owner) -> bool:
    """Whether an owner on this machine still runs. A record of this process for a lock it does not hold is stale."""
    if owner.pid == os.getpid():
        return False
    started = process_start(owner.pid)
    return started is not None and started == owner.started


def _still_beats(file: Path, owner: Owner) -> bool:
    """Whether an owner on another machine is alive; a live one is recognised after one heartbeat at the latest."""
    first, warned = _bytes(file), False
    end = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < end and _silent_seconds(file) < SILENT_SECONDS:
        if not warned:
            logger.warning("%s held %s a moment ago; waiting to see whether it still does", owner, file.parent)
            warned = True
        time.sleep(LOOK_SECONDS)
        if _bytes(file) != first:
            return True
    return False


def _silent_seconds(file: Path) -> float:
    """Seconds since the last heartbeat, by the disk's clock."""
    with tempfile.TemporaryFile(dir=file.parent) as probe:
        probe.write(b".")
        probe.flush()
        return os.fstat(probe.fileno()).st_mtime - file.stat().st_mtime


def process_start(pid: int) -> str | None:
    """Start time of a process of this machine; None when it does not run or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        if os.name == "nt" or Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def _machine() -> str:
    """The scope of process ids: this boot of this machine, and the pid namespace of a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()[:60]


def _owner_file(path: Path) -> Path:
    return path.with_name(path.name + ".owner")


def _key(path: Path) -> str:
    return os.path.realpath(path)


def _write(file: Path, owner: Owner) -> None:
    """Write in place, since some network disks cannot rename over a file that another process has open."""
    record = {"beat": "0" * BEAT_DIGITS, **dataclasses.asdict(owner)}
    data = json.dumps(record).encode().ljust(RECORD_BYTES - 1) + b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, data)
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes(file: Path) -> bytes:
    """The owner file's content; empty when there is no file."""
    try:
        with file.open("rb", buffering=0) as opened:
            return opened.read(RECORD_BYTES) or b""
    except FileNotFoundError:
        return b""


def _read(file: Path) -> Owner | None:
    """The owner; None when there is none or its record cannot be read."""
    try:
        return _parsed(_bytes(file))[0]
    except OSError:
        return None


def _parsed(data: bytes) -> tuple[Owner | None, str]:
    """An owner and its beat."""
    try:
        values: dict[str, Any] = json.loads(data)
        beat = values.pop("beat")
        return Owner(**{**values, "pid": int(values["pid"])}), str(beat)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, ""


@atexit.register
def _release_all() -> None:
    """Release the locks that the process still holds at its end."""
    for lock in list(_held.values()):
        lock.holds = 1
        lock.release()


def _forget_in_child() -> None:
    global _guard  # noqa: PLW0603 (another thread of the parent may have held it)
    _guard = threading.RLock()
    for lock in _held.values():
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
