"""What belongs to a step of a run, by its name: checkpoints, files of episodes, measurements.

    step-000100    step-1000000    step-000100.parquet

Names that are not exactly so are not a run's own (`step-000100.bak`, `step-final`, `step-000100 (copy).json`), and are
neither read nor removed.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from spiral.core.files import pointed_to

LATEST = "latest"


def step_name(step: int) -> str:
    """What a step's files and directories are called: six digits, and more from a million on."""
    return f"step-{step:06d}"


def numbered(directory: Path, suffix: str = "") -> list[tuple[int, Path]]:
    """The entries of a directory that are named after a step and end in `suffix`, in the order of the steps."""
    found = []
    for path in directory.glob(f"step-*{glob.escape(suffix)}"):
        digits = path.name.removeprefix("step-").removesuffix(suffix)
        if digits.isascii() and digits.isdigit() and len(digits) < 19 and path.name == step_name(int(digits)) + suffix:
            found.append((int(digits), path))
    return sorted(found)


def checkpoints_in(root: Path) -> list[tuple[int, Path]]:
    """The checkpoints below a run's `checkpoints`, those that are links included, in the order of their steps."""
    return [(step, path) for step, path in numbered(root) if path.is_dir()]


def latest_checkpoint(root: Path) -> Path | None:
    """The checkpoint that `latest` names; without a `latest`, that of the last step.

    None where there is no checkpoint, and where `latest` names one that does not exist. `latest` is a link, or where
    links cannot be, a text file, or a copy of a checkpoint. Raises `ValueError` when it names anything outside `root`.
    """
    link = root / LATEST
    named = pointed_to(link)
    if named is None and not os.path.lexists(link):
        found = checkpoints_in(root)
        return found[-1][1] if found else None
    if named is None:
        return None
    if named != link and os.path.realpath(named.parent) != os.path.realpath(root):
        raise ValueError(
            f"{link} names {str(named)!r}, which is no checkpoint of this run; make it name one of {root}/step-*"
        )
    if named.name in ("", ".", "..") or "\0" in named.name or not named.is_dir():
        return None
    return named
