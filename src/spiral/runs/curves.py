"""The learning curves of a run as one picture, from its metrics and evaluations.

It needs neither a display nor matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spiral.core.files import write_atomically
from spiral.core.metrics import Matchup, learning_players
from spiral.runs.directory import read_evaluations, read_metrics
from spiral.runs.evaluation_results import EvaluationResults

TITLES = {"return": "return in training", "illegal": "illegal share of moves", "response_length": "reply tokens"}
FILE_NAME = "learning_curve.png"
Rows = Sequence[dict[str, Any]]
Reports = Sequence[tuple[int, EvaluationResults]]


def draw_learning_curve(run: Path, trained: Sequence[Matchup]) -> Path:
    """Writes `learning_curve.png` into a run directory and returns its path; `trained` are the games of its recipe."""
    rows, reports = read_metrics(run), read_evaluations(run)
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    figure.suptitle(run.resolve().name)
    _win_or_draw(axes[0, 0], reports)
    _exploitability(axes[0, 1], reports)
    everything = {key: value for row in rows for key, value in row.items()}
    players = [(matchup, player) for matchup in trained for player in learning_players(everything, matchup)]
    panels = {"return": axes[0, 2], "illegal": axes[1, 0], "response_length": axes[1, 1]}
    for name, panel in panels.items():
        series = [(f"{matchup} player {player}", matchup.key(name, player)) for matchup, player in players]
        _lines(panel, rows, TITLES[name], series)
    learning = [
        ("NLL (nats)", "loss/nll"),
        ("accuracy", "loss/accuracy"),
        ("entropy (nats)", "loss/entropy"),
        ("KL to reference (nats)", "loss/kl_reference"),
    ]
    _lines(axes[1, 2], rows, "the update", [*learning, ("gradient norm", "learner/grad_norm")])
    path = run / FILE_NAME
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))
    return path


def _win_or_draw(axes: Axes, reports: Reports) -> None:
    """Share of games not lost, with 95% intervals."""
    names = [(row["game"], row["opponent"]) for row in reports[-1][1].arena] if reports else []
    for game, opponent in names:
        found = [(step, row) for step, report in reports for row in report.arena
                 if (row["game"], row["opponent"]) == (game, opponent)]  # fmt: skip
        steps = [step for step, _ in found]
        axes.plot(steps, [row["not_lost"] for _, row in found], marker="o", label=f"{game} against {opponent}")
        low, high = [row["not_lost_low"] for _, row in found], [row["not_lost_high"] for _, row in found]
        axes.fill_between(steps, low, high, alpha=0.2)
    axes.set_ylim(0, 1.02)
    _finish(axes, "win or draw, 95% interval", bool(names))


def _exploitability(axes: Axes, reports: Reports) -> None:
    """Exploitability of each game, in the game's units."""
    games = [row["game"] for row in reports[-1][1].exploitability] if reports else []
    for game in games:
        found = [(step, row["exploitability"]) for step, report in reports for row in report.exploitability
                 if row["game"] == game]  # fmt: skip
        axes.plot([step for step, _ in found], [value for _, value in found], marker="o", label=game)
    axes.set_ylim(bottom=0)
    _finish(axes, "exploitability", bool(games))


def _lines(axes: Axes, rows: Rows, title: str, series: Sequence[tuple[str, str]]) -> None:
    """One line for every metric that the rows have."""
    drawn = False
    for label, key in series:
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot([step for step, _ in points], [value for _, value in points], label=label, linewidth=1)
            drawn = True
    _finish(axes, title, drawn)


def _finish(axes: Axes, title: str, legend: bool) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize="x-small")
