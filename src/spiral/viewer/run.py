"""A run as its files tell it: name, status, settings, metrics, and what is wrong with them.

Nothing here writes. Files may grow, be replaced or disappear between two questions: each answer is made from what is
there, and what cannot be read is left out with a notice.
"""

from __future__ import annotations

import dataclasses
import threading
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spiral.core.metrics import Matchup
from spiral.core.settings import names_in, shortened
from spiral.core.steps import models_of_run
from spiral.evaluation.results import RESULTS
from spiral.rollout.opponents.base import MIRROR
from spiral.runs.directory import read_metrics
from spiral.runs.guard_record import GUARDS_FILE, read_guard_record
from spiral.runs.guard_states import guard_states, undone_steps
from spiral.runs.health import health
from spiral.runs.lock import run_owner
from spiral.viewer.meanings import meanings

MAX_NOTICE = 400


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsTable:
    """The metrics of a run by column; None where a step lacks a metric."""

    steps: tuple[int, ...] = ()
    columns: Mapping[str, tuple[float | None, ...]] = dataclasses.field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()
    notices: tuple[str, ...] = ()


class ViewedRun:
    """The files of one run."""

    def __init__(self, number: int, path: Path, population: Path | None = None) -> None:
        """`population` is the directory of the population that the run is a response of, if that is shown too."""
        self.id = str(number)
        self.population = population
        self.path = path
        self.root = path.resolve()
        self.name = self.root.name
        self._guard = threading.Lock()
        self._metrics: tuple[object, MetricsTable] = (None, MetricsTable())

    def inside(self, path: Path) -> bool:
        """Whether a path, links followed, is within the run's directory."""
        try:
            return path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # a link to itself
            return False

    def recipe(self) -> tuple[dict[str, Any], list[str]]:
        """The sections of `config.toml`, and notices; {} without the file."""
        file = self.path / "config.toml"
        if not file.exists():
            return {}, ["config.toml is missing, so settings, games and the number of steps are not known."]
        if not self.inside(file):
            return {}, ["config.toml is a link out of the run and is not read."]
        try:
            return tomllib.loads(file.read_text(encoding="utf-8-sig")), []
        except (OSError, ValueError, RecursionError) as error:
            return {}, [notice(f"config.toml cannot be read: {error}.")]

    def settings(self) -> dict[str, Any]:
        """Every setting by its name, such as "learner.epochs"."""
        return dict(_flat(self.recipe()[0]))

    def summary(self) -> dict[str, Any]:
        """What the list of runs shows."""
        recipe, notices = self.recipe()
        metrics = self.metrics()
        run, model, selfplay = (_table(recipe, name) for name in ("run", "model", "selfplay"))
        steps = run.get("steps")
        step = metrics.steps[-1] if metrics.steps else 0
        return {
            "id": self.id,
            "name": self.name,
            "path": str(self.path),
            "recipe": str(recipe.get("summary", "")),
            "model": str(model.get("path", "")),
            "status": self._status(step, steps),
            "step": step,
            "steps": steps if isinstance(steps, int) else None,
            "games": names_in(selfplay.get("games")),
            "notices": [*notices, *metrics.notices, *self._checkpoint_notices(metrics)],
        }

    def metrics(self) -> MetricsTable:
        """All metrics, read again when the file has changed."""
        file = self.path / "metrics.jsonl"
        with self._guard:
            stamp = stamp_of(file)
            if stamp is None:
                notices = () if self.path.is_dir() else (f"{self.path} is no longer there.",)
                return MetricsTable(notices=notices)
            if self._metrics[0] != stamp:
                self._metrics = (stamp, self._read_metrics(file))
            return self._metrics[1]

    def _read_metrics(self, file: Path) -> MetricsTable:
        if not self.inside(file):
            return MetricsTable(notices=("metrics.jsonl is a link out of the run and is not read.",))
        try:
            rows = sorted(read_metrics(self.path), key=lambda row: int(row["step"]))
            lines = sum(bool(line.strip()) for line in file.read_bytes().split(b"\n")[:-1])
        except (OSError, ValueError) as error:
            return MetricsTable(notices=(notice(f"metrics.jsonl cannot be read: {error}."),))
        damaged = lines - len(rows)
        lost = (
            f"{damaged} damaged line of metrics.jsonl is"
            if damaged == 1
            else f"{damaged} damaged lines of metrics.jsonl are"
        )
        notices = () if damaged <= 0 else (f"{lost} left out.",)
        names = dict.fromkeys(name for row in rows for name in row if name != "step")
        columns = {name: tuple(_number(row.get(name)) for row in rows) for name in names}
        return MetricsTable(
            steps=tuple(int(row["step"]) for row in rows), columns=columns, rows=tuple(rows), notices=notices
        )

    def metrics_since(self, since: int) -> dict[str, Any]:
        """The metrics of the steps after `since`, by column."""
        table = self.metrics()
        first = next((index for index, step in enumerate(table.steps) if step > since), len(table.steps))
        return {
            "steps": list(table.steps[first:]),
            "metrics": {name: list(values[first:]) for name, values in table.columns.items()},
            "descriptions": meanings(table.columns),
            "notices": list(table.notices),
        }

    def results(self) -> int:
        """The number of files with results: of the run's evaluations, and of commands that evaluated its models."""
        own = sum(1 for _ in (self.path / "evaluation").glob("step-*.json"))
        return own + sum(1 for _ in (self.path / RESULTS).glob("*/*.json"))

    def health(self) -> list[dict[str, Any]]:
        """The health lights after the last step."""
        selfplay = _table(self.recipe()[0], "selfplay")
        others = [name for name in names_in(selfplay.get("opponents")) if name != MIRROR]
        trained = [
            Matchup(game=game, opponent=opponent)
            for game in names_in(selfplay.get("games"))
            for opponent in ("", *others)
        ]
        return [light.to_json() for light in health(self.metrics().rows, trained)]

    def guards(self) -> list[dict[str, Any]]:
        """The guards after the last step, with what they found and what was done."""
        own = self.inside(self.path / GUARDS_FILE) and self.inside(self.path / "checkpoints")
        record, undone = (read_guard_record(self.path), undone_steps(self.path)) if own else ([], [])
        return [guard.to_json() for guard in guard_states(self.metrics().rows, self.recipe()[0], record, undone)]

    def _status(self, step: int, steps: object) -> str:
        readable = self.path.is_dir() and any(
            (self.path / name).exists() for name in ("config.toml", "metrics.jsonl", "episodes", "checkpoints")
        )
        if not readable:
            return "unreadable"
        if run_owner(self.path) is not None:
            return "training"
        return "finished" if isinstance(steps, int) and step >= steps else "stopped"

    def _checkpoint_notices(self, metrics: MetricsTable) -> list[str]:
        """Says so where a run has metrics of many steps and no model is left of them."""
        if not metrics.steps or models_of_run(self.path) or run_owner(self.path) is not None:
            return []
        return ["No checkpoint or snapshot is left, so nothing can be played and tokens may have no text."]


def notice(text: str) -> str:
    """A notice of bounded length, on one line."""
    return shortened(" ".join(text.split()), MAX_NOTICE)


def stamp_of(file: Path) -> object | None:
    """What changes when a file does; None without the file."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def differing_settings(runs: Iterable[ViewedRun]) -> list[dict[str, Any]]:
    """The settings in which runs differ, each with its value in every run; None where a run lacks it."""
    settings = {run.id: run.settings() for run in runs}
    names = dict.fromkeys(name for values in settings.values() for name in values)
    rows = [{"key": name, "values": {run: values.get(name) for run, values in settings.items()}} for name in names]
    return [row for row in rows if len({repr(values.get(str(row["key"]))) for values in settings.values()}) > 1]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, int | float | str | list | dict) else str(value)


def _table(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = recipe.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
