"""What commands have in common that train one run after another in a directory: `spiral psro`, `spiral league`.

Each keeps a file of what is done. Killed at any moment, the same command goes on with the run that was under way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiral.core.files import remove_unfinished, write_text_atomically
from spiral.core.locks import Lock
from spiral.launch.lifecycle import Run, resume, start
from spiral.runs.directory import RunDirectory, lasting_settings
from spiral.runs.lock import LOCK_FILES
from spiral.runs.recipe import Recipe, validate_recipe


def refuse_used(file: Path, what: str) -> None:
    """Check that a directory is new or empty.

    Args:
        file: The file that a series would have in it.
        what: "population" or "league".

    Raises:
        ValueError: It is not.
    """
    path = file.parent
    if file.exists():
        raise ValueError(f"{path} already holds a {what}; continue it with --resume, or choose another --run-dir")
    if path.is_dir():
        remove_unfinished(path)  # a kill may have left the file half written
    if path.exists() and {entry.name for entry in path.iterdir()} - LOCK_FILES:
        raise ValueError(f"{path} is not empty; choose another --run-dir, or move its files away")


def save_series(file: Path, values: Mapping[str, Any], lock: Lock | None) -> None:
    """Write the file of a series.

    Args:
        file: The file.
        values: What it holds.
        lock: That of its directory, where this process holds it.

    Raises:
        LockLostError: Another process has taken the directory over.
    """
    if lock is not None:
        lock.check()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, json.dumps(values))


def refuse_changed(
    file: Path, saved: Mapping[str, Any], recipe: Recipe, options: Mapping[str, object], kept: Mapping[str, object]
) -> None:
    """Check that a series continues with the settings that it began with.

    Args:
        file: The file that was read.
        saved: Its recipe, as plain data.
        recipe: The recipe that is given now.
        options: The options that are given now, by the command's names for them.
        kept: Those in the file.

    Raises:
        ValueError: They differ; the message names all that do.
    """
    before = validate_recipe(saved, str(file))
    mine, other = lasting_settings(before), lasting_settings(recipe)
    mine["run"]["steps"], other["run"]["steps"] = before.run.steps, recipe.run.steps
    pairs = {
        f"{section}.{key}": (values.get(key), other[section].get(key))
        for section, values in mine.items()
        for key in dict.fromkeys((*values, *other[section]))  # tables of opponents may be in one of them alone
    }
    pairs |= {f"--{name}": (kept.get(name), value) for name, value in options.items()}
    found = [f"{name} is {old!r} in it and {new!r} here" for name, (old, new) in pairs.items() if old != new]
    if found:
        raise ValueError(
            f"{file} was made with other settings: {'; '.join(found)}; --resume continues with the same ones, so give"
            " those, or begin in another --run-dir"
        )


def begin_or_resume(recipe: Recipe, directory: Path, steps: int | None = None) -> Run:
    """Start a run of a recipe, or resume the one that a directory holds with what the recipe may change of it.

    Args:
        recipe: The recipe.
        directory: The run directory.
        steps: The last step of a run that is resumed; None leaves the one that it has.
    """
    if RunDirectory(directory).begun():
        return resume(directory, steps, changed_recipe=recipe)
    return start(recipe, directory)
