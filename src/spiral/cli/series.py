"""What `spiral psro` and `spiral league` have in common: where the files go, and how a stop is said."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spiral.cli.errors import FAILED, INTERRUPTED, Stopped
from spiral.cli.output import program

if TYPE_CHECKING:
    from spiral.core.locks import Lock
    from spiral.runs.recipe import Recipe

SERIES = {"psro": "population", "league": "league"}
"""What each command makes."""


def series_directory(name: str, recipe: Recipe, run_dir: Path | None) -> Path:
    """The directory of a command line: --run-dir, or runs/RECIPE-SEED.

    Raises:
        ValueError: It is a file.
    """
    path = run_dir or Path("runs") / f"{Path(name).stem if name.endswith('.toml') else name}-{recipe.run.seed}"
    if path.exists() and not path.is_dir():
        raise ValueError(f"--run-dir {path} is a file; expected a directory")
    return path


@contextmanager
def series_under_way(command: str, path: Path) -> Iterator[Lock]:
    """Holds the directory, shows the progress of runs, and says how to go on after a stop.

    Args:
        command: "psro" or "league".
        path: The directory.

    Yields:
        The lock of the directory.

    Raises:
        RunHeldError: Another process uses the directory.
        Stopped: The user or a guard has stopped a run, or another process has taken the directory over.
    """
    from spiral.core.files import remove_unfinished
    from spiral.core.locks import LockLostError
    from spiral.core.progress import progress_shown
    from spiral.core.stopping import stops_interrupt
    from spiral.launch import RunStopped
    from spiral.runs.lock import run_held

    with stops_interrupt(), progress_shown(), run_held(path, SERIES[command]) as lock:
        remove_unfinished(path)
        try:
            yield lock
        except LockLostError as error:
            raise Stopped(f"{error}; the {SERIES[command]} has stopped; its last run is kept", FAILED) from error
        except (RunStopped, KeyboardInterrupt) as error:
            reason = error.reason if isinstance(error, RunStopped) else ""
            again = f"{program('spiral')} {command} ... --resume --run-dir {shlex.quote(str(path))}"
            message = f"stopped{f' ({reason})' if reason else ''}; the same command with --resume continues: {again}"
            raise Stopped(message, FAILED if reason else INTERRUPTED) from error
