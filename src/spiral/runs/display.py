"""What a user sees while a run is under way: a live table in a terminal, a plain line now and then elsewhere.

Everything goes to standard error. Nothing here has a say in the run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spiral.core.metrics import Metrics
from spiral.core.printable import printable
from spiral.core.progress import Progress, duration, made_current, progress_shown
from spiral.core.settings import shortened
from spiral.core.terminal import Terminal

SECONDS_BETWEEN_LINES = 5.0
"""Between lines about steps that are fast."""
SLOW_STEP = 1.0
"""Seconds of a step that always has a line of its own."""
MAX_LINE = 160
"""Characters of a line about a step."""
MAX_NAME = 48
"""Characters of a game's name in it."""
BAR = 20
"""Characters of the bar."""
PLAIN_WIDTH = 120
LEARNING = (
    ("gradient norm", "learner/grad_norm", "{:.2f}"),
    ("KL to reference", "loss/kl_reference", "{:.3f}"),
    ("entropy", "loss/entropy", "{:.3f}"),
    ("clipped", "loss/clip_fraction", "{:.1%}"),
    ("sampler-learner gap", "sampler/gap_mean", "{:.4f}"),
)
"""What is shown of the update: caption, metric, format."""
PHASES = {
    "play": "time/collect_s",
    "credit": "time/credit_s",
    "update": "time/update_s",
    "publish": "time/publish_s",
}
"""Of a step: what the loop does one after the other, and the metric with its seconds."""
WORKER_RATE, WORKER_IDLE = "_tokens_per_s", "_idle"
"""Ends of the metrics of each rollout worker."""


GAP_WARNING = (
    "sampler and learner give the same tokens different probabilities (sampler/gap_mean is over loss.gap_limit);"
    " compare engine.kind, model.compute and sampling"
)


class Display(Protocol):
    """Follows a run; a context, so that the terminal is left in order."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, step: int, metrics: Metrics) -> None:
        """Takes the numbers of a finished step."""
        ...


class Pace:
    """How far a run is that goes from `first_step` to `steps`, and how many seconds it took."""

    def __init__(
        self, first_step: int, steps: int, games_per_step: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.steps = steps
        self.games_per_step = games_per_step
        self._first_step = first_step
        self._clock = clock
        self._start = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def remaining(self, step: int) -> float:
        """Seconds to go if every step takes as long as those so far."""
        done = step - self._first_step + 1
        return self.elapsed / max(1, done) * (self.steps - step)


def make_display(title: str, pace: Pace, evaluated: Metrics) -> Display:
    """The display that fits standard error; `evaluated` are the figures measured last."""
    console = Terminal(stderr=True)
    if console.is_terminal:
        return LiveDisplay(console, title, pace, evaluated)
    return PlainDisplay(lambda text: sys.stderr.write(printable(text)), pace)


class PlainDisplay:
    """A line for every slow step, every few seconds where steps are fast, and for the last one."""

    def __init__(self, write: Callable[[str], object], pace: Pace) -> None:
        self._write = write
        self._pace = pace
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
        """Writes a line when it is time, and whenever something was measured."""
        measured = evaluation_figures(metrics)
        now = self._pace.elapsed
        seconds, self._before = now - self._before, now
        if step < self._pace.steps and now < self._next and seconds < SLOW_STEP and not measured:
            return
        self._next = now + SECONDS_BETWEEN_LINES
        self._write(plain_line(step, metrics, self._pace) + "\n")
        for figures in cluster_figures(metrics):
            self._write(f"  {figures}\n")
        if metrics.get("rollout/not_played"):
            self._write(f"warning: {not_played(metrics)}\n")
        if self._first is None:
            self._first = now
            remaining = self._pace.remaining(step)
            if step < self._pace.steps and remaining >= SECONDS_BETWEEN_LINES:
                self._write(f"the first step took {duration(now)}; at this speed {duration(remaining)} are left\n")
        if metrics.get("sampler/gap_warning"):
            self._write(f"warning: {GAP_WARNING}\n")
        if measured:
            self._write(f"measured after step {step}: {'; '.join(measured)}\n")


class LiveDisplay:
    """A table that is redrawn in place, once a second and after every step."""

    def __init__(self, console: Console, title: str, pace: Pace, evaluated: Metrics) -> None:
        self._title = title
        self._pace = pace
        self._evaluated = evaluated
        self._last: tuple[int, Metrics] | None = None
        self._progress, self._open = Progress(by_stage=True), ExitStack()
        self._progress.stage("the first step is under way")
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
        if evaluation_figures(metrics):
            self._evaluated = metrics
        self._last = (step, metrics)
        self._live.refresh()

    def render(self) -> RenderableType:
        """The whole picture."""
        now = Text(self._progress.line(width=self._console.width - 1), no_wrap=True, style="dim")
        if self._last is None:
            return Group(Text(self._title, style="bold", no_wrap=True, overflow="ellipsis"), now)
        step, metrics = self._last
        parts: list[RenderableType] = [
            Text(self._title, style="bold", no_wrap=True, overflow="ellipsis"),
            Text(progress_line(step, metrics, self._pace, self._console.width), no_wrap=True),
            seat_table(metrics),
            Text("  ".join(learning_figures(metrics))),
            *(Text(line) for line in cluster_figures(metrics)),
        ]
        if metrics.get("rollout/not_played"):
            parts.append(Text(f"Warning: {not_played(metrics)}", style="bold yellow"))
        if metrics.get("sampler/gap_warning"):
            parts.append(Text(f"Warning: {GAP_WARNING}", style="bold yellow"))
        measured = evaluation_figures(self._evaluated)
        if measured:
            parts.append(Text("last measured:\n  " + "\n  ".join(measured)))
        parts.append(now)
        parts.append(Text("Ctrl-C stops after the step under way, with a checkpoint.", style="dim"))
        return Group(*parts)


def trained_seats(metrics: Metrics) -> dict[str, list[int]]:
    """The games whose results are among the metrics, and in which seats the policy learned."""
    seats: dict[str, list[int]] = {}
    for key in metrics:
        game, _, seat = key.rpartition("/return_seat_")
        if game:
            seats.setdefault(game, []).append(int(seat))
    return seats


def not_played(metrics: Metrics) -> str:
    """How many games had no result, as when an endpoint does not answer."""
    return f"{metrics['rollout/not_played']:.0f} games of this step could not be played"


def seat_table(metrics: Metrics) -> Table:
    """Results of the step for each game and seat."""
    table = plain_table("game", "seat", "return", "wins", "draws", "illegal", "reply tokens", numbers_from=2)
    for game, seats in trained_seats(metrics).items():
        for seat in seats:
            table.add_row(
                game if seat == seats[0] else "",
                str(seat),
                f"{metrics[f'{game}/return_seat_{seat}']:+.2f}",
                f"{metrics[f'{game}/win_seat_{seat}']:.0%}",
                f"{metrics[f'{game}/draw']:.0%}",
                f"{metrics[f'{game}/illegal_seat_{seat}']:.1%}",
                f"{metrics[f'{game}/response_length_seat_{seat}']:.0f}",
            )
    return table


def learning_figures(metrics: Metrics) -> list[str]:
    """What is known of the update; a step without samples has no loss."""
    return [f"{caption} {form.format(metrics[key])}" for caption, key, form in LEARNING if key in metrics]


def phase_seconds(metrics: Metrics) -> dict[str, float]:
    """Seconds of a step by phase, as far as they are known.

    "record" is what is left of the time since the metrics of the step before: files, checkpoint and measurements of
    that step.
    """
    seconds = {phase: metrics[key] for phase, key in PHASES.items() if key in metrics}
    if "cluster/wall_s" in metrics:
        seconds["record"] = max(0.0, metrics["cluster/wall_s"] - metrics["time/step_s"])
    return seconds


def worker_figures(metrics: Metrics, end: str) -> dict[int, float]:
    """A figure of every rollout worker by its number; those that are not ready have theirs too."""
    start = "cluster/worker_"
    names = {key: key.removeprefix(start).removesuffix(end) for key in metrics if key.startswith(start)}
    return {int(name): metrics[key] for key, name in names.items() if name.isdecimal()}


def cluster_figures(metrics: Metrics) -> list[str]:
    """Two lines about the processes of a run: who there is, and where the time goes; none for a run in one process."""
    rates, idle = worker_figures(metrics, WORKER_RATE), worker_figures(metrics, WORKER_IDLE)
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
    """From the least to the most, as "3 to 5", or just one where they read the same."""
    least, most = form.format(min(values)), form.format(max(values))
    return least if least == most else f"{least} to {most}"


def evaluation_figures(metrics: Metrics) -> list[str]:
    """One text for each opponent and each game's exploitability, from the `evaluation/` metrics."""
    figures = []
    for key, value in metrics.items():
        name, _, figure = key.removeprefix("evaluation/").rpartition(": ")
        if not key.startswith("evaluation/"):
            continue
        if figure == "win":
            rest = [metrics[f"evaluation/{name}: {rate}"] for rate in ("draw", "loss", "illegal")]
            figures.append(f"{name}: win {value:.0%} draw {rest[0]:.0%} loss {rest[1]:.0%} illegal {rest[2]:.0%}")
        elif figure == "exploitability":
            figures.append(f"{name}: exploitability {value:.4f}")
    return figures


def plain_line(step: int, metrics: Metrics, pace: Pace) -> str:
    """A step in at most `MAX_LINE` characters: how far, how fast, and as many results as there is room for.

    A game's figures are those of both seats: `tictactoe +0.50/-0.50 illegal 0%/25%`.
    """
    line = progress_line(step, metrics, pace, MAX_LINE, bar=False)
    games = [_seats_line(game, seats, metrics) for game, seats in trained_seats(metrics).items()]
    for number, part in enumerate([*games, *learning_figures(metrics)]):
        left = len(games) - number
        more = f"  and {left} more" if left > 1 else ""
        if len(line) + 2 + len(part) + len(more) > MAX_LINE:
            return f"{line}  and {left} more" if left > 0 else line
        line = f"{line}  {part}"
    return line


def _seats_line(game: str, seats: Sequence[int], metrics: Metrics) -> str:
    """Mean return and illegal moves of the seats that learn."""
    returns = "/".join(f"{metrics[f'{game}/return_seat_{seat}']:+.2f}" for seat in seats)
    illegal = "/".join(f"{metrics[f'{game}/illegal_seat_{seat}']:.0%}" for seat in seats)
    only = f" seat {seats[0]}" if len(seats) == 1 else ""
    return f"{shortened(printable(game), MAX_NAME)}{only} {returns} illegal {illegal}"


def progress_line(step: int, metrics: Metrics, pace: Pace, width: int, *, bar: bool = True) -> str:
    """Where the run stands and how fast it goes, in at most `width` characters; the least important is left out."""
    parts = [
        f"step {step}/{pace.steps}",
        f"{duration(pace.elapsed)} elapsed, {duration(pace.remaining(step))} left",
        f"{rate(metrics['time/turns_per_s'])} turns/s",
        f"{rate(metrics['time/tokens_per_s'])} tokens/s",
        f"{step * pace.games_per_step:,} games",
    ]
    while len(parts) > 1 and len("  ".join(parts)) > width:
        parts.pop()
    text = "  ".join(parts)
    if bar and len(text) + BAR + 2 <= width:
        filled = round(BAR * step / pace.steps)
        text = "━" * filled + "─" * (BAR - filled) + "  " + text
    return text[:width]


def rate(per_second: float) -> str:
    """A speed with at least two digits that say something, such as 0.31 or 1,234."""
    if per_second >= 10 or per_second <= 0:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"


def plain_table(*headers: str, numbers_from: int | None = None) -> Table:
    """A table without frame lines; columns from `numbers_from` on are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for place, header in enumerate(headers):
        right = numbers_from is not None and place >= numbers_from
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    return table


def wide_console() -> Console:
    """Standard output; wide enough for a table where there is no terminal to ask for its width."""
    console = Terminal()
    if console.is_terminal or os.environ.get("COLUMNS"):
        return console
    return Terminal(width=PLAIN_WIDTH)
