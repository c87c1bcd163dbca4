"""The payoffs of a tournament as one picture: who wins against whom, and by how much.

Drawn without a display and without matplotlib's global state, so it can run anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spiral.core.files import write_atomically
from spiral.evaluation.standings import Estimates

INTERVALS_UP_TO = 8
"""Players for whom a cell has room for its interval."""


def draw_heatmap(path: Path, labels: Sequence[str], payoff: Estimates, title: str) -> None:
    """Writes the payoffs [N, N] to `path` as PNG: blue where the row player wins, red where it loses.

    A payoff whose interval holds 0 is printed in grey; from nine players on the intervals are left out.
    """
    count = len(labels)
    side = 1.2 + count * (1.15 if count <= INTERVALS_UP_TO else 0.85)
    figure = Figure(figsize=(side + 2.6, side + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    largest = max(float(np.nanmax(np.abs(payoff.value), initial=0.0)), 1e-9)
    image = axes.imshow(payoff.value, cmap="RdBu", vmin=-largest, vmax=largest)
    figure.colorbar(image, ax=axes, shrink=0.8, label="mean return to the row player")
    axes.set_xticks(range(count), [_short(label) for label in labels], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), [_short(label) for label in labels])
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.set_title(title, fontsize="medium", wrap=True)
    for row in range(count):
        for column in range(count):
            if row != column:
                _print_cell(axes, row, column, payoff, largest, count <= INTERVALS_UP_TO)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _print_cell(axes: Axes, row: int, column: int, payoff: Estimates, largest: float, interval: bool) -> None:
    """The number, dark on light and light on dark."""
    value, low, high = (float(part[row, column]) for part in (payoff.value, payoff.low, payoff.high))
    if np.isnan(value):
        axes.text(column, row, "not\nplayed", ha="center", va="center", fontsize=8, color="dimgrey")
        return
    undecided = not (low > 0 or high < 0)
    colour = "white" if abs(value) > 0.6 * largest else "dimgrey" if undecided else "black"
    weight = "normal" if undecided else "bold"
    shift = 0.14 if interval and not np.isnan(low) else 0.0
    axes.text(column, row - shift, f"{value:+.2f}", ha="center", va="center", fontsize=11, color=colour, weight=weight)
    if shift:
        bounds = f"{low:+.2f} to {high:+.2f}"
        axes.text(column, row + 0.18, bounds, ha="center", va="center", fontsize=7, color=colour)


def _short(label: str, most: int = 28) -> str:
    """The end of a long name, which tells more than its beginning."""
    return label if len(label) <= most else "..." + label[3 - most :]
