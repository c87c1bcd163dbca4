"""What evaluations found of a run, its own and those of commands: games, problems, exploitability, Kuhn's strategy."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.steps import numbered
from spiral.games import load_game
from spiral.runs.evaluation_results import EvaluationResults, read_evaluation, record_name
from spiral.theory import information_states, kuhn_equilibrium
from spiral.viewer.benchmarks import Benchmarks, ItemFilters, json_lines
from spiral.viewer.payoffs import Payoffs
from spiral.viewer.results import Results, estimate
from spiral.viewer.run import ViewedRun, stamp_of

KUHN = "kuhn_poker"


class Evaluations:
    """The evaluations of one run."""

    def __init__(self, run: ViewedRun) -> None:
        self._run = run
        self._benchmarks = Benchmarks(run)
        self._others = Results(run)
        self._payoffs = Payoffs(run)
        self._kept: dict[Path, tuple[object, EvaluationResults | str]] = {}

    def summary(self) -> dict[str, Any]:
        """Every number of every evaluation, by step."""
        found, notices = self._results()
        benchmarked, damaged = self._benchmarks.found(found)
        others, unread = self._others.found()
        payoffs, faults = self._payoffs.found()
        return {
            "steps": [step for step, _ in found],
            "games": [_games(step, result) for step, results in found for result in results.arena],
            "benchmarks": [one.row() for one in benchmarked],
            "exploitability": [
                {
                    "step": step,
                    "game": result["game"],
                    "exploitability": estimate(result, "exploitability"),
                    "nash_conv": result.get("nash_conv"),
                }
                for step, results in found
                for result in results.exploitability
            ],
            "results": {"games": others["evaluate"], "exploitability": others["exploitability"]},
            "kuhn": self._strategies(found, others["exploitability"]),
            "payoffs": payoffs,
            "notices": [*notices, *damaged, *unread, *faults],
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

    def _strategies(
        self, found: Sequence[tuple[int, EvaluationResults]], others: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The strategy in Kuhn poker by step, from the run's own evaluations or else from what commands found."""
        rows = [row for step, results in found for row in self._kuhn(step, results)]
        known = {row["step"] for row in rows}
        for result in others:
            if result["game"] == KUHN and result["step"] is not None and result["step"] not in known:
                known.add(result["step"])
                rows += _kuhn_rows(result["step"], self._others.states(result["name"]))
        return sorted(rows, key=lambda row: int(row["step"]))

    def _kuhn(self, step: int, results: EvaluationResults) -> Iterator[dict[str, Any]]:
        """That of one of the run's own evaluations."""
        taken: set[str] = set()
        for result in results.arena:
            record_name(f"{result['game']}-against-{result['opponent']}", taken)
        for result in results.exploitability:
            name = record_name(f"{result['game']}-states", taken)
            if result["game"] == KUHN:
                yield from _kuhn_rows(step, self._lines(step, f"{name}.jsonl"))


def _kuhn_rows(step: int, states: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """How often a policy bets or calls in every information state of Kuhn poker, beside all equilibria."""
    for row in states:
        try:
            key = (int(row["seat"]), str(row["information_state"]))
            probabilities = {str(action): float(value) for action, value in row["probabilities"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
        if key not in _kuhn_family():
            continue
        legal = sum(probabilities.values())
        chips = probabilities.get("bet", 0.0) + probabilities.get("call", 0.0)
        yield {
            "step": step,
            "player": key[0],
            "information_state": key[1],
            "bet_probability": chips / legal if legal else None,
            "illegal": row.get("illegal"),
            "equilibrium": list(_kuhn_family()[key]),
        }


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
        **{name: estimate(result, name) for name in ("win", "draw", "loss")},
        "episodes": result.get("episodes"),
        "illegal": result.get("illegal"),
    }
