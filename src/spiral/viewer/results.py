"""What `spiral evaluate` and `spiral exploitability` found of a run's models, from its directory `results`.

Results of the same setup, that is the same games, seed, opponent and way of asking, can be compared over the steps of
the run, and so can those before and after its training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spiral.evaluation.results import RESULTS, read_result, trained_steps
from spiral.viewer.benchmarks import how_asked, json_lines
from spiral.viewer.run import ViewedRun, notice, stamp_of

KINDS = ("evaluate", "exploitability")
RATES = ("win", "draw", "loss")
OPPONENT_KEYS = ("name", "model", "weights_sha256")
"""What names an opponent; how it was asked is in the setup too."""


class Results:
    """The results of one run."""

    def __init__(self, run: ViewedRun) -> None:
        self._run = run
        self._kept: dict[Path, tuple[object, dict[str, Any] | str]] = {}

    def found(self) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """The results by kind, those of a setup after one another by step, and notices of what cannot be read."""
        rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        setups: dict[str, int] = {}
        notices = []
        for kind in KINDS:
            for directory in sorted((self._run.path / RESULTS).glob(f"{kind}-*")):
                values = self._result(directory / "result.json", kind)
                if isinstance(values, str):
                    notices.append(values)
                elif values is not None:
                    setup = setups.setdefault(_setup(kind, values["settings"]), len(setups))
                    step = trained_steps(self._run.path, values["settings"]["model"])
                    row = _games(values) if kind == "evaluate" else _exploitability(values)
                    rows[kind].append({"step": step, "setup": setup, "name": directory.name, **row})
        for found in rows.values():
            found.sort(key=lambda row: (row["setup"], -1 if row["step"] is None else row["step"]))
        return rows, notices

    def states(self, name: str) -> Iterator[dict[str, Any]]:
        """The information states behind an exploitability, as they were recorded."""
        file = self._run.path / RESULTS / name / "items.jsonl"
        return json_lines(file if file.is_file() and self._run.inside(file) else None)

    def _result(self, file: Path, kind: str) -> dict[str, Any] | str | None:
        """A result; the notice that it cannot be shown; None for one that is not finished yet."""
        stamp = stamp_of(file)
        if stamp is None:
            return None
        if file not in self._kept or self._kept[file][0] != stamp:
            self._kept[file] = (stamp, self._read(file, kind))
        return self._kept[file][1]

    def _read(self, file: Path, kind: str) -> dict[str, Any] | str:
        where = f"{RESULTS}/{file.parent.name}/{file.name}"
        if not self._run.inside(file):
            return notice(f"{where} is a link out of the run and is not read.")
        try:
            values = read_result(file)
            _setup(kind, values["settings"])
            _games(values) if kind == "evaluate" else _exploitability(values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return notice(f"{where} is damaged, or of another version, and left out.")
        return values


def estimate(result: Mapping[str, Any], name: str) -> dict[str, float | None] | None:
    """A number with its interval, whose bounds may be missing; None where there is no such number."""
    if result.get(name) is None:
        return None
    low, high = (result.get(f"{name}_{end}") for end in ("low", "high"))
    ends = {"low": None if low is None else float(low), "high": None if high is None else float(high)}
    return {"rate": float(result[name]), **ends}


def _setup(kind: str, settings: Mapping[str, Any]) -> str:
    """Everything that two results must have in common to be compared, but for the model."""
    other = settings.get("opponent")
    opponent = {**how_asked(other), **{key: other[key] for key in OPPONENT_KEYS if key in other}} if other else None
    rest = {key: value for key, value in settings.items() if key not in ("model", "opponent")}
    return json.dumps([kind, rest, how_asked(settings["model"]), opponent], sort_keys=True)


def _games(values: Mapping[str, Any]) -> dict[str, Any]:
    """Games against an opponent, or of a game of one player, where a win is an episode with the highest return."""
    settings, result = values["settings"], values["result"]
    alone = "opponent" not in settings
    rates = {"win": estimate(result, "best")} if alone else {name: estimate(result, name) for name in RATES}
    if rates["win"] is None:
        raise ValueError("there is no rate")
    return {
        "game": str(result["game"]),
        "opponent": None if alone else str(settings["opponent"]["name"]),
        **{name: rates.get(name) for name in RATES},
        "mean_return": estimate(result, "mean_return"),
        "illegal": result.get("illegal"),
        "episodes": int(result["played"]),
        "not_played": int(result["not_played"]),
        "seed": int(settings["seed"]),
    }


def _exploitability(values: Mapping[str, Any]) -> dict[str, Any]:
    """Exploitability, or where only some positions were sampled how often a move was optimal."""
    settings, result = values["settings"], values["result"]
    return {
        "game": str(result["game"]),
        "exploitability": estimate(result, "exploitability"),
        "nash_conv": result.get("nash_conv"),
        "optimal_share": estimate(result, "optimal_share"),
        "illegal": result.get("illegal_mass"),
        "method": str(result["method"]),
        "samples": result.get("samples"),
        "seed": int(settings["seed"]),
    }
