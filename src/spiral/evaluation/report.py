"""One measurement of a policy in training: games, exact theory and benchmarks, as a recipe asks for them.

What the figures were computed from is kept beside them: episodes as Parquet, information states and attempts as JSONL.
The policy is the one that trains, its weights where they are; every draw has a seed of its own, so measuring never
changes what training draws.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from spiral.core.files import write_jsonl
from spiral.core.metrics import Matchup, Metrics, benchmark_key
from spiral.core.progress import shown
from spiral.core.storage import write_episodes
from spiral.evaluation.measurements import measure_games
from spiral.evaluation.optimality import measure_theory
from spiral.evaluation.reasoning.measuring import load_benchmark, measure_benchmark
from spiral.evaluation.reasoning.settings import BenchmarkConfig
from spiral.evaluation.results import plain_name
from spiral.evaluation.settings import EvaluationConfig
from spiral.games import Game, load_game
from spiral.inference.base import LanguagePolicy
from spiral.policies import Policy, able_opponents, scripted_policy

Seat = Callable[[str, Game], Policy]
"""Who sits down when a name is called."""
MAX_RECORD_NAME = 100
"""File systems take 255 bytes, encrypted ones 143, and a file that is being written has a longer name."""
THEORY_FIGURES = ("exploitability", "optimal_share", "regret_self")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Results in their JSON forms (`ArenaResult`, `TheoryResult`, `BenchmarkResult`)."""

    arena: tuple[dict[str, Any], ...] = ()
    exploitability: tuple[dict[str, Any], ...] = ()
    benchmarks: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {field.name: list(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def metrics(self) -> Metrics:
        """The main results under the keys of docs/metrics.md."""
        values: Metrics = {}
        for result in self.arena:
            games = Matchup(game=result["game"], opponent=result["opponent"])
            for rate in ("win", "draw", "loss", "illegal"):
                values[games.evaluation_key(rate)] = float(result[rate])
        for result in self.exploitability:
            for name in THEORY_FIGURES:
                if result.get(name) is not None:
                    values[Matchup(game=result["game"]).evaluation_key(name)] = float(result[name])
        for result in self.benchmarks:
            for name in ("accuracy", "truncated", "unboxed", "response_length"):
                values[benchmark_key(result["task"], name)] = float(result[name])
        return values


def measure(
    policy: LanguagePolicy,
    config: EvaluationConfig,
    episodes: int,
    *,
    seat: Seat = scripted_policy,
    records: Path | None = None,
) -> Report:
    """Plays `episodes` games of every game against every opponent that can play it, and measures exploitability.

    An opponent that cannot play a game (minimax in poker) is left out for that game. `records` is a directory for what
    the figures were computed from.
    """
    arena, theory, progress = [], [], shown()
    taken: set[str] = set()
    for spec in config.games:
        game = load_game(spec)
        for name in able_opponents(config.opponents, game):
            progress.stage(f"{spec} against {name}", episodes, "games")
            result, played = measure_games(
                policy,
                seat(name, game),
                game,
                episodes=episodes,
                seed=config.seed,
                in_flight=config.in_flight,
                watch=progress.games,
            )
            arena.append(result.to_json())
            if records is not None:
                records.mkdir(parents=True, exist_ok=True)
                label = record_name(f"{spec}-against-{name}", taken)
                write_episodes(records / f"{label}.parquet", played)
    for spec in config.exploitability:
        progress.stage(f"exploitability in {spec}")
        measured = measure_theory(policy, load_game(spec), seed=config.seed, watch=progress.count)
        theory.append(measured.to_json())
        _keep(records, record_name(f"{spec}-states", taken), measured.records())
    return Report(arena=tuple(arena), exploitability=tuple(theory))


def measure_benchmarks(
    policy: LanguagePolicy, config: BenchmarkConfig, records: Path | None = None
) -> tuple[dict[str, Any], ...]:
    """Every task of the recipe, in the JSON form of its result."""
    results = []
    taken: set[str] = set()
    for name, file in config.tasks.items():
        benchmark = load_benchmark(
            name,
            data=Path(file) if file else None,
            limit=config.limit or None,
            samples=config.samples,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
        )
        progress = shown()
        progress.stage(f"benchmark {name}", benchmark.attempts, "replies")
        result, attempts = measure_benchmark(
            policy, benchmark, policy.name, in_flight=config.in_flight, tell=progress.update
        )
        results.append(result.to_json())
        _keep(records, record_name(name, taken), [dataclasses.asdict(attempt) for attempt in attempts])
    return tuple(results)


def record_name(label: str, taken: set[str]) -> str:
    """A file's name for a label, added to `taken`: short enough for every disk, and no other label's.

    Disks that do not tell capitals apart are reckoned with.
    """
    name = "-against-".join(plain_name(part) for part in label.split("-against-"))
    if len(name) > MAX_RECORD_NAME or name.casefold() in taken or not name:
        digest = hashlib.sha256(label.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        name = f"{name[: MAX_RECORD_NAME - 13]}-{digest}"
    taken.add(name.casefold())
    return name


def _keep(records: Path | None, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """What a figure was computed from, where that is wanted."""
    if records is not None:
        records.mkdir(parents=True, exist_ok=True)
        write_jsonl(records / f"{name}.jsonl", rows)


def read_report(path: Path) -> Report:
    """A report that a run wrote. Raises `ValueError` when the file is damaged."""
    try:
        values = json.loads(path.read_bytes())
        report = Report(
            arena=tuple(values["arena"]),
            exploitability=tuple(values["exploitability"]),
            benchmarks=tuple(values.get("benchmarks", ())),  # reports of earlier versions have none
        )
        report.metrics()  # says whether the entries are results
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not an evaluation report ({type(error).__name__})") from error
    return report
