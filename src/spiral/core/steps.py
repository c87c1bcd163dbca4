"""Names of the files and directories of a step: checkpoints, episodes, evaluations.

    step-000100    step-1000000    step-000100.parquet

Other names (`step-000100.bak`, `step-final`, `step-000100 (copy).json`) do not belong to the run and are neither read
nor removed.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from spiral.core.files import pointed_to

LATEST = "latest"
SNAPSHOTS = "snapshots"
"""The directory of a run's models that are kept for ever, without what training needs to resume."""
MANIFEST = "manifest.json"
"""The file of a checkpoint or snapshot with the SHA-256 of every file in it."""
PAST_SELVES = "past_selves"
"""The directory of the models that the opponent sampler of a run may choose, kept as long as it may."""


def step_name(step: int) -> str:
    """Return the name of a step's files and directories: at least six digits."""
    return f"step-{step:06d}"


def numbered(directory: Path, suffix: str = "") -> list[tuple[int, Path]]:
    """Return `(step, path)` of the entries that are named after a step and end in `suffix`, in order."""
    found = []
    for path in directory.glob(f"step-*{glob.escape(suffix)}"):
        digits = path.name.removeprefix("step-").removesuffix(suffix)
        if digits.isascii() and digits.isdigit() and len(digits) < 19 and path.name == step_name(int(digits)) + suffix:
            found.append((int(digits), path))
    return sorted(found)


def checkpoints_in(root: Path) -> list[tuple[int, Path]]:
    """Return `(step, path)` of the checkpoints in a run's `checkpoints` directory, links included, in order."""
    return [(step, path) for step, path in numbered(root) if path.is_dir()]


def models_of_run(run: Path) -> dict[int, Path]:
    """Return the models that a run has kept, by step, in order.

    Of one step a snapshot comes before a checkpoint, and that before a past self.
    """
    places = (PAST_SELVES, "checkpoints", SNAPSHOTS)
    return dict(sorted({step: path for place in places for step, path in checkpoints_in(run / place)}.items()))


def latest_checkpoint(root: Path) -> Path | None:
    """Return the checkpoint that `latest` names or, without a `latest`, that of the last step.

    `latest` is a link, a text file on disks without links, or a copy of a checkpoint.

    Returns:
        None when there is no checkpoint, or `latest` names one that does not exist.

    Raises:
        ValueError: `latest` names something outside `root`.
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
            f"{link} names {str(named)!r}, which is not a checkpoint of this run; let it name one of {root}/step-*"
        )
    if named.name in ("", ".", "..") or "\0" in named.name or not named.is_dir():
        return None
    return named
