"""An experiment: a folder whose commands are run to its tables.

experiments/paper/T4/
  sweep.toml          the commands (`spiral.experiments.sweep`)
  table.py            from their results to tables
  README.md           what is claimed, and what the laptop version shows and does not
  results/laptop/     tables, figures, and state.json: every command with its status and seconds
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiral.core.files import write_text_atomically
from spiral.experiments.jobs import CheckCommand, Prepared, prepare
from spiral.experiments.sweep import Scale, Sweep, load_sweep, seeds_of
from spiral.experiments.tables import FILE as TABLE_FILE
from spiral.experiments.tables import Curves, Results, Table, load_tables, write_tables

STATE = "state.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A folder at one scale, with the jobs of its seeds."""

    folder: Path
    sweep: Sweep
    scale: Scale
    seeds: tuple[int, ...]
    jobs: tuple[Prepared, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def results(self) -> Path:
        """The directory for tables, figures and state."""
        return self.folder / "results" / self.scale

    def state(self, failures: Mapping[str, tuple[str, str]] | None = None) -> dict[str, Any]:
        """Every command with its status and seconds.

        Args:
            failures: Status and reason by key, for jobs that are not done.
        """
        rows = []
        for one in self.jobs:
            status, message = (failures or {}).get(one.key, (str(one.state().get("status", "waiting")), ""))
            row = {"job": one.job.label, "seed": one.job.seed, "status": "done" if one.done() else status}
            row |= {"seconds": one.state().get("seconds", 0.0), "command": one.command}
            rows.append(row | ({"message": message} if message and not one.done() else {}))
        return {"experiment": self.name, "scale": self.scale, "seeds": list(self.seeds), "jobs": rows}

    def save_state(self, failures: Mapping[str, tuple[str, str]] | None = None) -> None:
        """Writes `state.json`. Raises `ValueError` where the folder cannot be written."""
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self.results / STATE, json.dumps(self.state(failures), indent=1) + "\n")
        except OSError as error:
            raise ValueError(
                f"cannot write to {self.results}: {error.strerror}; copy {self.folder} elsewhere"
            ) from error

    def seconds_before(self) -> dict[tuple[str, int], float]:
        """Seconds of each job by label and seed, as kept in `state.json`; empty without one."""
        try:
            rows = json.loads((self.results / STATE).read_text(encoding="utf-8"))["jobs"]
            return {(row["job"], row["seed"]): float(row["seconds"]) for row in rows if row["status"] == "done"}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def make_tables(self) -> tuple[list[Table | Curves], list[Path]]:
        """Makes the tables of what is done, and writes their files."""
        found = load_tables(self.folder, Results(scale=self.scale, seeds=self.seeds, jobs=self.jobs))
        return found, write_tables(self.results, found)


def load_experiment(folder: Path, scale: Scale, seeds: int | None, root: Path, check: CheckCommand) -> Experiment:
    """An experiment, checked as far as possible without running anything.

    Args:
        folder: Its folder.
        scale: Which of its commands.
        seeds: The number of seeds; None takes the sweep's.
        root: The directory of all jobs.
        check: Checks a command line.

    Raises:
        ValueError: The sweep or one of its commands is wrong.
    """
    sweep = load_sweep(folder)
    if not (folder / TABLE_FILE).is_file():
        raise ValueError(f"{folder} has no {TABLE_FILE}, which makes the table; it defines tables(results)")
    chosen = seeds_of(seeds or sweep.seeds)
    jobs = prepare(folder, sweep, scale, chosen, root, check)
    return Experiment(folder=folder, sweep=sweep, scale=scale, seeds=chosen, jobs=tuple(jobs))
