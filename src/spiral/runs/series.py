"""The file of a directory in which one command trains one run after another: a population, a league."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from spiral.core.files import read_json


def read_series(file: Path, keys: Collection[str], what: str) -> dict[str, Any]:
    """What a command has recorded of its runs.

    Args:
        file: `psro.json` or `league.json`.
        keys: What it holds at least.
        what: "population" or "league", for errors.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    try:
        saved = read_json(file.read_bytes())
        if not set(keys) <= saved.keys():
            raise ValueError("parts of it are missing")
    except FileNotFoundError as error:
        raise ValueError(f"{file.parent} holds no {what}: there is no {file.name} in it") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}; begin in another --run-dir") from error
    return cast("dict[str, Any]", saved)


def runs_named(path: Path, pattern: str) -> list[Path]:
    """The runs in a directory whose names match a pattern, in order."""
    return sorted(run for run in path.glob(pattern) if (run / "config.toml").is_file())
