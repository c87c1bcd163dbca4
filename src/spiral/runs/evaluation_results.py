"""The results of a run's evaluations as its files hold them. Reading them loads no model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from spiral.core.files import read_json
from spiral.core.metrics import Matchup, Metrics, benchmark_key
from spiral.evaluation.results import plain_name
from spiral.policies.cut_off import CutOff

MAX_RECORD_NAME = 100
"""Characters. File systems allow 255 bytes, encrypted ones 143, and a temporary file has a longer name."""
ENDS = ("", "_low", "_high")
TEXTS = frozenset({"game", "opponent", "task", "method"})
NUMBERS = frozenset(
    {name + end for name in ("win", "draw", "loss", "not_lost", "accuracy", "exploitability") for end in ENDS}
    | {"episodes", "illegal", "illegal_mass", "items", "nash_conv", "samples", "truncated", "unboxed"}
)
"""What is a text, and what is a number or null, in a result."""
THEORY_METRICS = ("exploitability", "optimal_share", "regret_self")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResults:
    """The results of one evaluation in their JSON forms (`ArenaResult`, `TheoryResult`, `BenchmarkResult`)."""

    arena: tuple[dict[str, Any], ...] = ()
    exploitability: tuple[dict[str, Any], ...] = ()
    benchmarks: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {field.name: list(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def check(self) -> None:
        """Raises `TypeError`, `KeyError` or `ValueError` if the entries are not results."""
        self.metrics()
        for result in (*self.arena, *self.exploitability, *self.benchmarks):
            for name, value in result.items():
                expected = str if name in TEXTS else int | float | None if name in NUMBERS else object
                if not isinstance(value, expected):
                    raise TypeError(f"{name} is {type(value).__name__}")

    def metrics(self) -> Metrics:
        """The main results under the keys of docs/metrics.md."""
        values: Metrics = {}
        for result in self.arena:
            games = Matchup(game=result["game"], opponent=result["opponent"])
            for rate in ("win", "draw", "loss", "illegal"):
                values[games.evaluation_key(rate)] = float(result[rate])
            theirs = opponent_replies(result)
            if theirs.replies:
                values[games.evaluation_key("opponent_cut_off")] = theirs.share
        for result in self.exploitability:
            for name in THEORY_METRICS:
                if result.get(name) is not None:
                    values[Matchup(game=result["game"]).evaluation_key(name)] = float(result[name])
        for result in self.benchmarks:
            for name in ("accuracy", "truncated", "unboxed", "response_length"):
                values[benchmark_key(result["task"], name)] = float(result[name])
        if len(self.benchmarks) > 1:
            mean = fmean(float(result["accuracy"]) for result in self.benchmarks)
            values[benchmark_key("mean", "accuracy")] = mean
        return values


def opponent_replies(result: Mapping[str, Any]) -> CutOff:
    """The replies of the opponent in an `ArenaResult` in its JSON form; none in files of earlier versions."""
    return CutOff(**result.get("opponent_replies", {}))


def read_evaluation(path: Path) -> EvaluationResults:
    """The results that a run wrote. Raises `ValueError` if the file is damaged."""
    try:
        values = read_json(path.read_bytes())
        results = EvaluationResults(
            arena=tuple(values["arena"]),
            exploitability=tuple(values["exploitability"]),
            benchmarks=tuple(values.get("benchmarks", ())),  # files of earlier versions have none
        )
        results.check()
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} does not hold evaluation results ({type(error).__name__})") from error
    return results


def record_name(label: str, taken: set[str]) -> str:
    """A file name for a label, short enough for every file system and not yet in `taken`, to which it is added.

    Names that differ only in case count as equal, as on some file systems.
    """
    name = "-against-".join(plain_name(part) for part in label.split("-against-"))
    if len(name) > MAX_RECORD_NAME or name.casefold() in taken or not name:
        digest = hashlib.sha256(label.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        name = f"{name[: MAX_RECORD_NAME - 13]}-{digest}"
    taken.add(name.casefold())
    return name
