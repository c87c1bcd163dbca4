"""The file of a league that `spiral league` trains: its main agent after every round, and its exploiters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiral.runs.series import read_series, runs_named

LEAGUE = "league.json"
MAIN = "main"
"""The main agent: its run, and its name as the opponent of an exploiter."""
EXPLOITER = "exploiter-"
"""What the names of all exploiters begin with."""


def read_league(path: Path) -> dict[str, Any]:
    """The file of the league in a directory.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    return read_series(path / LEAGUE, ("recipe", "options", "games", "main", "exploiters"), "league")


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
