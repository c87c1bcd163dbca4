"""What the evaluations of a run found: games, problems, exploitability, Kuhn's strategy, a tournament's payoffs.

Problems are read from the records beside the results one line at a time, since replies may be long and many.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.steps import numbered
from spiral.evaluation.patterns.lexical import classify_by_cues
from spiral.evaluation.results import RESULTS
from spiral.games import load_game
from spiral.runs.evaluation_results import EvaluationResults, read_evaluation, record_name
from spiral.theory import information_states, kuhn_equilibrium
from spiral.viewer.episodes import MAX_PAGE, MAX_TEXT, FilterError
from spiral.viewer.run import ViewedRun, notice, stamp_of

KUHN = "kuhn_poker"
MAX_REPLY = 2_000_000
"""Characters of a reply that a page of items holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemFilters:
    """Which replies to problems a page shows; None leaves a filter out."""

    task: str | None = None
    step: int | None = None
    """By default the last step that has the task."""
    correct: bool | None = None
    before_after: bool = False
    """Whether each reply comes with the reply to the same problem in the first evaluation, and only such as changed."""
    q: str | None = None
    offset: int = 0
    limit: int = 50

    def check(self) -> None:
        """Raises `FilterError` for a page that there cannot be."""
        if self.offset < 0 or not 1 <= self.limit <= MAX_PAGE or len(self.q or "") > MAX_TEXT:
            raise FilterError(
                f"got offset {self.offset}, limit {self.limit} and a text of {len(self.q or '')} characters; expected"
                f" an offset from 0, a limit from 1 to {MAX_PAGE} and at most {MAX_TEXT} characters"
            )


class Evaluations:
    """The evaluations of one run."""

    def __init__(self, run: ViewedRun) -> None:
        self._run = run
        self._kept: dict[Path, tuple[object, EvaluationResults | str]] = {}

    def summary(self) -> dict[str, Any]:
        """Every number of every evaluation, by step."""
        found, notices = self._results()
        payoffs, faults = self._payoffs()
        return {
            "steps": [step for step, _ in found],
            "games": [_games(step, result) for step, results in found for result in results.arena],
            "benchmarks": [
                {"step": step, "task": result["task"], "accuracy": _rate(result, "accuracy"), "items": result["items"]}
                for step, results in found
                for result in results.benchmarks
            ],
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
            "notices": [*notices, *faults],
        }

    def items(self, filters: ItemFilters) -> dict[str, Any]:
        """A page of replies to problems, and the number of all."""
        filters.check()
        found, notices = self._results()
        steps: dict[str, list[int]] = {}
        for step, results in found:
            for result in results.benchmarks:
                steps.setdefault(str(result["task"]), []).append(step)
        tasks = [filters.task] if filters.task is not None else list(steps)
        rows, total = list[dict[str, Any]](), 0
        earlier: dict[tuple[str, int], set[tuple[Any, Any]]] = {}
        for task in tasks:
            known = steps.get(task, [])
            last = filters.step if filters.step is not None else max(known, default=None)
            if last is None or last not in known:
                continue
            first = min(known)
            before = self._grades(first, task, found) if filters.before_after and first != last else {}
            for item in self._records(last, task, found):
                changed = before.get(_key(item))
                if filters.before_after and (changed is None or changed == item.get("correct")):
                    continue
                if not _wanted(item, filters):
                    continue
                if filters.offset <= total < filters.offset + filters.limit:
                    rows.append(_item(task, last, item))
                    if filters.before_after:
                        earlier.setdefault((task, first), set()).add(_key(item))
                total += 1
        self._add_earlier(rows, earlier, found)
        choices = {"task": list(steps), "step": sorted({step for known in steps.values() for step in known})}
        return {"total": total, "rows": rows, "choices": choices, "notices": notices}

    def _add_earlier(
        self,
        rows: Sequence[dict[str, Any]],
        earlier: Mapping[tuple[str, int], set[tuple[Any, Any]]],
        found: Sequence[tuple[int, EvaluationResults]],
    ) -> None:
        """Puts the replies of the first evaluation beside those of a page."""
        by_key = {(row["task"], row["item"], row["sample"]): row for row in rows}
        for (task, step), keys in earlier.items():
            for item in self._records(step, task, found):
                if _key(item) in keys:
                    by_key[task, *_key(item)]["before"] = _item(task, step, item)

    def _grades(
        self, step: int, task: str, found: Sequence[tuple[int, EvaluationResults]]
    ) -> dict[tuple[Any, Any], Any]:
        return {_key(item): item.get("correct") for item in self._records(step, task, found)}

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

    def _records(
        self, step: int, task: str, found: Sequence[tuple[int, EvaluationResults]]
    ) -> Iterator[dict[str, Any]]:
        """The replies to a task after a step, as they were recorded; none where the file is gone."""
        results = next((results for at, results in found if at == step), None)
        taken: set[str] = set()
        for result in results.benchmarks if results is not None else ():
            name = record_name(str(result["task"]), taken)
            if result["task"] == task:
                yield from self._lines(step, f"{name}.jsonl")

    def _lines(self, step: int, name: str) -> Iterator[dict[str, Any]]:
        directory = next((path for at, path in numbered(self._run.path / "evaluation") if at == step), None)
        file = directory / name if directory is not None else None
        if file is None or not file.is_file() or not self._run.inside(file):
            return
        with file.open("rb") as lines:
            for line in lines:
                try:
                    item = json.loads(line)
                except ValueError:
                    continue
                if isinstance(item, dict):
                    yield item

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


def _key(item: Mapping[str, Any]) -> tuple[Any, Any]:
    return item.get("id"), item.get("sample")


def _wanted(item: Mapping[str, Any], filters: ItemFilters) -> bool:
    if filters.correct is not None and bool(item.get("correct")) != filters.correct:
        return False
    if not filters.q:
        return True
    wanted = filters.q.lower()
    return any(wanted in str(item.get(name, "")).lower() for name in ("prompt", "reply", "id"))


def _item(task: str, step: int, item: Mapping[str, Any]) -> dict[str, Any]:
    reply = str(item.get("reply", ""))
    return {
        "task": task,
        "item": item.get("id"),
        "sample": item.get("sample"),
        "step": step,
        "prompt": item.get("prompt"),
        "reply": reply[:MAX_REPLY],
        "gold": item.get("answer"),
        "extracted": item.get("extracted"),
        "correct": item.get("correct"),
        "truncated": item.get("truncated"),
        "tokens": item.get("tokens"),
        "before": None,
        "patterns": sorted(classify_by_cues(reply[:MAX_REPLY])),
    }
