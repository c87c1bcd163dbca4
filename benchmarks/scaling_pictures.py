"""The pictures of `docs/scaling.md`, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.common import Row
from benchmarks.scaling_tables import PLANS, Points

STYLES = ("o-", "s-", "^--", "d-.")
FORMER = "overlap"
"""The plan that is also drawn as it was before games joined."""
DPI = 80


def draw_sweep(sweep: Sequence[Points], former: Sequence[Points], file: Path) -> None:
    """Tokens a second over workers, one panel a model."""
    names = list(dict.fromkeys(points["sync"].case.shape.name for points in sweep))
    figure, panels = _figure(12, 3.2, len(names))
    for axes, name in zip(panels, names, strict=True):
        mine = [points for points in sweep if points["sync"].case.shape.name == name]
        for plan, style in zip(PLANS, STYLES, strict=True):
            axes.plot(*_line(mine, plan), style, label=plan, markersize=4)
        before = [points for points in former if points["sync"].case.shape.name == name]
        axes.plot(*_line(before, FORMER), ":", color="grey", label=f"{FORMER}, before")
        axes.set(xscale="log", title=name, xlabel="rollout workers", yscale="log")
    panels[0].set_ylabel("thousand tokens/s")
    _save(figure, panels, file)


def draw_tails(rows: Sequence[Row], file: Path) -> None:
    """Seconds a step over the spread of reply lengths, one panel a kind of game."""
    kinds = list(dict.fromkeys(row["turns a game"] for row in rows))
    figure, panels = _figure(8, 3.2, len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        mine: list[Any] = [row for row in rows if row["turns a game"] == kind]
        for plan, style in zip(PLANS, STYLES, strict=True):
            tails, seconds = [row["tail"] for row in mine], [row[f"{plan} s/step"] for row in mine]
            axes.plot(tails, seconds, style, label=plan, markersize=4)
        axes.set(title=f"{kind} turns a game", xlabel="tail", ylim=(0, None))
    panels[0].set_ylabel("s/step")
    _save(figure, panels, file)


def _line(sweep: Sequence[Points], plan: str) -> tuple[list[int], list[float]]:
    """Workers, and thousands of tokens a second."""
    points = [each[plan] for each in sweep]
    return [each.case.workers for each in points], [each.tokens_per_second / 1000 for each in points]


def _figure(width: float, height: float, count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _save(figure: Figure, panels: Sequence[Axes], file: Path) -> None:
    panels[0].legend(frameon=False)
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=DPI)
