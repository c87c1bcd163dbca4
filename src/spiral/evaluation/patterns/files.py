"""The files of an analysis of patterns, beside `result.json`.

shares.csv     one row for every checkpoint, domain, success and pattern
transfer.csv   one row for every checkpoint and pattern, with the paper's shares beside
traces.jsonl   every sampled trace with its text and the patterns that it was found to show, for spot checks by hand
items.jsonl    the judge's replies
patterns.png   shares of games and solutions by checkpoint, after figure 4 of the paper (v3)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spiral.core.files import write_atomically, write_jsonl, write_text_atomically
from spiral.evaluation.patterns.codebook import PAPER, Pattern
from spiral.evaluation.patterns.run import PatternsResult, share_records
from spiral.evaluation.results import ResultDirectory, endpoint_usage

PANELS_IN_ROW = 3
COLOURS = {"games": "tab:blue", "maths": "tab:orange"}
SHIFT = {"games": -0.06, "maths": 0.06}
MARKERS = "osD^v<>P"


def write_patterns(
    directory: ResultDirectory,
    result: PatternsResult,
    more: Mapping[str, Any],
    items: Sequence[Mapping[str, Any]],
    answerer: object,
) -> dict[str, Any]:
    """Writes every file, `result.json` last; returns the JSON output: the tables, `more` and the paths of the files."""
    directory.make()
    files = {name: directory.path / name for name in ("shares.csv", "transfer.csv", "traces.jsonl", "patterns.png")}
    values = {**more, **result.to_json(), "files": {name: str(path) for name, path in files.items()}}
    _write_csv(files["shares.csv"], share_records(result.analysis))
    _write_csv(files["transfer.csv"], values["transfer"])
    write_jsonl(files["traces.jsonl"], _trace_records(result))
    draw_patterns(files["patterns.png"], result)
    directory.write(values, items=items or None, endpoints=endpoint_usage(answerer))
    return values


def _trace_records(result: PatternsResult) -> list[dict[str, Any]]:
    return [
        {
            "id": trace.id,
            "model": trace.model,
            "step": trace.step,
            "domain": trace.domain,
            "task": trace.task,
            "success": trace.success,
            "shown": None if verdict.shown is None else sorted(verdict.shown),
            "votes": verdict.votes,
            "unanimous": verdict.unanimous,
            "text": trace.text,
        }
        for trace, verdict in zip(result.traces, result.verdicts, strict=True)
    ]


def _write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    file = io.StringIO()
    if records:
        writer = csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    write_text_atomically(path, file.getvalue())


def draw_patterns(path: Path, result: PatternsResult) -> None:
    """Draws the shares of every pattern by checkpoint, with 95% intervals; dashed lines are the paper's (v3)."""
    checkpoints = list(dict.fromkeys((share.model, share.step) for share in result.analysis.shares))
    models = list(dict.fromkeys(model for model, _ in checkpoints))
    labels = [_label(model, step, len(models) > 1) for model, step in checkpoints]
    columns = min(PANELS_IN_ROW, len(result.patterns))
    rows = -(-len(result.patterns) // columns)
    width = max(3.4, 0.6 * len(labels) + 1.6)
    figure = Figure(figsize=(width * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for number, pattern in enumerate(result.patterns):
        _panel(axes[number // columns, number % columns], result, pattern, checkpoints, models)
    for panel in axes.flat[len(result.patterns) :]:
        panel.set_visible(False)
    for panel in axes.flat[: len(result.patterns)]:
        panel.set_xticks(range(len(labels)), labels, rotation=0 if len(models) == 1 else 30)
    for panel in axes[:, 0]:
        panel.set_ylabel("share of traces")
    axes[0, 0].legend(fontsize="x-small")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _panel(
    axes: Axes,
    result: PatternsResult,
    pattern: Pattern,
    checkpoints: Sequence[tuple[str, int | None]],
    models: Sequence[str],
) -> None:
    places = {checkpoint: place for place, checkpoint in enumerate(checkpoints)}
    for domain, colour in COLOURS.items():
        for number, model in enumerate(models):
            found = [
                share
                for share in result.analysis.shares
                if (share.pattern, share.domain, share.success, share.model) == (pattern.name, domain, "all", model)
            ]
            if not found:
                continue
            values = [share.share.value for share in found]
            below = [share.share.value - share.share.low for share in found]
            above = [share.share.high - share.share.value for share in found]
            axes.errorbar(
                [places[share.model, share.step] + SHIFT[domain] for share in found],
                values,
                yerr=[below, above],
                color=colour,
                marker=MARKERS[number % len(MARKERS)],
                capsize=2,
                label=domain if number == 0 else None,
            )
    for value, (domain, colour) in zip(PAPER.get(pattern.name, ()), COLOURS.items(), strict=False):
        axes.axhline(value, color=colour, linestyle="--", linewidth=0.8, alpha=0.6, label=f"{domain}, paper (v3)")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(pattern.title, fontsize="medium")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)


def _label(model: str, step: int | None, with_model: bool) -> str:
    if step is None:
        return model
    return f"{model}@{step}" if with_model else str(step)
