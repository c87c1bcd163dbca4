"""The file of a directory in which one command trains one run after another: a population, a league."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from spiral.core.files import read_json
from spiral.core.settings import shortened, shown

SAVED: Final = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)
"""How records of a file are checked; later versions may have added to them."""


def read_series(file: Path, keys: Collection[str], what: str) -> dict[str, Any]:
    """What a command has recorded of its runs.

    Args:
        file: `psro.json` or `league.json`.
        keys: Keys it must have.
        what: "population" or "league", for errors.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    try:
        saved = read_json(file.read_bytes())
        if not isinstance(saved, dict):
            raise ValueError("it holds no object")
        if not set(keys) <= saved.keys():
            raise ValueError("parts of it are missing")
    except FileNotFoundError as error:
        raise ValueError(f"{file.parent} holds no {what}: there is no {file.name} in it") from error
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    return cast("dict[str, Any]", saved)


def check_saved(file: Path, kind: type[BaseModel], saved: Mapping[str, Any]) -> None:
    """Check the records of a file.

    Args:
        file: The file that was read, for errors.
        kind: What its records are.
        saved: What it holds.

    Raises:
        ValueError: It is damaged; the message names the first place.
    """
    try:
        kind.model_validate(saved)
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["type"] == "value_error":
            raise _damaged(file, str(fault["ctx"]["error"])) from error
        where = shortened(".".join(map(str, fault["loc"])))
        text = f"{where} is missing" if fault["type"] == "missing" else f"{where} is {shown(fault['input'])}"
        raise _damaged(file, text) from error


def runs_named(path: Path, pattern: str) -> list[Path]:
    """The runs in a directory whose names match a pattern, in order."""
    return sorted(run for run in path.glob(pattern) if (run / "config.toml").is_file())


def _damaged(file: Path, why: str) -> ValueError:
    return ValueError(f"{file} is damaged: {why}; put a good copy back, or begin in another --run-dir")
