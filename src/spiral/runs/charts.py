"""The curves of a run as single charts for a report or a paper, as SVG and PNG.

    for chart in charts(overview(path)):
        write_chart(chart, directory)

A chart shows one quantity: the players of a game, or the opponents of an evaluation, are its lines. Evaluations have
their 95% intervals. Curves over many steps are drawn thin, with their running mean over them.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import write_atomically
from spiral.core.metrics import learning_players
from spiral.core.printable import one_line
from spiral.evaluation.results import plain_name
from spiral.runs.overview import CURVES, Overview

PER_PLAYER = {
    "return": "return in training",
    "illegal": "illegal share of moves",
    "response_length": "reply tokens",
    "thinking_length": "thinking tokens",
}
"""Metrics of a player that have a chart, and its title."""
MIN_SMOOTHED = 40
"""Steps of a curve from which on its running mean is drawn."""
MEAN_SHARE = 25
"""The running mean covers the number of steps divided by this."""
MAX_LABEL = 48
"""Characters of a name in a legend."""
MAX_NAME = 80
"""Characters of a file's name."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#777777")
"""Okabe and Ito's, which colour-blind people tell apart, the yellow replaced by a brown."""
GREY = "#808080"
"""Of axes and text; legible on white and on black."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """The values of a line by step, with the bounds of their intervals where they have some."""

    label: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """One quantity over the steps."""

    title: str
    lines: tuple[Line, ...]
    share: bool = False
    """Whether the values are shares, on an axis from 0 to 1."""
    evaluated: bool = False
    """Whether the values are of evaluations, which are marked by points."""

    @property
    def mean_over(self) -> int:
        """The number of steps of the running mean; 0 where none is drawn."""
        longest = max(len(line.steps) for line in self.lines)
        return 0 if self.evaluated or longest < MIN_SMOOTHED else max(3, longest // MEAN_SHARE)


def charts(found: Overview) -> list[Chart]:
    """Every chart that has values: evaluations, then each game that is trained on, then the run as a whole."""
    return [chart for chart in (*_evaluations(found), *_trained(found), *_whole_run(found)) if chart.lines]


def _evaluations(found: Overview) -> Iterator[Chart]:
    pairs = {(row["game"], row["opponent"]): None for _, results in found.evaluations for row in results.arena}
    for game in dict.fromkeys(game for game, _ in pairs):
        lines = []
        for name in (opponent for other, opponent in pairs if other == game):
            rows = [
                (step, row)
                for step, results in found.evaluations
                for row in results.arena
                if (row["game"], row["opponent"]) == (game, name)
            ]
            lines.append(_with_interval(f"against {name}", rows, "not_lost"))
        yield Chart(title=f"{game}: win or draw", lines=tuple(lines), share=True, evaluated=True)
    for game in dict.fromkeys(row["game"] for _, results in found.evaluations for row in results.exploitability):
        values = [
            (step, row["exploitability"])
            for step, results in found.evaluations
            for row in results.exploitability
            if row["game"] == game
        ]
        steps, numbers = tuple(step for step, _ in values), tuple(float(value) for _, value in values)
        line = Line(label="exploitability", steps=steps, values=numbers)
        yield Chart(title=f"{game}: exploitability", lines=(line,), evaluated=True)
    tasks = dict.fromkeys(row["task"] for _, results in found.evaluations for row in results.benchmarks)
    lines = [
        _with_interval(
            task,
            [(step, row) for step, results in found.evaluations for row in results.benchmarks if row["task"] == task],
            "accuracy",
        )
        for task in tasks
    ]
    yield Chart(title="benchmarks: accuracy", lines=tuple(lines), share=True, evaluated=True)


def _with_interval(label: str, rows: Sequence[tuple[int, Any]], rate: str) -> Line:
    return Line(
        label=label,
        steps=tuple(step for step, _ in rows),
        values=tuple(float(row[rate]) for _, row in rows),
        low=tuple(float(row[f"{rate}_low"]) for _, row in rows),
        high=tuple(float(row[f"{rate}_high"]) for _, row in rows),
    )


def _trained(found: Overview) -> Iterator[Chart]:
    everything = {key: None for row in found.rows for key in row}
    for matchup in found.watched.trained:
        players = learning_players(everything, matchup)
        for name, title in PER_PLAYER.items():
            lines = [_line(f"player {player}", matchup.key(name, player), found) for player in players]
            if name == "return" or any(any(line.values) for line in lines):
                yield Chart(title=f"{matchup}: {title}", lines=tuple(lines), share=name == "illegal")


def _whole_run(found: Overview) -> Iterator[Chart]:
    for caption, key in CURVES:
        line = _line(caption, key, found)
        if any(line.values):
            yield Chart(title=caption, lines=(line,))


def _line(label: str, key: str, found: Overview) -> Line:
    """A metric over the steps that have it as a finite number."""
    points = [(row["step"], float(row[key])) for row in found.rows if isinstance(row.get(key), int | float)]
    points = [(step, value) for step, value in points if abs(value) < float("inf")]  # nor NaN
    return Line(label=label, steps=tuple(step for step, _ in points), values=tuple(value for _, value in points))


def draw(chart: Chart) -> Any:
    """The chart as a matplotlib figure, without matplotlib's global state and without a display."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"axes.edgecolor": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY}
    with rc_context(
        {**style, "text.color": GREY, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(4.2, 2.7), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        for number, line in enumerate(chart.lines):
            _draw_line(axes, chart, line, COLOURS[number % len(COLOURS)])
        axes.set_title(_plain(chart.title), fontsize=9, color=GREY, loc="left", parse_math=False)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.locator_params(axis="x", integer=True)
        if chart.share:
            axes.set_ylim(-0.02, 1.02)
        if len(chart.lines) > 1:
            legend = axes.legend(fontsize=7, frameon=False)
            for text in legend.get_texts():
                text.set_parse_math(False)
    return figure


def _draw_line(axes: Any, chart: Chart, line: Line, colour: str) -> None:
    label = _plain(line.label)
    if chart.evaluated:
        axes.plot(line.steps, line.values, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
        if line.low:
            axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    elif len(line.steps) < MIN_SMOOTHED:
        axes.plot(line.steps, line.values, color=colour, linewidth=1.2, label=label)
    else:
        axes.plot(line.steps, line.values, color=colour, linewidth=0.6, alpha=0.35)
        axes.plot(line.steps, running_mean(line.values, chart.mean_over), color=colour, linewidth=1.4, label=label)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and those around it, `width` in all, fewer at the ends."""
    sums, half = [0.0], width // 2
    for value in values:
        sums.append(sums[-1] + value)
    bounds = [(max(0, at - half), min(len(values), at + half + 1)) for at in range(len(values))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in bounds]


def svg(chart: Chart, name: str) -> str:
    """The chart as an `<svg>` element to put into a page; `name` keeps its identifiers apart from those of others."""
    from matplotlib import rc_context

    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        draw(chart).savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Title": chart.title})
    text = content.getvalue()
    return text[text.index("<svg") :]


def write_chart(chart: Chart, directory: Path) -> list[Path]:
    """Writes the chart as `NAME.svg` and `NAME.png` (300 dots per inch), and returns both paths."""
    from matplotlib import rc_context

    name = plain_name(chart.title.replace(": ", "-"))[:MAX_NAME] or "curve"
    written = []
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = draw(chart)
        options: dict[str, dict[str, Any]] = {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 300}}
        for kind, given in options.items():
            path = directory / f"{name}.{kind}"
            write_atomically(path, functools.partial(figure.savefig, format=kind, **given))
            written.append(path)
    return written


def _plain(text: str) -> str:
    return one_line(text, max_length=MAX_LABEL)
