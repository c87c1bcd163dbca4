"""The replies to reasoning problems: of the benchmarks in a run's own evaluations, and of `spiral benchmark RUN`.

The first lie beside the run's evaluations, the second in its directory `results`. Replies may be long and many, so they
are read one line at a time and never kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from spiral.core.steps import numbered
from spiral.evaluation.patterns.lexical import classify_by_cues
from spiral.evaluation.results import RESULTS, read_result, trained_steps
from spiral.runs.evaluation_results import EvaluationResults, record_name
from spiral.viewer.episodes import MAX_PAGE, MAX_TEXT, FilterError
from spiral.viewer.run import ViewedRun, notice, stamp_of

MAX_REPLY = 2_000_000
"""Characters of a reply that a page of items holds."""
MAX_LABELLED = 100_000
"""Characters of a reply that are looked through for patterns: a tenth of a second."""
UNKNOWN = -1
"""In filters, the step of a result whose step is not known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemFilters:
    """Which replies to problems a page shows; None leaves a filter out."""

    task: str | None = None
    """What `Benchmarked.name` says."""
    step: int | None = None
    """By default the last step that has the task; `UNKNOWN` for results whose step is not known."""
    correct: bool | None = None
    change: Literal["changed", "learned", "lost"] | None = None
    """Against the same problem after the first step that has the task: another grade, now right, or now wrong."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmarked:
    """A task that a model of the run was asked."""

    name: str
    """The task; of `spiral benchmark` also how it was asked, so that only what is comparable has the same name."""
    step: int | None
    """After how many steps; None where that is not known."""
    result: Mapping[str, Any]
    records: Path | None
    """The replies, one JSON object a line."""

    @property
    def place(self) -> int:
        """Its place among the steps."""
        return UNKNOWN if self.step is None else self.step

    def row(self) -> dict[str, Any]:
        """What the page draws of it."""
        return {
            "step": self.step,
            "task": self.name,
            "accuracy": {
                "rate": self.result.get("accuracy"),
                "low": self.result.get("accuracy_low"),
                "high": self.result.get("accuracy_high"),
            },
            "items": self.result.get("items"),
        }

    def replies(self) -> Iterator[dict[str, Any]]:
        """The replies as they were recorded; none where the file is gone."""
        return json_lines(self.records)


class Benchmarks:
    """The benchmarks of one run."""

    def __init__(self, run: ViewedRun) -> None:
        self._run = run
        self._kept: dict[Path, tuple[object, dict[str, Any] | str]] = {}

    def found(self, evaluations: Sequence[tuple[int, EvaluationResults]]) -> tuple[list[Benchmarked], list[str]]:
        """All benchmarks, by name and step, and notices of what cannot be read.

        Args:
            evaluations: The run's own by step, as `evaluations.Evaluations` reads them.
        """
        own, (others, notices) = self._own(evaluations), self._others()
        ordered = sorted(others, key=lambda one: one.place)
        return [*own, *ordered], notices

    def page(self, filters: ItemFilters, found: Sequence[Benchmarked]) -> dict[str, Any]:
        """A page of replies with the earlier reply to the same problem, and the number of all."""
        filters.check()
        by_name: dict[str, list[Benchmarked]] = {}
        for one in found:
            by_name.setdefault(one.name, []).append(one)
        rows, total = list[dict[str, Any]](), 0
        for name in by_name if filters.task is None else [filters.task]:
            known = by_name.get(name, [])
            last = _last(known, filters.step)
            if last is None:
                continue
            first = min(known, key=lambda one: one.place)
            before = {} if first is last else {_key(item): bool(item.get("correct")) for item in first.replies()}
            shown: dict[tuple[Any, Any], dict[str, Any]] = {}
            for item in last.replies():
                if not _wanted(item, before.get(_key(item)), filters):
                    continue
                if filters.offset <= total < filters.offset + filters.limit:
                    rows.append(_item(last, item))
                    shown[_key(item)] = rows[-1]
                total += 1
            for item in first.replies() if before and shown else ():
                if _key(item) in shown:
                    shown[_key(item)]["before"] = _item(first, item)
        choices = {"task": list(by_name), "step": sorted({one.place for one in found})}
        return {"total": total, "rows": rows, "choices": choices}

    def _own(self, evaluations: Sequence[tuple[int, EvaluationResults]]) -> list[Benchmarked]:
        """Those in the run's own evaluations."""
        directories = dict(numbered(self._run.path / "evaluation"))
        found = []
        for step, results in evaluations:
            taken: set[str] = set()
            for result in results.benchmarks:
                file = record_name(str(result["task"]), taken) + ".jsonl"
                records = directories[step] / file if step in directories else None
                found.append(
                    Benchmarked(name=str(result["task"]), step=step, result=result, records=self._inside(records))
                )
        return found

    def _others(self) -> tuple[list[Benchmarked], list[str]]:
        """Those of `spiral benchmark`, and notices; of several with the same name and step the latest."""
        latest: dict[tuple[str, int], tuple[str, Benchmarked]] = {}
        setups: dict[str, list[str]] = {}
        notices = []
        for directory in sorted((self._run.path / RESULTS).glob("benchmark-*")):
            values = self._result(directory)
            if isinstance(values, str):
                notices.append(values)
                continue
            result, settings = values["result"], values["settings"]
            samples = "1 sample" if result["samples"] == 1 else f"{result['samples']} samples"
            name = f"{result['task']}: {result['items']} problems, {samples}"
            setup = json.dumps({**settings, "model": how_asked(settings["model"])}, sort_keys=True)
            alike = setups.setdefault(name, [])
            if setup not in alike:
                alike.append(setup)
            name += f", setting {alike.index(setup) + 1}" * (alike.index(setup) > 0)
            step = trained_steps(self._run.path, settings["model"])
            one = Benchmarked(name=name, step=step, result=result, records=self._inside(directory / "items.jsonl"))
            date = str(values.get("date", ""))
            if date >= latest.get((name, one.place), ("", one))[0]:
                latest[name, one.place] = (date, one)
        return [one for _, one in latest.values()], notices

    def _result(self, directory: Path) -> dict[str, Any] | str:
        """A result with its settings, or the notice that it cannot be shown."""
        file = directory / "result.json"
        stamp = stamp_of(file)
        if stamp is None:
            replies = sum(1 for _ in json_lines(self._inside(directory / "items.jsonl")))
            return notice(
                f"{RESULTS}/{directory.name} has {replies} replies and no result yet; it is shown once"
                " `spiral benchmark` has finished."
            )
        if file not in self._kept or self._kept[file][0] != stamp:
            self._kept[file] = (stamp, self._read(file))
        return self._kept[file][1]

    def _read(self, file: Path) -> dict[str, Any] | str:
        where = f"{RESULTS}/{file.parent.name}/{file.name}"
        if self._inside(file) is None:
            return notice(f"{where} is a link out of the run and is not read.")
        try:
            values = read_result(file)
            result, settings = values["result"], values["settings"]
            for key in ("accuracy", "accuracy_low", "accuracy_high"):
                float(result[key])
            _ = int(result["items"]), int(result["samples"]), str(result["task"]), dict(settings["model"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return notice(f"{where} is damaged, or of another version, and left out.")
        return values

    def _inside(self, file: Path | None) -> Path | None:
        """A file of the run; None for one that is gone or linked out of it."""
        return file if file is not None and file.is_file() and self._run.inside(file) else None


def json_lines(file: Path | None) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line; what is no object is left out."""
    if file is None:
        return
    try:
        with file.open("rb") as lines:
            for line in lines:
                try:
                    item = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(item, dict):
                    yield item
    except FileNotFoundError:  # the run disappeared between two questions
        return


def how_asked(player: Mapping[str, Any]) -> dict[str, Any]:
    """How a model was asked, whichever it was."""
    return {
        key: value
        for key, value in player.items()
        if key not in ("name", "model", "weights_sha256", "settings_sha256", "measured_once")
    }


def _last(known: Sequence[Benchmarked], step: int | None) -> Benchmarked | None:
    wanted = [one for one in known if step is None or one.place == step]
    return max(wanted, key=lambda one: one.place, default=None)


def _key(item: Mapping[str, Any]) -> tuple[str, str]:
    return str(item.get("id")), str(item.get("sample"))


def _wanted(item: Mapping[str, Any], before: bool | None, filters: ItemFilters) -> bool:
    correct = bool(item.get("correct"))
    if filters.correct is not None and correct != filters.correct:
        return False
    if filters.change is not None and (
        before is None or before == correct or filters.change == ("lost" if correct else "learned")
    ):
        return False
    if not filters.q:
        return True
    wanted = filters.q.lower()
    return any(wanted in str(item.get(name, "")).lower() for name in ("prompt", "reply", "id"))


def _item(benchmarked: Benchmarked, item: Mapping[str, Any]) -> dict[str, Any]:
    reply = str(item.get("reply", ""))
    return {
        "task": benchmarked.name,
        "item": item.get("id"),
        "sample": item.get("sample"),
        "step": benchmarked.step,
        "prompt": item.get("prompt"),
        "reply": reply[:MAX_REPLY],
        "gold": item.get("answer"),
        "extracted": item.get("extracted"),
        "correct": item.get("correct"),
        "truncated": item.get("truncated"),
        "tokens": item.get("tokens"),
        "before": None,
        "patterns": sorted(classify_by_cues(reply[:MAX_LABELLED])),
        "labelled": min(len(reply), MAX_LABELLED),
    }
