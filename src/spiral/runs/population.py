"""The file of a population that `spiral psro` grows: its policies, what each wins against each, and every iteration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from spiral.runs.series import SAVED, check_saved, read_series, runs_named

POPULATION = "psro.json"
START = "start"
"""The first policy: the recipe's model as it is."""


def response_name(number: int) -> str:
    """The name of a response, numbered from 1."""
    return f"response-{number:03d}"


class _Member(BaseModel):
    """A policy of the population."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    name: str
    model: str
    method: str
    probabilities: list[float]


class _Iteration(BaseModel):
    """A meta-strategy and what it is worth."""

    model_config = SAVED
    iteration: int
    shares: dict[str, float]
    shares_by_player: list[dict[str, float]] | None = None
    """None in files of earlier versions."""
    exploitability: float
    payoffs: list[list[float]]
    response_gain: float | None = None


class _Population(BaseModel):
    """A whole population."""

    model_config = SAVED
    recipe: dict[str, Any]
    members: list[_Member]
    iterations: list[_Iteration]

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        names = [member.name for member in self.members]
        expected = [START, *(response_name(number) for number in range(1, max(1, len(names))))]
        if names != expected:
            raise ValueError(f"its members are called {', '.join(names) or 'nothing'}; expected {', '.join(expected)}")
        if len(names) - len(self.iterations) not in (0, 1):
            raise ValueError(
                f"it has {len(self.iterations)} iterations and {len(names)} members; expected as many, or one iteration"
                " less"
            )
        for number, one in enumerate(self.iterations):
            known = names[: number + 1]
            by_player = one.shares_by_player
            own = by_player is None or [list(shares) for shares in by_player] == [known, known]
            if not own or one.iteration != number:
                raise ValueError(f"iteration {number} is not of the members {', '.join(known)}")
        return self


def check_population(path: Path, saved: Mapping[str, Any]) -> None:
    """Check what `read_population` has read of a directory. Raises `ValueError` where it is damaged."""
    check_saved(path / POPULATION, _Population, saved)


def read_population(path: Path) -> dict[str, Any]:
    """The file of the population in a directory.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    return read_series(path / POPULATION, ("recipe", "solver", "members", "iterations"), "population")


def responses(path: Path) -> list[Path]:
    """The runs of a population's responses, in order."""
    return runs_named(path, "response-*")
