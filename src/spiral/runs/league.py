"""The file of a league that `spiral league` trains: its main agent after every round, and its exploiters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from spiral.runs.series import SAVED, check_saved, read_series, runs_named

LEAGUE = "league.json"
MAIN = "main"
"""The main agent: its run, and its name as the opponent of an exploiter."""
EXPLOITER = "exploiter-"
"""What the names of all exploiters begin with."""


def exploiter_name(number: int) -> str:
    """The name of an exploiter, numbered from 1."""
    return f"{EXPLOITER}{number:03d}"


class _Result(BaseModel):
    """What an exploiter won in a game (`exploiter_result`)."""

    model_config = SAVED
    games: int = Field(ge=1)
    win_rate: float = Field(ge=0, le=1)
    mean_return: float = Field(alias="return")
    return_low: float | None
    return_high: float | None


class _MainAgent(BaseModel):
    """The main agent after a round."""

    model_config = SAVED
    step: int = Field(ge=1)
    model: str
    exploitability: dict[str, float]
    exploiters: dict[str, dict[str, _Result]]


class _Exploiter(BaseModel):
    """An exploiter that is frozen."""

    model_config = SAVED
    name: str
    step: int = Field(ge=1)
    model: str
    against: str
    won: bool
    results: dict[str, _Result]


class _Options(BaseModel):
    """`LeagueOptions`, whose own check has the bounds."""

    model_config = SAVED
    win_rate: float
    exploiter_steps: int
    exploiter_start: Literal["initial", "main"]
    share: float


class _League(BaseModel):
    """A whole league."""

    model_config = SAVED
    recipe: dict[str, Any]
    options: _Options
    games: list[str]
    main: list[_MainAgent]
    exploiters: list[_Exploiter]

    @model_validator(mode="after")
    def _take_turns(self) -> Self:
        if len(self.main) - len(self.exploiters) not in ((0, 1) if self.main else (0,)):
            raise ValueError(
                f"it has {len(self.exploiters)} exploiters and {len(self.main)} entries of the main agent; expected as"
                " many, or one exploiter less"
            )
        names = [one.name for one in self.exploiters]
        if names != [exploiter_name(at + 1) for at in range(len(names))]:
            raise ValueError(f"its exploiters are called {', '.join(names)}; expected {exploiter_name(1)} and so on")
        return self


def read_league(path: Path) -> dict[str, Any]:
    """The file of the league in a directory.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    saved = read_series(path / LEAGUE, ("recipe", "options", "games", "main", "exploiters"), "league")
    check_saved(path / LEAGUE, _League, saved)
    return saved


def league_runs(path: Path) -> list[Path]:
    """The runs of a league: that of the main agent, and those of its exploiters in order."""
    return [*runs_named(path, MAIN), *runs_named(path, f"{EXPLOITER}*")]


def exploiter_result(row: Mapping[str, Any], *, by_exploiter: bool) -> dict[str, float | None]:
    """What an exploiter won against the main agent, from a row of an evaluation.

    Args:
        row: An `ArenaResult` in its JSON form.
        by_exploiter: Whether the exploiter is the policy that was evaluated, or its opponent.

    Returns:
        Games played, the exploiter's share of them that it won (a draw as half of one), and its mean return in the
        game's units with the 95% interval, None where there is none.
    """
    wins, returns = ("win", "mean_return") if by_exploiter else ("loss", "opponent_return")
    return {
        "games": row["played"],
        "win_rate": row[wins] + row["draw"] / 2,
        "return": row[returns],
        "return_low": row[f"{returns}_low"],
        "return_high": row[f"{returns}_high"],
    }
