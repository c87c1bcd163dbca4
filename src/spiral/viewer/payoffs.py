"""Who beat whom, as tables of payoffs: tournaments, the past selves of a run, and the population that it belongs to.

A table has rows and columns of players, and in each cell the mean return of the row's player, the number of its games,
and None where there were none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import read_json
from spiral.core.steps import latest_checkpoint
from spiral.evaluation.results import RESULTS
from spiral.rollout.opponents.results import NOW
from spiral.runs.past_selves import PastSelfStandings, past_self_standings
from spiral.runs.population import POPULATION, read_population
from spiral.training.checkpoint import STATE
from spiral.viewer.run import ViewedRun, notice, stamp_of

MAX_PLAYERS = 24
"""Players of a table: of a tournament the first, of past selves and populations the newest."""
MAX_TABLES = 20
"""Tournaments that are read, the newest."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)


class Payoffs:
    """The tables of one run."""

    def __init__(self, run: ViewedRun) -> None:
        self._run = run
        self._kept: dict[Path, tuple[object, list[dict[str, Any]], list[str]]] = {}

    def found(self) -> tuple[list[dict[str, Any]], list[str]]:
        """All tables, and notices of what cannot be read."""
        tables, notices = list[dict[str, Any]](), list[str]()
        for found, faults in (self._past_selves(), self._population(), self._tournaments()):
            tables += found
            notices += faults
        return tables, notices

    def _past_selves(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Those of the last checkpoint."""
        try:
            checkpoint = latest_checkpoint(self._run.path / "checkpoints")
        except ValueError as error:
            return [], [notice(f"{error}.")]
        if checkpoint is None:
            return [], []
        return self._read(checkpoint / STATE, "checkpoints", lambda _file: past_self_tables(self._run.path))

    def _population(self) -> tuple[list[dict[str, Any]], list[str]]:
        """That which the run was trained for, where it is shown too."""
        directory = self._run.population
        if directory is None:
            return [], []
        return self._read(
            directory / POPULATION, directory.name, lambda _file: [population_table(read_population(directory))]
        )

    def _tournaments(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The latest of each game, the newest first."""
        files = sorted((self._run.path / RESULTS).glob("*/tournament.json"), key=_written, reverse=True)
        tables: dict[str, dict[str, Any]] = {}
        notices: list[str] = []
        for file in files[:MAX_TABLES]:
            found, faults = self._read(file, f"{RESULTS}/{file.parent.name}", _tournament)
            notices += faults
            for table in found:
                tables.setdefault(table["game"], table)
        return [*tables.values()], notices

    def _read(
        self, file: Path, where: str, read: Callable[[Path], list[dict[str, Any]]]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """The tables of a file, read again when it has changed."""
        stamp = stamp_of(file)
        if stamp is None:
            return [], []
        kept = self._kept.get(file)
        if kept is None or kept[0] != stamp:
            self._kept = {name: value for name, value in self._kept.items() if stamp_of(name) is not None}
            kept = self._kept[file] = (stamp, *self._read_now(file, where, read))
        return kept[1], kept[2]

    def _read_now(
        self, file: Path, where: str, read: Callable[[Path], list[dict[str, Any]]]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        own = self._run.inside(file) or file.parent == self._run.population
        if not own:
            return [], [notice(f"{where}/{file.name} is a link out of the run and is not read.")]
        try:
            return read(file), []
        except UNREADABLE as error:
            return [], [notice(f"{where}/{file.name} cannot be read: {type(error).__name__}.")]


def past_self_tables(run: Path) -> list[dict[str, Any]]:
    """The table of each game of a run against its past selves. Raises `ValueError` where its checkpoint is damaged."""
    return [_past_selves(standings) for standings in past_self_standings(run)]


def _past_selves(standings: PastSelfStandings) -> dict[str, Any]:
    """Rows are the policy on its way to each step and the current policy, columns its past selves."""
    steps = [str(past.step) for past in standings.past_selves]
    shown = steps[-MAX_PLAYERS:]
    rows = [*shown, NOW]
    cells = {(str(cell["row"]), str(cell["column"])): cell for cell in standings.payoffs}
    games = [[int(cells[row, column]["games"]) if (row, column) in cells else 0 for column in shown] for row in rows]
    matrix = [
        [
            float(cells[row, column]["payoff"]) / count if (count := games[at][place]) else None
            for place, column in enumerate(shown)
        ]
        for at, row in enumerate(rows)
    ]
    ratings = [
        {
            "name": f"step {past.step}",
            "rating": past.elo,
            "games": past.games,
            "win_rate": past.win_rate,
            "plays": past.plays,
        }
        for past in standings.past_selves
        if str(past.step) in shown
    ]
    now = {"name": NOW, "rating": standings.elo, "games": None, "win_rate": None, "plays": None}
    return {
        "kind": "past selves",
        "game": standings.game,
        "step": standings.step,
        "players": [*(f"step {step}" for step in shown), NOW],
        "columns": [f"step {step}" for step in shown],
        "matrix": matrix,
        "games": games,
        "ratings": [*ratings, now],
        "left_out": len(steps) - len(shown),
    }


def population_table(values: Mapping[str, Any]) -> dict[str, Any]:
    """The policies of a population with exact payoffs, their shares, and the exploitability of each mixture."""
    iterations = [(int(one["iteration"]), float(one["exploitability"])) for one in values["iterations"]]
    last = values["iterations"][-1]
    names = [str(name) for name in last["shares"]]
    count = len(names)
    first = max(0, count - MAX_PLAYERS)
    matrix = _matrix(last["payoffs"], count)
    return {
        "kind": "population",
        "game": str(values["game"]),
        "solver": str(values["solver"]),
        "players": names[first:],
        "columns": names[first:],
        "matrix": [row[first:] for row in matrix[first:]],
        "games": None,
        "ratings": [],
        "shares": [{"name": name, "share": float(last["shares"][name])} for name in names],
        "exploitability": [{"responses": number, "value": value} for number, value in iterations],
        "left_out": first,
    }


def _tournament(file: Path) -> list[dict[str, Any]]:
    values = read_json(file.read_bytes())
    names = [str(name) for name in values.get("labels") or values["players"]]
    count = len(names)
    matrix, bounds = _matrix(values["payoff"], count), {}
    for end in ("low", "high"):
        given = values.get(f"payoff_{end}")
        bounds[end] = [row[:MAX_PLAYERS] for row in _matrix(given, count)[:MAX_PLAYERS]] if given else None
    games = values.get("games")
    ratings = [
        {"name": name, **{key: _item(values[f"elo{end}"], at) for key, end in _RATING}}
        for at, name in enumerate(names)
        if values.get("elo") is not None
    ]
    return [
        {
            "kind": "tournament",
            "game": str(values.get("game")),
            "episodes": values.get("episodes"),
            "seed": values.get("seed"),
            "players": names[:MAX_PLAYERS],
            "columns": names[:MAX_PLAYERS],
            "matrix": [row[:MAX_PLAYERS] for row in matrix[:MAX_PLAYERS]],
            **bounds,
            "games": None if games is None else [row[:MAX_PLAYERS] for row in _matrix(games, count)[:MAX_PLAYERS]],
            "ratings": ratings[:MAX_PLAYERS],
            "left_out": max(0, count - MAX_PLAYERS),
        }
    ]


_RATING = (("rating", ""), ("low", "_low"), ("high", "_high"))


def _written(file: Path) -> int:
    """When a file was written; 0 for one that is gone."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _item(values: Sequence[Any] | None, at: int) -> float | None:
    return None if values is None or values[at] is None else float(values[at])


def _matrix(rows: Sequence[Sequence[Any]], count: int) -> list[list[float | None]]:
    """A square matrix of numbers. Raises `ValueError` for another shape."""
    if len(rows) != count or any(len(row) != count for row in rows):
        raise ValueError(f"expected {count} rows and columns")
    return [[None if value is None else float(value) for value in row] for row in rows]
