"""What the evaluations of a run found: games, problems, exploitability, Kuhn's strategy, a tournament's payoffs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spiral.core.steps import numbered
from spiral.evaluation.results import RESULTS
from spiral.games import load_game
from spiral.runs.evaluation_results import EvaluationResults, read_evaluation, record_name
from spiral.theory import information_states, kuhn_equilibrium
from spiral.viewer.benchmarks import Benchmarks, ItemFilters, json_lines
from spiral.viewer.run import ViewedRun, notice, stamp_of

KUHN = "kuhn_poker"


class Evaluations:
    """The evaluations of one run."""

    def __init__(self, run: ViewedRun) -> None:
        self._run = run
        self._benchmarks = Benchmarks(run)
        self._kept: dict[Path, tuple[object, EvaluationResults | str]] = {}

    def summary(self) -> dict[str, Any]:
        """Every number of every evaluation, by step."""
        found, notices = self._results()
        benchmarked, damaged = self._benchmarks.found(found)
        payoffs, faults = self._payoffs()
        return {
            "steps": [step for step, _ in found],
            "games": [_games(step, result) for step, results in found for result in results.arena],
            "benchmarks": [one.row() for one in benchmarked],
            "exploitability": [
                {
                    "step": step,
                    "game": result["game"],
                    "exploitability": result.get("exploitability"),
                    "nash_conv": result.get("nash_conv"),
                }
                for step, results in found
                for result in results.exploitability
            ],
            "kuhn": [row for step, results in found for row in self._kuhn(step, results)],
            "payoffs": payoffs,
            "notices": [*notices, *damaged, *faults],
        }

    def items(self, filters: ItemFilters) -> dict[str, Any]:
        """A page of replies to problems, and the number of all."""
        found, notices = self._results()
        benchmarked, faults = self._benchmarks.found(found)
        return {**self._benchmarks.page(filters, benchmarked), "notices": [*notices, *faults]}

    def _results(self) -> tuple[list[tuple[int, EvaluationResults]], list[str]]:
        """The evaluations by step, and notices of those that cannot be read."""
        directory, found, notices = self._run.path / "evaluation", list[tuple[int, EvaluationResults]](), list[str]()
        for step, file in numbered(directory, ".json"):
            stamp = stamp_of(file)
            if file not in self._kept or self._kept[file][0] != stamp:
                self._kept[file] = (stamp, self._read(file))
            kept = self._kept[file][1]
            if isinstance(kept, str):
                notices.append(kept)
            else:
                found.append((step, kept))
        return found, notices

    def _read(self, file: Path) -> EvaluationResults | str:
        if not self._run.inside(file):
            return f"{file.name} is a link out of the run and is not read."
        try:
            return read_evaluation(file)
        except ValueError:
            return f"{file.name} is damaged and left out."

    def _lines(self, step: int, name: str) -> Iterator[dict[str, Any]]:
        directory = next((path for at, path in numbered(self._run.path / "evaluation") if at == step), None)
        file = directory / name if directory is not None else None
        return json_lines(file if file is not None and file.is_file() and self._run.inside(file) else None)

    def _kuhn(self, step: int, results: EvaluationResults) -> Iterator[dict[str, Any]]:
        """How often the policy bets or calls in every information state of Kuhn poker, beside all equilibria."""
        taken: set[str] = set()
        for result in results.arena:
            record_name(f"{result['game']}-against-{result['opponent']}", taken)
        for result in results.exploitability:
            name = record_name(f"{result['game']}-states", taken)
            if result["game"] != KUHN:
                continue
            for row in self._lines(step, f"{name}.jsonl"):
                probabilities = row.get("probabilities")
                key = (int(row.get("seat", -1)), str(row.get("information_state")))
                if isinstance(probabilities, dict) and key in _kuhn_family():
                    legal = sum(float(value) for value in probabilities.values())
                    chips = float(probabilities.get("bet", 0.0)) + float(probabilities.get("call", 0.0))
                    yield {
                        "step": step,
                        "player": key[0],
                        "information_state": key[1],
                        "bet_probability": chips / legal if legal else None,
                        "illegal": row.get("illegal"),
                        "equilibrium": list(_kuhn_family()[key]),
                    }

    def _payoffs(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The run's latest tournament."""
        root = self._run.path / RESULTS
        files = [file for file in root.glob("*/tournament.json") if self._run.inside(file)]
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True):
            try:
                return _tournament(json.loads(file.read_bytes())), []
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                return None, [notice(f"{file.parent.name}/{file.name} cannot be read: {type(error).__name__}.")]
        return None, []


@functools.cache
def _kuhn_family() -> Mapping[tuple[int, str], tuple[float, float]]:
    """The least and largest probability of putting a chip in over all equilibria, by player and information state."""
    family: dict[tuple[int, str], tuple[float, float]] = {}
    for state, player in information_states(load_game(KUHN)):
        ends = []
        for alpha in (0.0, 1 / 3):
            probabilities = kuhn_equilibrium(alpha)(state, player)
            ends.append(probabilities.get("bet", 0.0) + probabilities.get("call", 0.0))
        family[player, state.information_state(player)] = (min(ends), max(ends))
    return family


def _games(step: int, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": step,
        "game": result["game"],
        "opponent": result["opponent"],
        **{name: _rate(result, name) for name in ("win", "draw", "loss")},
        "episodes": result.get("episodes"),
        "illegal": result.get("illegal"),
    }


def _rate(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"rate": result.get(name), "low": result.get(f"{name}_low"), "high": result.get(f"{name}_high")}


def _tournament(values: Mapping[str, Any]) -> dict[str, Any]:
    players = [str(name) for name in values.get("labels") or values["players"]]
    ratings = [
        {"name": name, "rating": values["elo"][at], "low": values["elo_low"][at], "high": values["elo_high"][at]}
        for at, name in enumerate(players)
    ]
    return {
        "game": values.get("game"),
        "episodes": values.get("episodes"),
        "players": players,
        "matrix": [list(row) for row in values["payoff"]],
        "ratings": ratings,
    }
