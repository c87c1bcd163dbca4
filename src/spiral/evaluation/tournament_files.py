"""The files of a tournament.

    DIR/
      tournament.json   everything, with seed, versions, and the weights, prompt and sampling of every player
      payoffs.csv       one row per ordered pair of players
      ratings.csv       one row per player
      heatmap.png       the payoffs as a picture
      episodes/         000_A_B.parquet: the games of each pair of players, one row per turn
      .lock             held by the process that writes here

The same tournament gives the same files: they contain no dates.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spiral.core.files import write_atomically
from spiral.core.records import Episode
from spiral.core.storage import write_episodes
from spiral.core.versions import versions
from spiral.evaluation.results import lock_directory, plain_name
from spiral.evaluation.standings import Estimates, Standings
from spiral.evaluation.tournament import Pairing

SCHEMA_VERSION = 1
MAX_PLAYERS_WITH_INTERVALS = 8
"""Up to this number of players a cell of the heatmap has room for its interval."""
_BOUNDS = ("", "_low", "_high")
PAIR_COLUMNS = (*(name + bound for name in ("payoff", "score") for bound in _BOUNDS), "games", "illegal", "not_played")
PLAYER_COLUMNS = tuple(name + bound for name in ("elo", "alpharank", "nash") for bound in _BOUNDS)


def short_names(players: Sequence[str]) -> tuple[str, ...]:
    """Names for tables and pictures: paths are shortened to their last parts, as many as keep all names distinct."""
    parts = [Path(os.path.abspath(player)).parts if Path(player).exists() else (player,) for player in players]
    for kept in range(1, max(map(len, parts), default=1)):
        names = tuple("/".join(part[-kept:]) for part in parts)
        if len(set(names)) == len(players):
            return names
    return tuple(players)


@contextlib.contextmanager
def open_directory(directory: Path) -> Iterator[None]:
    """Makes the directory, removes the games of an earlier tournament, and locks it within a `with` block.

    Raises `ValueError` if that is not possible, and for a run directory, which has its own episodes.
    """
    if (directory / "checkpoints").is_dir() or (directory / "config.toml").is_file():
        raise ValueError(f"{directory} holds a run, which has its own episodes; choose another --out")
    try:
        (directory / "episodes").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to {directory}: {error.strerror}; choose another directory with --out"
        ) from error
    with lock_directory(directory):
        for file in (directory / "episodes").glob("[0-9][0-9][0-9]_*.parquet"):
            file.unlink()
        yield


def save_games(directory: Path, names: Sequence[str], number: int, pair: Pairing, episodes: Sequence[Episode]) -> None:
    """Writes the games of the pair that was played as number `number`."""
    name = "_".join([f"{number:03d}", *(plain_name(names[index])[:60] for index in (pair.row, pair.column))])
    write_episodes(directory / "episodes" / f"{name}.parquet", episodes)


def save_standings(
    directory: Path, result: Standings, names: Sequence[str], models: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes everything but the games; returns the JSON output: the standings, `more`, and the paths of the files.

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
    _write_rows(files["payoffs"], ("row", "column", *PAIR_COLUMNS), _pair_rows(values))
    _write_rows(files["ratings"], ("player", *PLAYER_COLUMNS), _player_rows(values))
    title = f"{result.game}: {result.episodes} games for each pair, seed {result.seed}"
    draw_heatmap(files["heatmap"], names, result.payoff, title)
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": "tournament",
        **values,
        "models": [models.get(player, {"name": player}) for player in result.players],
        "versions": versions(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_atomically(files["tournament"], lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
    return values


def _pair_rows(values: Mapping[str, Any]) -> list[list[Any]]:
    players = values["players"]
    return [
        [players[row], players[column], *(values[field][row][column] for field in PAIR_COLUMNS)]
        for row in range(len(players))
        for column in range(len(players))
        if row != column
    ]


def _player_rows(values: Mapping[str, Any]) -> list[list[Any]]:
    """One row per player; cells are empty for ratings that were left out."""
    return [
        [player, *((values.get(field) or [None] * len(values["players"]))[index] for field in PLAYER_COLUMNS)]
        for index, player in enumerate(values["players"])
    ]


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    write_atomically(path, write)


def draw_heatmap(path: Path, labels: Sequence[str], payoff: Estimates, title: str) -> None:
    """Writes the payoffs [N, N] to `path` as PNG: blue where the row player wins, red where it loses.

    A payoff whose interval contains 0 is grey; with more than `MAX_PLAYERS_WITH_INTERVALS` players the intervals are
    left out. Drawn without a display and without matplotlib's global state, so that it works anywhere.
    """
    count = len(labels)
    side = 1.2 + count * (1.15 if count <= MAX_PLAYERS_WITH_INTERVALS else 0.85)
    figure = Figure(figsize=(side + 2.6, side + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    largest = max(float(np.nanmax(np.abs(payoff.value), initial=0.0)), 1e-9)
    image = axes.imshow(payoff.value, cmap="RdBu", vmin=-largest, vmax=largest)
    figure.colorbar(image, ax=axes, shrink=0.8, label="mean return to the row player")
    axes.set_xticks(range(count), [_short(label) for label in labels], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), [_short(label) for label in labels])
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.set_title(title, fontsize="medium", wrap=True)
    for row in range(count):
        for column in range(count):
            if row != column:
                _print_cell(axes, row, column, payoff, largest, count <= MAX_PLAYERS_WITH_INTERVALS)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _print_cell(axes: Axes, row: int, column: int, payoff: Estimates, largest: float, interval: bool) -> None:
    value, low, high = (float(part[row, column]) for part in (payoff.value, payoff.low, payoff.high))
    if np.isnan(value):
        axes.text(column, row, "not\nplayed", ha="center", va="center", fontsize=8, color="dimgrey")
        return
    undecided = not (low > 0 or high < 0)
    colour = "white" if abs(value) > 0.6 * largest else "dimgrey" if undecided else "black"
    weight = "normal" if undecided else "bold"
    shift = 0.14 if interval and not np.isnan(low) else 0.0
    axes.text(column, row - shift, f"{value:+.2f}", ha="center", va="center", fontsize=11, color=colour, weight=weight)
    if shift:
        bounds = f"{low:+.2f} to {high:+.2f}"
        axes.text(column, row + 0.18, bounds, ha="center", va="center", fontsize=7, color=colour)


def _short(label: str, max_length: int = 28) -> str:
    """The end of a long name, which says more than its beginning."""
    return label if len(label) <= max_length else "..." + label[3 - max_length :]
