"""A run belongs to one process: the lock on its directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from spiral.core.locks import BEAT_SECONDS, HeldError, Lock, acquire

RUN_LOCK = ".lock"


class RunHeldError(ValueError):
    """Another process has the run."""


@contextlib.contextmanager
def run_held(path: Path) -> Iterator[Lock]:
    """Holds the run directory `path`, which is made where it does not exist, for the time of a `with` block.

    A directory in which nothing was written is left as it was found. Raises as `hold_run` does.
    """
    made = [directory for directory in (path, *path.absolute().parents) if not directory.exists()]
    lock = hold_run(path)
    try:
        yield lock
    finally:
        if lock.holds == 1:
            _tidy(path, made)
        lock.release()


def hold_run(path: Path) -> Lock:
    """The lock on a run directory, also where this process holds it already; to be released.

    Raises `RunHeldError` that names the process that has it, `OSError` where the directory cannot be made or written.
    """
    for _ in range(100):
        path.mkdir(parents=True, exist_ok=True)
        try:
            return acquire(path / RUN_LOCK, again=True)
        except FileNotFoundError:  # another process was refused its recipe, and has removed the directory
            continue
        except HeldError as error:
            raise RunHeldError(_held(path, error)) from error
    raise RunHeldError(f"{path} is made and removed by other processes")


def _held(path: Path, error: HeldError) -> str:
    """Who has the run, since when, and what to do."""
    owner = error.owner
    if owner is None:
        return f"another process has the run in {path}; wait until it ends, or choose another --run-dir"
    text = f"{owner} has the run in {path} since {owner.since}"
    advice = f"wait until it ends, or stop it there (kill {owner.pid})"
    if error.silent_seconds > 4 * BEAT_SECONDS:
        text += f", without a sign of life for {error.silent_seconds:.0f} s: it may be suspended"
        advice += f"; if that machine is gone, remove {path / RUN_LOCK}"
    return f"{text}; {advice}"


def _tidy(path: Path, made: list[Path]) -> None:
    """Removes what the lock alone has left of a directory. While it is held: a lock on a removed file holds nothing."""
    with contextlib.suppress(OSError):
        if {entry.name for entry in path.iterdir()} <= {RUN_LOCK, f"{RUN_LOCK}.owner"}:
            (path / f"{RUN_LOCK}.owner").unlink(missing_ok=True)
            (path / RUN_LOCK).unlink()
            for directory in made:
                directory.rmdir()
