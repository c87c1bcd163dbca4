"""The progress of a run on standard error: a live table in a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spiral.core.metrics import Matchup, Metrics, learning_players, worker_key
from spiral.core.printable import printable
from spiral.core.progress import Progress, duration, made_current, progress_shown
from spiral.core.settings import shortened
from spiral.core.terminal import Terminal
from spiral.games import load_game

if TYPE_CHECKING:
    from spiral.runs.recipe import Recipe

SECONDS_BETWEEN_LINES = 5.0
"""Between lines about steps that are fast."""
SLOW_STEP = 1.0
"""Seconds of a step that always gets a line."""
MAX_LINE = 160
"""Characters of a line about a step."""
MAX_NAME = 48
"""Characters of a game's name in it."""
BAR = 20
"""Characters of the bar."""
PLAIN_WIDTH = 120
RATES = ("win", "draw", "loss", "illegal")
LEARNING = (
    ("NLL", "loss/nll", "{:.3f}"),
    ("accuracy", "loss/accuracy", "{:.1%}"),
    ("gradient norm", "learner/grad_norm", "{:.2f}"),
    ("KL to reference", "loss/kl_reference", "{:.3f}"),
    ("entropy", "loss/entropy", "{:.3f}"),
    ("clipped", "loss/clip_fraction", "{:.1%}"),
    ("sampler-learner gap", "sampler/gap_mean", "{:.4f}"),
)
"""Metrics of the update: caption, key, format."""
PHASES = {
    "play": "time/collect_s",
    "credit": "time/credit_s",
    "update": "time/update_s",
    "publish": "time/publish_s",
}
"""The phases of a step in order, and the metric with the seconds of each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """The games and tasks that a run has metrics of, from its recipe."""

    trained: tuple[Matchup, ...] = ()
    evaluated: tuple[Matchup, ...] = ()
    exact: tuple[str, ...] = ()
    """Games whose exploitability is computed."""
    workers: int = 0
    """Rollout workers; 0 for a run in one process."""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """Every pair of game and opponent that the recipe names; those that cannot be played have no metrics."""
        from spiral.rollout.opponents.base import MIRROR

        opponents = ["" if name == MIRROR else name for name in recipe.selfplay.opponents]
        evaluation = recipe.evaluation
        return cls(
            trained=_matchups(recipe.selfplay.games, opponents),
            evaluated=_matchups(evaluation.games, evaluation.opponents),
            exact=tuple(load_game(spec).spec for spec in evaluation.exploitability),
            workers=recipe.cluster.rollout_workers,
        )


def _matchups(games: Iterable[str], opponents: Sequence[str]) -> tuple[Matchup, ...]:
    return tuple(
        Matchup(game=game.spec, opponent=", ".join([name] * (game.num_players - 1)) if name else "")
        for game in map(load_game, games)
        for name in opponents
    )


class Display(Protocol):
    """Shows a run; a context manager, so that the terminal is left in order."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, step: int, metrics: Metrics) -> None:
        """Shows a finished step."""
        ...


class Pace:
    """The time that a run has taken since `first_step`, and will take until `steps`."""

    def __init__(
        self,
        first_step: int,
        steps: int,
        per_step: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        unit: str = "games",
    ) -> None:
        """`per_step` is the number of `unit` in a step."""
        self.steps = steps
        self.per_step = per_step
        self.unit = unit
        self._first_step = first_step
        self._clock = clock
        self._start = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def remaining(self, step: int) -> float:
        """Seconds left if every step takes as long as those so far."""
        done = step - self._first_step + 1
        return self.elapsed / max(1, done) * (self.steps - step)


def make_display(title: str, pace: Pace, watched: Watched, evaluated: Metrics) -> Display:
    """The display that fits standard error; `evaluated` are the metrics of the last evaluation."""
    console = Terminal(stderr=True)
    if console.is_terminal:
        return LiveDisplay(console, title, pace, watched, evaluated)
    return PlainDisplay(lambda text: sys.stderr.write(printable(text)), pace, watched)


class PlainDisplay:
    """A line for every slow step, every few seconds if steps are fast, and for the last step."""

    def __init__(self, write: Callable[[str], object], pace: Pace, watched: Watched) -> None:
        self._write = write
        self._pace = pace
        self._watched = watched
        self._next = 0.0
        self._open = ExitStack()
        self._first: float | None = None
        self._before = 0.0

    def __enter__(self) -> Self:
        self._open.enter_context(progress_shown(bar=False, fast_seconds=SECONDS_BETWEEN_LINES))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def show(self, step: int, metrics: Metrics) -> None:
        """Writes a line when it is time, and after every evaluation."""
        evaluated = evaluation_lines(metrics, self._watched)
        now = self._pace.elapsed
        seconds, self._before = now - self._before, now
        if step < self._pace.steps and now < self._next and seconds < SLOW_STEP and not evaluated:
            return
        self._next = now + SECONDS_BETWEEN_LINES
        self._write(plain_line(step, metrics, self._pace, self._watched) + "\n")
        for line in cluster_lines(metrics, self._watched.workers):
            self._write(f"  {line}\n")
        if metrics.get("rollout/not_played"):
            self._write(f"warning: {not_played(metrics)}\n")
        if self._first is None:
            self._first = now
            remaining = self._pace.remaining(step)
            if step < self._pace.steps and remaining >= SECONDS_BETWEEN_LINES:
                last = " until the last evaluation" if self._watched.evaluated or self._watched.exact else ""
                self._write(
                    f"the first step took {duration(now)}; at this speed {duration(remaining)} are left{last}\n"
                )
        if evaluated:
            self._write(f"evaluated after step {step}: {'; '.join(evaluated)}\n")


class LiveDisplay:
    """A table that is redrawn once a second and after every step."""

    def __init__(self, console: Console, title: str, pace: Pace, watched: Watched, evaluated: Metrics) -> None:
        self._title = title
        self._pace = pace
        self._watched = watched
        self._evaluated = evaluated
        self._last: tuple[int, Metrics] | None = None
        self._progress, self._open = Progress(by_stage=True), ExitStack()
        self._progress.stage("the first step is running")
        self._console = console
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=1)

    def __enter__(self) -> Self:
        self._open.enter_context(made_current(self._progress))
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._open.close()

    def show(self, step: int, metrics: Metrics) -> None:
        """Draws the step."""
        if evaluation_lines(metrics, self._watched):
            self._evaluated = metrics
        self._last = (step, metrics)
        self._live.refresh()

    def render(self) -> RenderableType:
        """Everything that is shown now."""
        now = Text(self._progress.line(width=self._console.width - 1), no_wrap=True, style="dim")
        if self._last is None:
            return Group(Text(self._title, style="bold", no_wrap=True, overflow="ellipsis"), now)
        step, metrics = self._last
        parts: list[RenderableType] = [
            Text(self._title, style="bold", no_wrap=True, overflow="ellipsis"),
            Text(progress_line(step, metrics, self._pace, self._console.width), no_wrap=True),
            player_table(metrics, self._watched),
            Text("  ".join(learning_values(metrics))),
            *(Text(line) for line in cluster_lines(metrics, self._watched.workers)),
        ]
        if metrics.get("rollout/not_played"):
            parts.append(Text(f"Warning: {not_played(metrics)}", style="bold yellow"))
        evaluated = evaluation_lines(self._evaluated, self._watched)
        if evaluated:
            parts.append(Text("last evaluation:\n  " + "\n  ".join(evaluated)))
        parts.append(now)
        parts.append(Text("Ctrl-C finishes this step, writes a checkpoint and stops.", style="dim"))
        return Group(*parts)


def not_played(metrics: Metrics) -> str:
    """The number of games without a result, as when an endpoint does not answer, as text."""
    return f"{metrics['rollout/not_played']:.0f} games of this step could not be played"


def player_table(metrics: Metrics, watched: Watched) -> Table:
    """Results of the step for each game and player."""
    table = plain_table("game", "player", "return", "wins", "draws", "illegal", "reply tokens", numbers_from=2)
    for matchup in watched.trained:
        players = learning_players(metrics, matchup)
        for player in players:
            table.add_row(
                str(matchup) if player == players[0] else "",
                str(player),
                f"{metrics[matchup.key('return', player)]:+.2f}",
                f"{metrics[matchup.key('win', player)]:.0%}",
                f"{metrics[matchup.key('draw')]:.0%}",
                f"{metrics[matchup.key('illegal', player)]:.1%}",
                f"{metrics[matchup.key('response_length', player)]:.0f}",
            )
    return table


def learning_values(metrics: Metrics) -> list[str]:
    """The update's metrics, formatted with captions; a step without samples has no loss."""
    return [f"{caption} {form.format(metrics[key])}" for caption, key, form in LEARNING if key in metrics]


def phase_seconds(metrics: Metrics) -> dict[str, float]:
    """Seconds of a step by phase, as far as they are known.

    "record" is the rest of the time since the step before: files, checkpoint and evaluation of that step.
    """
    seconds = {phase: metrics[key] for phase, key in PHASES.items() if key in metrics}
    if "cluster/wall_s" in metrics:
        seconds["record"] = max(0.0, metrics["cluster/wall_s"] - metrics["time/step_s"])
    return seconds


def worker_metrics(metrics: Mapping[str, float], name: str, workers: int) -> dict[int, float]:
    """A metric of every rollout worker by its number; those that have none are left out."""
    keys = {worker: worker_key(worker, name) for worker in range(workers)}
    return {worker: metrics[key] for worker, key in keys.items() if key in metrics}


def cluster_lines(metrics: Metrics, workers: int) -> list[str]:
    """Two lines about the processes of a run and where the time goes; none for a run in one process."""
    rates, idle = worker_metrics(metrics, "tokens_per_s", workers), worker_metrics(metrics, "idle", workers)
    if not rates:
        return []
    who = [
        f"{metrics['cluster/workers']:.0f} of {len(rates)} workers",
        f"{_span(list(rates.values()), '{:,.0f}')} tokens/s each",
        f"idle {_span(list(idle.values()), '{:.0%}')}",
        f"staleness {metrics['cluster/staleness']:.1f}",
        f"restarts {metrics['cluster/restarts']:.0f}",
    ]
    if metrics["cluster/dropped_turns"]:
        who.append(f"{metrics['cluster/dropped_turns']:.0f} turns too old")
    phases = [f"{phase} {seconds:.2f} s" for phase, seconds in phase_seconds(metrics).items()]
    return ["  ".join(who), "  ".join(phases)]


def _span(values: list[float], form: str) -> str:
    """The range of some values, as "3 to 5", or one value if both ends read the same."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def evaluation_lines(metrics: Metrics, watched: Watched) -> list[str]:
    """One text for each game and opponent and for each game's exploitability, where the metrics have them."""
    lines = []
    for matchup in watched.evaluated:
        if matchup.evaluation_key("win") in metrics:
            rates = [f"{rate} {metrics[matchup.evaluation_key(rate)]:.0%}" for rate in RATES]
            lines.append(f"{matchup}: {' '.join(rates)}")
    for game in watched.exact:
        key = Matchup(game=game).evaluation_key("exploitability")
        if key in metrics:
            lines.append(f"{game}: exploitability {metrics[key]:.4f}")
    return lines


def plain_line(step: int, metrics: Metrics, pace: Pace, watched: Watched) -> str:
    """A step in at most `MAX_LINE` characters: how far, how fast, and as many results as fit.

    The values of a game are those of its players in order: `tictactoe +0.50/-0.50 illegal 0%/25%`.
    """
    line = progress_line(step, metrics, pace, MAX_LINE, bar=False)
    games = [_players_text(matchup, players, metrics)
             for matchup in watched.trained if (players := learning_players(metrics, matchup))]  # fmt: skip
    for number, part in enumerate([*games, *learning_values(metrics)]):
        left = len(games) - number
        more = f"  and {left} more" if left > 1 else ""
        if len(line) + 2 + len(part) + len(more) > MAX_LINE:
            return f"{line}  and {left} more" if left > 0 else line
        line = f"{line}  {part}"
    return line


def _players_text(matchup: Matchup, players: Sequence[int], metrics: Metrics) -> str:
    """Mean return and illegal moves of the players that learn."""
    returns = "/".join(f"{metrics[matchup.key('return', player)]:+.2f}" for player in players)
    illegal = "/".join(f"{metrics[matchup.key('illegal', player)]:.0%}" for player in players)
    only = f" player {players[0]}" if len(players) == 1 else ""
    return f"{shortened(printable(str(matchup)), MAX_NAME)}{only} {returns} illegal {illegal}"


def progress_line(step: int, metrics: Metrics, pace: Pace, width: int, *, bar: bool = True) -> str:
    """The position and speed of a run in at most `width` characters; the least important part is left out first."""
    parts = [
        f"step {step}/{pace.steps}",
        f"{duration(pace.elapsed)} elapsed, {duration(pace.remaining(step))} left",
        f"{rate(metrics['time/turns_per_s'])} turns/s",
        f"{rate(metrics['time/tokens_per_s'])} tokens/s",
        f"{step * pace.per_step:,} {pace.unit}",
    ]
    while len(parts) > 1 and len("  ".join(parts)) > width:
        parts.pop()
    text = "  ".join(parts)
    if bar and len(text) + BAR + 2 <= width:
        filled = round(BAR * step / pace.steps)
        text = "━" * filled + "─" * (BAR - filled) + "  " + text
    return text[:width]


def rate(per_second: float) -> str:
    """A speed with at least two significant digits, such as 0.31 or 1,234."""
    if per_second >= 10 or per_second <= 0:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"


def plain_table(*headers: str, numbers_from: int | None = None) -> Table:
    """A table without frame lines; columns from `numbers_from` on are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        right = numbers_from is not None and index >= numbers_from
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    return table


def wide_console() -> Console:
    """Standard output, wide enough for a table if it is not a terminal."""
    console = Terminal()
    if console.is_terminal or os.environ.get("COLUMNS"):
        return console
    return Terminal(width=PLAIN_WIDTH)
