"""What `table.py` of an experiment reads, and the tables and figures that it makes.

    def tables(results: Results) -> list[Table | Curves]: ...

A table becomes Markdown, CSV and PNG, with the paper's figures beside ours; curves become CSV and PNG.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiral.core.files import write_atomically, write_text_atomically
from spiral.evaluation.statistics import Estimate, mean_interval, mean_of_estimates
from spiral.experiments.jobs import Prepared
from spiral.experiments.sweep import Scale
from spiral.runs.directory import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "table.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One cell: a number, its 95% interval, and the paper's."""

    row: str
    column: str
    value: float | None
    """None for what is not done."""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Games, problems or, over several seeds, seeds behind the value."""
    paper: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of arms, columns of what is evaluated."""

    name: str
    """The name of its files."""
    title: str
    entries: Sequence[Entry]
    form: str = "{:.1%}"
    """How values are written."""
    paper: str = "paper, v3"
    """Heading of the paper's figures."""
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a figure."""

    panel: str
    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines over training steps, in panels."""

    name: str
    title: str
    lines: Sequence[Line]
    x: str = "step"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """The results of an experiment, for its `table.py`."""

    scale: Scale
    seeds: tuple[int, ...]
    jobs: Sequence[Prepared]
    """Every command, also those that are not done."""

    def runs(self, arm: str) -> list[Path]:
        """The run directories of an arm that are complete, in the order of the seeds."""
        return [one.output for one in self.jobs if one.job.name == arm and one.done()]

    def items(self, evaluation: str) -> list[str]:
        """What an evaluation was run for: its `each`."""
        return [*dict.fromkeys(one.job.item for one in self.jobs if one.job.name == evaluation)]

    def of(self, name: str, item: str = "") -> list[dict[str, Any]]:
        """What a command printed with --json, once for each seed whose command is done.

        A command that is the same with every seed has one result.
        """
        found = {
            one.key: one.result() for one in self.jobs
            if (one.job.name, one.job.item) == (name, item) and one.done()
        }  # fmt: skip
        return [*found.values()]

    def entry(
        self, row: str, column: str, name: str, item: str = "", *, key: str, n: str = "", paper: float | None = None
    ) -> Entry:
        """An entry from one value of a command's result.

        With one seed its interval is the result's own (`KEY_low`, `KEY_high`), with several Student's over the seeds.

        Args:
            row: The row.
            column: The column.
            name: The evaluation or arm.
            item: Which of its `each`.
            key: The number's key; "a.b" is b in a, and "a.0" the first of a list.
            n: The key of the number of games or problems, for one seed.
            paper: The paper's figure.
        """
        results = self.of(name, item)
        if len(results) == 1:
            low, high = _at(results[0], key + "_low"), _at(results[0], key + "_high")
            count = _at(results[0], n) if n else None
            return Entry(row=row, column=column, value=_at(results[0], key), low=low, high=high, n=count, paper=paper)
        return mean_entry(row, column, [_at(result, key) for result in results], paper=paper)

    def against(
        self, control: str, arms: Mapping[str, tuple[str, str]], columns: Mapping[str, str]
    ) -> tuple[list[Entry], list[Entry]]:
        """Arms side by side, and each minus a control arm, seed by seed.

        The runs of one seed have the same deals at first, so that what the seed explains is taken out of the
        differences: their intervals are Student's over pairs of the same seed. Seeds of which one side is not done are
        left out, and n counts the pairs; with fewer than two there is no interval.

        Args:
            control: The row of the control arm.
            arms: The command of each row, by name and item (which of its `each`, or ""); the control is among them.
            columns: The key of each column's number, as in `entry`.

        Returns:
            Entries of the values, and of the differences, for two tables.

        Raises:
            ValueError: The control is none of the rows.
        """
        if control not in arms:
            raise ValueError(f"the control {control!r} is none of the rows; expected one of {', '.join(arms)}")
        values: list[Entry] = []
        differences: list[Entry] = []
        for column, key in columns.items():
            found = {row: self._by_seed(*command, key) for row, command in arms.items()}
            values += [mean_entry(row, column, list(by_seed.values())) for row, by_seed in found.items()]
            differences += [
                paired_entry(f"{row} - {control}", column, by_seed, found[control])
                for row, by_seed in found.items()
                if row != control
            ]
        return values, differences

    def _by_seed(self, name: str, item: str, key: str) -> dict[int, float]:
        """A number of a command's result by seed, for the seeds whose command is done and has it."""
        found = {
            one.job.seed: _at(one.result(), key)
            for one in self.jobs
            if (one.job.name, one.job.item) == (name, item) and one.done()
        }
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def curves(self, arm: str, label: str, panels: Mapping[str, str]) -> list[Line]:
        """Lines of the metrics of an arm's first run that is done, one for each panel whose metric the run has.

        Args:
            arm: The arm.
            label: The name of its lines.
            panels: The metric of each panel (docs/metrics.md).
        """
        rows = [row for run in self.runs(arm)[:1] for row in read_metrics(run)]
        lines = []
        for panel, key in panels.items():
            known = [row for row in rows if key in row]
            if known:
                x, y = [row["step"] for row in known], [row[key] for row in known]
                lines.append(Line(panel=panel, label=label, x=x, y=y))
        return lines

    def pair(
        self, row: str, name: str, item: str = "", *, paper: Mapping[str, float] | None = None, mean: str = "mean"
    ) -> list[Entry]:
        """The first player's score in a `spiral tournament` of two players: one entry a game, and their mean.

        A score is the share of games won, a draw counting half. With one seed intervals are the tournament's own and
        n counts games; with several they are Student's over seeds, which n counts.

        Args:
            row: The row.
            name: The evaluation.
            item: Which of its `each`.
            paper: The paper's figures by game, and by `mean` for the mean.
            mean: The heading of the mean; empty leaves it out.
        """
        known = paper or {}
        results = [result["games"] if "games" in result and "game" not in result else [result]
                   for result in self.of(name, item)]  # fmt: skip
        if not results:
            columns = [*known] or ([mean] if mean else [])
            return [Entry(row=row, column=column, value=None, paper=known.get(column)) for column in columns]
        entries = []
        for games in zip(*results, strict=True):
            scores, game = [_score(result) for result in games], games[0]["game"]
            if len(games) == 1:
                count = sum(games[0]["games"][0])
                entries.append(_entry(row, game, scores[0], count, known.get(game)))
            else:
                entries.append(mean_entry(row, game, [score.value for score in scores], paper=known.get(game)))
        if not mean or len(entries) < 2:
            return entries
        means = [mean_of_estimates([_score(result) for result in games]) for games in results]
        if len(means) == 1:
            count = sum(entry.n or 0 for entry in entries)
            return [*entries, _entry(row, mean, means[0], count, known.get(mean))]
        return [*entries, mean_entry(row, mean, [one.value for one in means], paper=known.get(mean))]


def mean_entry(row: str, column: str, values: Sequence[float | None], *, paper: float | None = None) -> Entry:
    """The mean of one value a seed, with Student's 95% interval where there are two or more."""
    known = [value for value in values if value is not None]
    if not known:
        return Entry(row=row, column=column, value=None, paper=paper)
    mean: Estimate | None = mean_interval(known) if len(known) > 1 else None
    low, high = (None, None) if mean is None else (mean.low, mean.high)
    value = sum(known) / len(known)
    return Entry(row=row, column=column, value=value, low=low, high=high, n=len(known), paper=paper)


def paired_entry(row: str, column: str, values: Mapping[int, float], control: Mapping[int, float]) -> Entry:
    """The mean of values less those of a control with the same seed, with Student's 95% interval over the pairs."""
    seeds = [seed for seed in values if seed in control]
    if not seeds:
        return Entry(row=row, column=column, value=None)
    return mean_entry(row, column, [values[seed] - control[seed] for seed in seeds])


def _score(result: Mapping[str, Any]) -> Estimate:
    """The first player's score against the second in the JSON form of a tournament."""
    low, high = result["score_low"][0][1], result["score_high"][0][1]
    value = result["score"][0][1]
    return Estimate(value=value, low=value if low is None else low, high=value if high is None else high)


def _entry(row: str, column: str, found: Estimate, count: int, paper: float | None) -> Entry:
    return Entry(row=row, column=column, value=found.value, low=found.low, high=found.high, n=count, paper=paper)


def load_tables(folder: Path, results: Results) -> list[Table | Curves]:
    """The tables that the folder's `table.py` makes of the results.

    Raises:
        ValueError: It fails on these results.
    """
    file = folder / FILE
    try:
        return list(runpy.run_path(str(file))["tables"](results))
    except Exception as error:
        raise ValueError(f"{file} failed: {type(error).__name__}: {error}") from error


def markdown(found: Table | Curves) -> str:
    """A table as Markdown, curves as the link to their picture."""
    if isinstance(found, Curves):
        return f"**{found.title}**\n\n![{found.title}]({found.name}.png)\n"
    lines = [f"**{found.title}**", ""]
    cells = {(entry.row, entry.column): entry for entry in found.entries}
    columns = [*dict.fromkeys(entry.column for entry in found.entries)]
    compared = {column for row, column in cells if cells[row, column].paper is not None}
    headings = [head for column in columns
                for head in (column, *([f"{column} ({found.paper})"] if column in compared else []))]  # fmt: skip
    lines += ["| " + " | ".join(["", *headings]) + " |", "|---" * (len(headings) + 1) + "|"]
    for row in dict.fromkeys(entry.row for entry in found.entries):
        texts = [row]
        for column in columns:
            entry = cells.get((row, column))
            texts.append("" if entry is None else _text(entry, found.form))
            if column in compared:
                known = entry is not None and entry.paper is not None
                texts.append(found.form.format(entry.paper) if known and entry is not None else "")
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join([*lines, *(["", found.note] if found.note else [])]) + "\n"


def write_tables(directory: Path, found: Sequence[Table | Curves]) -> list[Path]:
    """Writes the files of all tables and curves and returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for one in found:
        suffixes = {".csv": _csv(one), **({".md": markdown(one)} if isinstance(one, Table) else {})}
        for suffix, text in suffixes.items():
            write_text_atomically(directory / f"{one.name}{suffix}", text)
            files.append(directory / f"{one.name}{suffix}")
        figure = _draw_table(one) if isinstance(one, Table) else _draw_curves(one)
        if figure is not None:
            _save(figure, directory / f"{one.name}.png")
            files.append(directory / f"{one.name}.png")
    return files


def _text(entry: Entry, form: str) -> str:
    if entry.value is None:
        return "not done"
    interval = ""
    if entry.low is not None and entry.high is not None:
        interval = f" ({form.format(entry.low)} to {form.format(entry.high)})"
    return form.format(entry.value) + interval


def _csv(found: Table | Curves) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if isinstance(found, Curves):
        writer.writerow(["panel", "line", found.x, "value"])
        writer.writerows(
            [line.panel, line.label, x, y] for line in found.lines for x, y in zip(line.x, line.y, strict=True)
        )
    else:
        names = [field.name for field in dataclasses.fields(Entry)]
        writer.writerow(names)
        writer.writerows([getattr(entry, name) for name in names] for entry in found.entries)
    return text.getvalue()


def _draw_table(table: Table) -> Figure | None:
    """A panel of bars for each column, with intervals, and the paper's figures as diamonds; None without values."""
    columns = [*dict.fromkeys(entry.column for entry in table.entries if entry.value is not None)]
    if not columns:
        return None
    rows = [*dict.fromkeys(entry.row for entry in table.entries)]
    across = min(3, len(columns))
    figure, panels = _panels(table.title, len(columns), across, 0.34 * len(rows) + 1.1)
    for number, (axes, column) in enumerate(zip(panels, columns, strict=True)):
        for entry in table.entries:
            if entry.column != column:
                continue
            place = rows.index(entry.row)
            if entry.value is not None:
                axes.barh(place, entry.value, height=0.6, color="tab:blue", alpha=0.75)
            if entry.value is not None and entry.low is not None and entry.high is not None:
                spread = [[max(0.0, entry.value - entry.low)], [max(0.0, entry.high - entry.value)]]
                axes.errorbar(entry.value, place, xerr=spread, color="black", capsize=2, linewidth=1)
            if entry.paper is not None:
                axes.plot(entry.paper, place, marker="D", color="tab:orange", linestyle="none")
        axes.set_yticks(range(len(rows)), rows if number % across == 0 else [""] * len(rows), fontsize="small")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(column, fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
    if any(entry.paper is not None for entry in table.entries):
        figure.supxlabel(f"bars: here, with 95% intervals; diamonds: {table.paper}", fontsize="small")
    return figure


def _draw_curves(curves: Curves) -> Figure | None:
    names = [*dict.fromkeys(line.panel for line in curves.lines)]
    if not names:
        return None
    figure, panels = _panels(curves.title, len(names), min(3, len(names)), 3.2)
    for axes, panel in zip(panels, names, strict=True):
        for line in curves.lines:
            if line.panel == panel:
                axes.plot(line.x, line.y, label=line.label, linewidth=1.2, marker="o" if len(line.x) < 15 else "")
        axes.set_title(panel, fontsize="medium")
        axes.set_xlabel(curves.x)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    return figure


def _panels(title: str, count: int, across: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, drawn without a display and without matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    down = math.ceil(count / across)
    figure = Figure(figsize=(max(6.0, 4.2 * across), height * down + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium")
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def _save(figure: Figure, path: Path) -> None:
    """Writes a PNG without the date and version of matplotlib, so that the same results give the same file."""
    write_atomically(
        path, lambda temporary: figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
    )


def _at(values: Mapping[str, Any] | Sequence[Any], key: str) -> Any:
    """The value at a key, as of `Results.entry`; None where there is none."""
    found: Any = values
    for part in key.split("."):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, Sequence) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found
