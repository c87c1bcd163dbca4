"""Progress of a command on standard error: a redrawn line in a terminal, a line every 30 seconds elsewhere.

A separate thread draws it, so that the time keeps running while a model is loaded or a reply is pending.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.cells import cell_len, set_cell_size
from rich.live import Live
from rich.text import Text

from spiral.core.printable import one_line
from spiral.core.terminal import Terminal

SECONDS_BETWEEN_LINES = 30.0
REDRAWS_PER_SECOND = 4
BAR = 20
"""Characters of the bar."""
MIN_NAME = 20
"""Minimum number of characters for the name beside the bar."""


class Progress:
    """The present stage of a command and how much of it is done. Made by `progress_shown`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, by_stage: bool = False) -> None:
        """With `by_stage`, the time shown is that of the present stage instead of the whole command."""
        self._clock = clock
        self._by_stage = by_stage
        self._start = clock()
        self.stage("")

    def stage(self, what: str, total: int | None = None, unit: str = "") -> None:
        """Begin a stage with `total` items of a `unit` (games, replies); None when the number is not known."""
        self._what, self._total, self._unit = one_line(what), total, unit
        self._done: int | None = None
        self._first, self._detail = 0, ""
        self._since = self._began = self._clock()

    @property
    def stage_seconds(self) -> float:
        """Seconds since the present stage began."""
        return self._clock() - self._began

    def describe(self, what: str) -> None:
        """Rename the present stage; the count continues."""
        self._what = one_line(what)

    def update(self, done: int, detail: str = "") -> None:
        """Set the number of items done. Those done at the first call do not count for the speed."""
        if self._done is None:
            self._first, self._since = done, self._clock()
        self._done, self._detail = done, detail

    def games(self, done: int, turns: int) -> None:
        """Set the number of finished games and of turns in all games."""
        self.update(done, f"{turns:,} turns")

    def count(self, unit: str, done: int, total: int) -> None:
        """Set the items done of `total`; another unit or total begins another stage with the same name."""
        if (unit, total) != (self._unit, self._total):
            self.stage(self._what, total, unit)
        self.update(done)

    def line(self, *, width: int | None = None) -> str:
        """Return the line to show, in `width` characters; the stage's name is shortened first."""
        numbers = self._numbers()
        if width is None:
            return f"{self._what}: {numbers}"
        if self._total is not None and width - cell_len(numbers) >= BAR + MIN_NAME + 4:
            filled = round(BAR * min(1.0, (self._done or 0) / max(1, self._total)))
            numbers = "━" * filled + "─" * (BAR - filled) + "  " + numbers
        room = max(10, width - cell_len(numbers) - 2)
        name = self._what if cell_len(self._what) <= room else set_cell_size(self._what, room - 3) + "..."
        return f"{name}  {numbers}"

    def _numbers(self) -> str:
        """Count, speed and time; only the time when nothing is counted."""
        now = self._clock()
        elapsed = f"{duration(now - (self._began if self._by_stage else self._start))} elapsed"
        if self._total is None:
            return elapsed
        done = self._done or 0
        parts = [f"{done:,}/{self._total:,} {self._unit}".rstrip()]
        made, seconds = done - self._first, now - self._since
        if made > 0 and seconds > 0:
            parts.append(speed(made / seconds))
            parts.append(f"{elapsed}, {duration((self._total - done) * seconds / made)} left")
        else:
            parts += [self._detail, elapsed] if self._detail else [elapsed]
        return "  ".join(parts)


_unseen = Progress()
_current: list[Progress] = []
"""The progresses shown at present, the innermost last."""


def shown() -> Progress:
    """Return the progress that is shown at present, or a silent one.

    This serves code far below the command that shows progress. It does not influence any result.
    """
    return _current[-1] if _current else _unseen


@contextmanager
def made_current(progress: Progress) -> Iterator[Progress]:
    """Let `shown` return this progress during a `with` block."""
    _current.append(progress)
    try:
        yield progress
    finally:
        _current.pop()


@contextmanager
def progress_shown(*, bar: bool = True, fast_seconds: float = 0.0) -> Iterator[Progress]:
    """Show a progress during a `with` block.

    Args:
        bar: Whether to redraw a line in a terminal; otherwise, and without a terminal, a line is written every
            `SECONDS_BETWEEN_LINES`.
        fast_seconds: Write no such line during the first seconds of a stage.
    """
    with made_current(Progress(by_stage=fast_seconds > 0)) as progress:
        yield from _shown(progress, bar, fast_seconds)


def _shown(progress: Progress, bar: bool, fast_seconds: float) -> Iterator[Progress]:

    console = Terminal(stderr=True)
    if bar and console.is_terminal and not console.is_dumb_terminal:
        with Live(
            get_renderable=lambda: Text(progress.line(width=console.width - 1), no_wrap=True, overflow="ellipsis"),
            console=console,
            refresh_per_second=REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        ):
            yield progress
        return
    ended = threading.Event()

    def write_lines() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES):
            if progress.stage_seconds < fast_seconds:
                continue
            with suppress(OSError, ValueError):  # the reader of standard error is gone
                print(progress.line(), file=sys.stderr, flush=True)

    thread = threading.Thread(target=write_lines, name="progress", daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def speed(per_second: float) -> str:
    """Format a speed in the unit (second, minute, hour) that gives a number above one."""
    if per_second >= 1 or per_second == 0:
        return f"{per_second:,.1f}/s" if per_second < 10 else f"{per_second:,.0f}/s"
    per_minute = 60 * per_second
    return f"{per_minute:.1f}/min" if per_minute >= 1 else f"{60 * per_minute:.1f}/h"
