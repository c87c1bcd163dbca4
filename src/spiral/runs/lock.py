"""The lock on a directory of a run, or of runs one after another, which one process uses at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from spiral.core.locks import BEAT_SECONDS, HeldError, Lock, Owner, acquire, holder

RUN_LOCK = ".lock"
LOCK_FILES = frozenset({RUN_LOCK, f"{RUN_LOCK}.owner"})
"""What the lock leaves in a directory; a killed process leaves both."""


class RunHeldError(ValueError):
    """Another process uses the run directory."""


@contextlib.contextmanager
def run_held(path: Path, what: str = "run") -> Iterator[Lock]:
    """Locks the run directory `path` for a `with` block, and creates it if it does not exist.

    A directory in which nothing was written is left as it was found. Arguments and errors are those of `hold_run`.
    """
    made = [directory for directory in (path, *path.absolute().parents) if not directory.exists()]
    lock = hold_run(path, what)
    try:
        yield lock
    finally:
        if lock.holds == 1:
            _tidy(path, made)
        lock.release()


def hold_run(path: Path, what: str = "run") -> Lock:
    """Locks a run directory, also if this process has locked it already; the caller releases the lock.

    Args:
        path: The directory.
        what: "run", or the "population" or "league" that has several, for errors.

    Raises:
        RunHeldError: Another process, which the message names, has locked it.
        OSError: The directory cannot be created or written to.
    """
    for _ in range(100):
        path.mkdir(parents=True, exist_ok=True)
        try:
            return acquire(path / RUN_LOCK, again=True)
        except FileNotFoundError:  # another process was refused its recipe, and has removed the directory
            continue
        except HeldError as error:
            raise RunHeldError(_held(path, error, what)) from error
    raise RunHeldError(f"{path} is created and removed by other processes")


def run_owner(path: Path) -> Owner | None:
    """The process that uses a run directory now, such as one that trains in it; None when there is none.

    It reads files only, so it may be asked while the run goes on, and of a directory that cannot be written.
    """
    return holder(path / RUN_LOCK)


def _held(path: Path, error: HeldError, what: str) -> str:
    owner = error.owner
    if owner is None:
        return f"another process uses the {what} in {path}; wait until it ends, or choose another --run-dir"
    text = f"{owner} uses the {what} in {path} since {owner.since}"
    advice = f"wait until it ends, or stop it there (kill {owner.pid})"
    if error.silent_seconds > 4 * BEAT_SECONDS:
        text += f", and has not updated its lock for {error.silent_seconds:.0f} s, so it may be suspended"
        advice += f"; if that machine is gone, remove {path / RUN_LOCK}"
    return f"{text}; {advice}"


def _tidy(path: Path, made: list[Path]) -> None:
    """Removes a directory that holds only the lock, while it is held: a lock on a removed file protects nothing."""
    with contextlib.suppress(OSError):
        if {entry.name for entry in path.iterdir()} <= LOCK_FILES:
            (path / f"{RUN_LOCK}.owner").unlink(missing_ok=True)
            (path / RUN_LOCK).unlink()
            for directory in made:
                directory.rmdir()
