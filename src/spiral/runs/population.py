"""The file of a population that `spiral psro` grows: its policies, what each wins against each, and every iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from spiral.core.files import read_json

POPULATION = "psro.json"


def read_population(path: Path) -> dict[str, Any]:
    """The file of the population in a directory.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    file = path / POPULATION
    try:
        saved = read_json(file.read_bytes())
        if not {"recipe", "solver", "members", "iterations"} <= saved.keys():
            raise ValueError("parts of it are missing")
    except FileNotFoundError as error:
        raise ValueError(f"{path} holds no population: there is no {POPULATION} in it") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}; begin in another --run-dir") from error
    return cast("dict[str, Any]", saved)


def responses(path: Path) -> list[Path]:
    """The runs of a population's responses, in order."""
    return sorted(run for run in path.glob("response-*") if (run / "config.toml").is_file())
