"""What a tournament leaves on disk.

    DIR/
      tournament.json   everything, with seed, versions, and the weights, prompt and sampling of every player
      payoffs.csv       one row for every ordered pair of players
      ratings.csv       one row a player
      heatmap.png       the payoffs as a picture
      episodes/         000_A_B.parquet: the games of each pair of players, one row a turn
      .lock             held by the process that plays, so that no other does at the same time

The same tournament gives the same files: no dates are in them.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import write_atomically
from spiral.core.records import Episode
from spiral.core.storage import write_episodes
from spiral.core.versions import versions
from spiral.evaluation.heatmap import draw_heatmap
from spiral.evaluation.results import alone_in
from spiral.evaluation.standings import Standings
from spiral.evaluation.tournament import Pairing

SCHEMA_VERSION = 1
PAIR_FIGURES = ("payoff", "payoff_low", "payoff_high", "score", "score_low", "score_high")
PAIR_COUNTS = ("games", "illegal", "not_played")
PAIR_FIELDS = (*PAIR_FIGURES, *PAIR_COUNTS)
PLAYER_FIELDS = tuple(figure + bound for figure in ("elo", "alpharank", "nash") for bound in ("", "_low", "_high"))


def short_names(players: Sequence[str]) -> tuple[str, ...]:
    """Names for tables and pictures: of paths only as many of the last parts as tell all of them apart."""
    parts = [Path(os.path.abspath(player)).parts if Path(player).exists() else (player,) for player in players]
    for kept in range(1, max(map(len, parts), default=1)):
        names = tuple("/".join(part[-kept:]) for part in parts)
        if len(set(names)) == len(players):
            return names
    return tuple(players)


def slug(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", text).strip("-")[:60]


@contextlib.contextmanager
def open_directory(directory: Path) -> Iterator[None]:
    """Makes the directory, removes the games of an earlier tournament in it, and keeps other processes out meanwhile.

    Raises `ValueError` where that is not possible, and for a run directory, whose episodes are its own.
    """
    if (directory / "checkpoints").is_dir() or (directory / "config.toml").is_file():
        raise ValueError(f"{directory} holds a run, which has episodes of its own; choose another --out")
    try:
        (directory / "episodes").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {directory}: {error.strerror}; choose another place with --out") from error
    with alone_in(directory):
        for file in (directory / "episodes").glob("[0-9][0-9][0-9]_*.parquet"):
            file.unlink()
        yield


def save_games(directory: Path, names: Sequence[str], number: int, pair: Pairing, episodes: Sequence[Episode]) -> None:
    """Writes the games of the pair that was played as the `number`-th."""
    name = f"{number:03d}_{slug(names[pair.row])}_{slug(names[pair.column])}.parquet"
    write_episodes(directory / "episodes" / name, episodes)


def save_standings(
    directory: Path, result: Standings, names: Sequence[str], models: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes everything but the games and returns what `--json` prints: the standings, `more`, and where the files are.

    `models` describes the players, for `tournament.json`.
    """
    files = {
        "tournament": directory / "tournament.json",
        "payoffs": directory / "payoffs.csv",
        "ratings": directory / "ratings.csv",
        "heatmap": directory / "heatmap.png",
        "episodes": directory / "episodes",
    }
    paths = {kind: str(file) for kind, file in files.items()}
    values = {**result.to_json(), "labels": list(names), **more, "files": paths}
    _write_rows(files["payoffs"], ("row", "column", *PAIR_FIELDS), _pair_rows(values))
    _write_rows(files["ratings"], ("player", *PLAYER_FIELDS), _player_rows(values))
    title = f"{result.game}: {result.episodes} games for each pair, seed {result.seed}"
    draw_heatmap(files["heatmap"], names, result.payoff, title)
    described = [models.get(player, {"name": player}) for player in result.players]
    whole = {"schema_version": SCHEMA_VERSION, "kind": "tournament", **values}
    text = json.dumps({**whole, "models": described, "versions": versions()}, indent=2, ensure_ascii=False)
    write_atomically(files["tournament"], lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
    return values


def _pair_rows(values: Mapping[str, Any]) -> list[list[Any]]:
    """Every player against every other."""
    players = values["players"]
    return [
        [players[row], players[column], *(values[field][row][column] for field in PAIR_FIELDS)]
        for row in range(len(players))
        for column in range(len(players))
        if row != column
    ]


def _player_rows(values: Mapping[str, Any]) -> list[list[Any]]:
    """Every player; cells are empty for what was left out."""
    return [
        [player, *((values.get(field) or [None] * len(values["players"]))[place] for field in PLAYER_FIELDS)]
        for place, player in enumerate(values["players"])
    ]


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    write_atomically(path, write)
