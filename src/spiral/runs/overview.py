"""What a run's files say at a glance: how far it is, its health, curves, last evaluation and one of its games.

Only files are read, so a run may be looked at while it goes on, and damaged parts of it are left out with a notice.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiral.core.metrics import Matchup, benchmark_key, learning_players, metric_name
from spiral.core.records import Episode
from spiral.core.settings import names_in
from spiral.core.steps import numbered
from spiral.core.storage import read_episodes
from spiral.rollout.opponents.base import MIRROR
from spiral.runs.directory import read_evaluations, read_metrics
from spiral.runs.display import Watched
from spiral.runs.evaluation_results import EvaluationResults
from spiral.runs.guard_record import read_guard_record
from spiral.runs.guard_states import GuardState, guard_states, undone_steps
from spiral.runs.health import Light, health
from spiral.runs.lock import run_owner
from spiral.runs.past_selves import PastSelfStandings, past_self_standings
from spiral.runs.recipe import validate_recipe

MAX_SECONDS = 1e9
"""Seconds of a step, above which the number is no time."""
PACE_STEPS = 20
"""Steps whose mean time says how long a run will still take."""
CURVES = (
    ("reply tokens", "rollout/response_length"),
    ("thinking tokens", "thinking/length"),
    ("NLL", "loss/nll"),
    ("entropy", "loss/entropy"),
    ("KL to reference", "loss/kl_reference"),
    ("gradient norm", "learner/grad_norm"),
    ("sampler-learner gap", "sampler/gap_mean"),
    ("tokens a second", "time/tokens_per_s"),
)
"""Curves of the whole run: caption and key."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric over the steps that have it."""

    caption: str
    key: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    share: bool = False
    """Whether the values are shares, shown in percent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownGame:
    """An episode of a run, and where it is."""

    step: int
    index: int
    """Its number in the step's file."""
    episode: Episode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overview:
    """A run at a glance."""

    path: Path
    model: str | None
    games: tuple[str, ...]
    opponents: tuple[str, ...]
    state: str
    """training, stopped (a run that could go on), or finished."""
    step: int
    steps: int | None
    """The last step of the recipe; None when the recipe cannot be read."""
    seconds: float
    """Of all steps together, without evaluations and checkpoints."""
    seconds_left: float | None
    """At the speed of the last steps; None unless the run is training."""
    lights: tuple[Light, ...]
    guards: tuple[GuardState, ...]
    curves: tuple[Curve, ...]
    metrics: dict[str, Any]
    """The last row."""
    rows: tuple[dict[str, Any], ...]
    """All rows of `read_metrics`."""
    watched: Watched
    """The games and tasks that the rows have metrics of."""
    settings: dict[str, Any]
    """The sections of `config.toml`, empty where it cannot be read."""
    evaluations: tuple[tuple[int, EvaluationResults], ...]
    past_selves: tuple[PastSelfStandings, ...]
    """By game, in the last checkpoint; empty for a run without past selves."""
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`: the evaluations are the first and the last one."""
        ends = dict((*self.evaluations[:1], *self.evaluations[-1:]))
        return {
            "run": str(self.path),
            "model": self.model,
            "games": list(self.games),
            "opponents": list(self.opponents),
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "seconds": self.seconds,
            "seconds_left": self.seconds_left,
            "health": [light.to_json() for light in self.lights],
            "guards": [guard.to_json() for guard in self.guards],
            "metrics": self.metrics,
            "evaluations": [{"step": step, **results.to_json()} for step, results in ends.items()],
            "past_selves": [standings.to_json() for standings in self.past_selves],
            "notices": list(self.notices),
        }


def overview(path: Path) -> Overview:
    """Reads a run directory. Raises `ValueError` if it holds no run."""
    rows = read_metrics(path)
    notices: list[str] = []
    settings, watched = _recipe(path / "config.toml", notices)
    evaluations = read_evaluations(path)
    step = max([*(row["step"] for row in rows[-1:]), *(at for at, _ in evaluations[-1:])], default=0)
    steps = _integer(settings.get("run", {}).get("steps"))
    training = run_owner(path) is not None
    recent = [_seconds(row) for row in rows[-PACE_STEPS:]]
    left = None
    if training and steps is not None and recent:
        left = sum(recent) / len(recent) * max(0, steps - step)
    selfplay = settings.get("selfplay", {})
    return Overview(
        path=path,
        model=_text(settings.get("model", {}).get("path")),
        games=tuple(names_in(selfplay.get("games"))),
        opponents=tuple(name for name in names_in(selfplay.get("opponents")) if name != MIRROR),
        state="training" if training else "finished" if steps is not None and step >= steps else "stopped",
        step=step,
        steps=steps,
        seconds=sum(map(_seconds, rows)),
        seconds_left=left,
        lights=tuple(health(rows, watched.trained)),
        guards=tuple(guard_states(rows, settings, read_guard_record(path), undone_steps(path))),
        curves=tuple(_curves(rows, watched, evaluations)),
        metrics={key: value for key, value in rows[-1].items() if key != "step"} if rows else {},
        rows=tuple(rows),
        watched=watched,
        settings=settings,
        evaluations=tuple(evaluations),
        past_selves=_past_selves(path, notices),
        notices=tuple(notices),
    )


def _past_selves(path: Path, notices: list[str]) -> tuple[PastSelfStandings, ...]:
    """The past selves of a run; a notice where its checkpoint does not say."""
    try:
        return tuple(past_self_standings(path))
    except ValueError as error:
        notices.append(str(error))
        return ()


def shown_game(
    path: Path, preferred: Sequence[str] = (), step: int | None = None, index: int | None = None
) -> tuple[ShownGame | None, list[str]]:
    """A game of a run, and notices about files that were passed over.

    Args:
        path: The run directory.
        preferred: Games to choose from first, in this order; those that were played to their end come before others.
        step: The step; None takes the last one whose games are kept.
        index: The game's number in its file; None chooses one.

    Raises:
        ValueError: The step or the game does not exist, or the file of the given step cannot be read.
    """
    files = dict(numbered(path / "episodes", ".parquet"))
    if step is not None and step not in files:
        kept = f"it has those of steps {_some(list(files))}" if files else "it has none"
        raise ValueError(f"the run in {path} has kept no games of step {step}; {kept}")
    notices: list[str] = []
    for at in [step] if step is not None else sorted(files, reverse=True):
        try:
            episodes = read_episodes(files[at], tokens=False)
        except ValueError as error:
            if step is not None:
                raise
            notices.append(f"{error}; it may still be being written")
            continue
        if index is not None and index >= len(episodes):
            raise ValueError(f"step {at} has {len(episodes)} games; expected a number from 0 to {len(episodes) - 1}")
        if index is None:
            index = _choice(episodes, preferred)
        if index is not None:
            return ShownGame(step=at, index=index, episode=episodes[index]), notices
    return None, notices


def _choice(episodes: Sequence[Episode], preferred: Sequence[str]) -> int | None:
    """The number of the game to show; None without games."""
    order = list(preferred)

    def key(index: int) -> tuple[bool, int]:
        episode = episodes[index]
        return episode.outcome != "finished", order.index(episode.game) if episode.game in order else len(order)

    return min(range(len(episodes)), key=key, default=None)


def _some(steps: Sequence[int]) -> str:
    """Some numbers: all of a few, or else the first two and the last."""
    return ", ".join(map(str, steps)) if len(steps) <= 4 else f"{steps[0]}, {steps[1]}, ..., {steps[-1]}"


def _recipe(file: Path, notices: list[str]) -> tuple[dict[str, Any], Watched]:
    """The settings of a run, and the games that its metrics are about; as much as the file allows."""
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        notices.append(f"{file} cannot be read ({reason}), so games and players are not shown")
        return {}, Watched()
    settings = {key: value for key, value in settings.items() if isinstance(value, dict)}
    try:
        return settings, Watched.from_recipe(validate_recipe(settings, str(file)))
    except ValueError as error:  # a plug-in that is not installed here, or a recipe of another version
        notices.append(f"{error}; games and players are not shown")
        return settings, Watched()


def _curves(
    rows: Sequence[dict[str, Any]], watched: Watched, evaluations: Sequence[tuple[int, EvaluationResults]]
) -> list[Curve]:
    """Every curve that has values; those of the whole run only where they are not zero throughout."""
    everything = {key: None for row in rows for key in row}
    found = []
    for matchup in watched.trained:
        for player in learning_players(everything, matchup):
            for name in ("return", "illegal"):
                caption = f"{matchup} player {player} {name}"
                found.append(_curve(caption, matchup.key(name, player), rows, share=name == "illegal"))
        rating = f"opponents/{metric_name(matchup.game)}/elo"
        if matchup.opponent and rating not in {curve.key for curve in found}:
            found.append(_curve(f"{matchup.game} Elo over the first past self", rating, rows))
    found += [curve for caption, key in CURVES if any((curve := _curve(caption, key, rows)).values)]
    measured = [{"step": step, **results.metrics()} for step, results in evaluations]
    for matchup in watched.evaluated:
        found.append(_not_lost(matchup, measured))
    for game in watched.exact:
        key = Matchup(game=game).evaluation_key("exploitability")
        found.append(_curve(f"{game} exploitability", key, measured))
    for task in dict.fromkeys(result["task"] for _, results in evaluations for result in results.benchmarks):
        found.append(_curve(f"{task} accuracy", benchmark_key(task, "accuracy"), measured, share=True))
    return [curve for curve in found if curve.values]


def _not_lost(matchup: Matchup, rows: Sequence[dict[str, Any]]) -> Curve:
    """Share of evaluation games that were won or drawn."""
    key = matchup.evaluation_key("loss")
    lost = _curve(f"{matchup} win or draw", key, rows, share=True)
    return dataclasses.replace(lost, values=tuple(1 - value for value in lost.values))


def _curve(caption: str, key: str, rows: Sequence[dict[str, Any]], *, share: bool = False) -> Curve:
    points = [(row["step"], float(row[key])) for row in rows if isinstance(row.get(key), int | float)]
    points = [(step, value) for step, value in points if abs(value) < float("inf")]  # nor NaN
    return Curve(
        caption=caption,
        key=key,
        steps=tuple(step for step, _ in points),
        values=tuple(value for _, value in points),
        share=share,
    )


def _seconds(row: dict[str, Any]) -> float:
    """Seconds from one step to the next, as far as the row says."""
    value = row.get("cluster/wall_s", row.get("time/step_s", 0.0))
    return float(value) if isinstance(value, int | float) and 0 <= value < MAX_SECONDS else 0.0


def _integer(value: object) -> int | None:
    return value if type(value) is int and abs(value) < 2**63 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
