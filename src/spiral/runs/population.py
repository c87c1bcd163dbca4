"""The file of a population that `spiral psro` grows: its policies, what each wins against each, and every iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spiral.runs.series import read_series, runs_named

POPULATION = "psro.json"


def read_population(path: Path) -> dict[str, Any]:
    """The file of the population in a directory.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    return read_series(path / POPULATION, ("recipe", "solver", "members", "iterations"), "population")


def responses(path: Path) -> list[Path]:
    """The runs of a population's responses, in order."""
    return runs_named(path, "response-*")
