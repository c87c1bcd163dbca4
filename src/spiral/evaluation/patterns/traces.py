"""Traces: what a model wrote in one game, or in one solution of a problem, by the step of its training.

A trace of a game holds all replies of one player in it. Traces are read from run directories (the games of training,
the games and replies of evaluations, and the results in the run) and from the results of `spiral evaluate` and
`spiral benchmark`.

They are sampled after appendix F of the paper (v3): of every checkpoint some games, those of winners first, and some
solutions, right and wrong ones apart. Of a game or a problem at most one trace is drawn (of a problem one right and one
wrong solution), so that the traces of a table are independent of each other. Which are drawn follows from the seed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.core.steps import SNAPSHOTS, models_of_run, numbered
from spiral.core.storage import read_episodes
from spiral.evaluation.results import RESULTS, read_result
from spiral.evaluation.tournament_files import short_names
from spiral.models.weights_hash import weights_sha256
from spiral.policies import is_scripted

Domain = Literal["games", "maths"]
BETWEEN_TURNS = "\n\n[next turn]\n\n"
MAX_STEPS = 6
"""Steps that are analysed when none are named; the paper has six."""
Players = Callable[[Episode], Sequence[int]]
"""The players of an episode whose replies are traces."""
KINDS = ("evaluate", "benchmark")
"""The kinds of results that hold traces."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """What a model wrote in one game or one solution."""

    id: str
    """Names the trace within an analysis; the same for the same files."""
    model: str = ""
    """The run, or the model outside of a run."""
    step: int | None = None
    """The training step; None if it is not known or there is none."""
    domain: Domain
    task: str
    """The game's spec or the benchmark's task."""
    unit: str
    """The game or problem, of which one trace is drawn."""
    success: bool
    """Whether the player won, or the answer was right."""
    text: str
    """All replies, without observations and questions."""

    @property
    def group(self) -> tuple[str, int | None]:
        """The checkpoint."""
        return self.model, self.step


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceFile:
    """A file with traces of one checkpoint, not read yet."""

    path: Path
    model: str
    step: int | None
    domain: Domain
    read: Callable[[], Iterator[Trace]]


def find_files(sources: Sequence[Path]) -> list[TraceFile]:
    """The files with traces in run and result directories, and in directories of results.

    Raises:
        ValueError: A source holds no such file, or a result is damaged.
    """
    found: dict[Path, TraceFile] = {}
    for source in dict.fromkeys(source.resolve() for source in sources):
        files = list(_files(source))
        if not files:
            raise ValueError(
                f"{source} holds neither episodes nor replies of a benchmark; give a run that keeps episodes"
                " (run.episodes_every), or a result of `spiral evaluate` or `spiral benchmark`"
            )
        found.update({file.path: file for file in files})  # a run's results may be named again
    models = list(dict.fromkeys(file.model for file in found.values()))
    short = dict(zip(models, short_names(models), strict=True))
    return [dataclasses.replace(file, model=short[file.model]) for file in found.values()]


def choose_files(files: Sequence[TraceFile], steps: Sequence[int] = ()) -> list[TraceFile]:
    """The files of the given steps, or of at most `MAX_STEPS` evenly spaced ones, the first and the last among them.

    Where there are too many, steps with both games and solutions come first. Files without a step are always kept.
    Raises `ValueError` if a given step has no file.
    """
    present = sorted({file.step for file in files if file.step is not None})
    missing = [step for step in steps if step not in present]
    if missing:
        raise ValueError(
            f"there are no traces of step {missing[0]}; steps with traces: {', '.join(map(str, present)) or 'none'}"
        )
    domains = {step: {file.domain for file in files if file.step == step} for step in present}
    both = [step for step in present if len(domains[step]) == 2]
    chosen = set(steps or _spread(both if len(both) > 1 and len(present) > MAX_STEPS else present, MAX_STEPS))
    return [file for file in files if file.step is None or file.step in chosen]


def read_traces(files: Sequence[TraceFile]) -> list[Trace]:
    """All traces in the files.

    Raises:
        ValueError: A file is damaged, or none of them holds a trace of a language model.
    """
    traces = [dataclasses.replace(trace, model=file.model, step=file.step) for file in files for trace in file.read()]
    if not traces:
        raise ValueError(
            f"{len(files)} files hold no text of a language model, only moves of scripted players and games that were"
            " not played; give a run or result of a model"
        )
    return traces


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of the sorted steps, evenly spaced by their place in the list, the first and last included."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (count - 1))] for index in range(count)]


def sample_traces(traces: Iterable[Trace], per_checkpoint: int, seed: int) -> list[Trace]:
    """The traces to classify: of every checkpoint `per_checkpoint` games, right and wrong solutions each."""

    def drawn(trace: Trace) -> int:
        return derive_seed(seed, "patterns", trace.id)

    strata: dict[tuple[Any, ...], list[Trace]] = {}
    for trace in traces:
        # Winners first in games: they compete for the same places. Right and wrong solutions have their own.
        kind = () if trace.domain == "games" else (trace.success,)
        strata.setdefault((*trace.group, trace.domain, *kind), []).append(trace)
    sampled = []
    for group in strata.values():
        ordered = sorted(group, key=lambda trace: (trace.domain == "games" and not trace.success, drawn(trace)))
        first_of_unit = {trace.unit: trace for trace in reversed(ordered)}
        chosen = [trace for trace in ordered if first_of_unit[trace.unit] is trace]
        sampled += chosen[:per_checkpoint]
    return sorted(sampled, key=_place)


def _place(trace: Trace) -> tuple[Any, ...]:
    step = -1 if trace.step is None else trace.step
    return trace.model, step, trace.domain, not trace.success, trace.id


def _files(source: Path) -> Iterator[TraceFile]:
    if not source.is_dir():
        raise ValueError(f"there is no directory {source}; give a run directory or a result directory")
    if (source / "result.json").is_file():
        values = read_result(source)
        if values.get("kind") not in KINDS:
            raise ValueError(
                f"{source} is a result of kind {values.get('kind')!r}; traces are in results of `spiral evaluate` and"
                " `spiral benchmark`"
            )
        yield _result_file(source, values)
        return
    yield from _run_files(source)
    for root in (source, source / RESULTS):
        for file in sorted(root.glob("*/result.json")):
            values = read_result(file)
            if values.get("kind") in KINDS:
                yield _result_file(file.parent, values)


def _run_files(run: Path) -> Iterator[TraceFile]:
    """The games of training, and the games and replies of the evaluations, of a run."""
    for step, file in numbered(run / "episodes", ".parquet"):
        yield _games_file(file, str(run), step, lambda episode: episode.learning_players)
    for step, records in numbered(run / "evaluation"):
        for file in sorted(records.glob("*.parquet")):
            yield _games_file(file, str(run), step, None)
        for file in sorted(records.glob("*.jsonl")):
            if next(_solutions(file, file.stem), None) is not None:  # states of exploitability are JSONL too
                yield _solutions_file(file, str(run), step, file.stem)


def _result_file(directory: Path, values: dict[str, Any]) -> TraceFile:
    settings = values["settings"]
    try:
        described = settings["model"]
        name = str(described["name"])
        model, step = _origin(directory, name, described.get("weights_sha256"))
        if values["kind"] == "benchmark":
            return _solutions_file(directory / "items.jsonl", model, step, str(settings["task"]))
        return _games_file(directory / "episodes.parquet", model, step, _players_called(name))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{directory} is not a whole result ({type(error).__name__}: {error}); evaluate again"
        ) from error


def _games_file(path: Path, model: str, step: int | None, players: Players | None) -> TraceFile:
    read = functools.partial(_games, path, players)
    return TraceFile(path=path, model=model, step=step, domain="games", read=read)


def _solutions_file(path: Path, model: str, step: int | None, task: str) -> TraceFile:
    read = functools.partial(_solutions, path, task)
    return TraceFile(path=path, model=model, step=step, domain="maths", read=read)


def _players_called(name: str) -> Players:
    return lambda episode: [player for player, seat in enumerate(episode.seats) if seat.policy == name]


def _games(file: Path, players: Players | None) -> Iterator[Trace]:
    """The traces of the given players in a file of episodes, by default of the policy that plays first in the first.

    That is the policy that was evaluated. Scripted players have no traces.
    """
    episodes = read_episodes(file)
    wanted = players or _players_called(episodes[0].seats[0].policy if episodes else "")
    for number, episode in enumerate(episodes):
        if episode.outcome == "not_played":
            continue
        for player in wanted(episode):
            replies = [turn.reply.strip() for turn in episode.turns if turn.player == player]
            if not replies or is_scripted(episode.seats[player].policy):
                continue
            unit = f"{_near(file)}#{number}"
            yield Trace(
                id=f"{unit}.{player}",
                domain="games",
                task=episode.game,
                unit=unit,
                success=episode.result(player) > 0,
                text=BETWEEN_TURNS.join(replies),
            )


def _solutions(file: Path, task: str) -> Iterator[Trace]:
    """The graded replies in a file of attempts; nothing for files of other records."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file} ({type(error).__name__}); run the benchmark again") from error
    for record in records:
        if not isinstance(record, dict) or not {"id", "sample", "reply", "correct"} <= record.keys():
            continue
        yield Trace(
            id=f"{_near(file)}#{record['id']}.{record['sample']}",
            domain="maths",
            task=task,
            unit=f"{task}#{record['id']}",
            success=bool(record["correct"]),
            text=str(record["reply"]).strip(),
        )


def _near(file: Path) -> str:
    """The last parts of a path, which stay the same when a run is moved."""
    return "/".join(file.parts[-3:])


def _origin(directory: Path, name: str, weights: str | None) -> tuple[str, int | None]:
    """The run and step that the model of a result comes from; a model outside of a run has no step."""
    run, _, step = name.rpartition("@")
    if run and step.isdigit():
        return _known_run(directory, run), int(step)
    path = Path(name)
    if path.parent.name in ("checkpoints", SNAPSHOTS):
        at = [step for step, found in numbered(path.parent) if found.name == path.name]
        digits = path.name.rpartition("-")[2]
        if at or digits.isdigit():
            return _known_run(directory, str(path.parent.parent)), at[0] if at else int(digits)
        path = path.parent.parent  # "latest"
    root = Path(_known_run(directory, str(path)))
    steps = [step for step, model in models_of_run(root).items() if weights and weights_sha256(model) == weights]
    return (str(root) if (root / "checkpoints").is_dir() else name), steps[-1] if steps else None


def _known_run(directory: Path, name: str) -> str:
    """The run directory called `name`; the one around the result, if that is where the result lies."""
    around = directory.parent.parent
    if directory.parent.name == RESULTS and around.name == Path(name).resolve().name:
        return str(around)
    return str(Path(name).resolve()) if Path(name).is_dir() else name
