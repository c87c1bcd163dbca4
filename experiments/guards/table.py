"""When each guard warns of a collapse, what its answers leave of the result, and whether healthy runs make it warn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spiral.core.metrics import Matchup
from spiral.experiments.tables import Curves, Entry, Line, Results, Table
from spiral.runs.directory import read_metrics
from spiral.runs.rules import RULES

GAME = "kuhn_poker"
AGAINST = Matchup(game=GAME, opponent="random")
CHANCE = 0.5
"""The score of random play against itself."""
LASTING = 3
"""Evaluations up to the last one that have to be below `CHANCE` before the result is called gone."""
ANSWERS = ("anchor", "pull", "rollback")
ANSWERING = "entropy_rise"
"""The guard that answers in the arms."""
HEALTHY = {
    "nano": (Matchup(game="tictactoe"), Matchup(game=GAME)),
    "nano_past_selves": (Matchup(game=GAME), Matchup(game=GAME, opponent="past")),
    "nano_think": (Matchup(game="nim"),),
}
"""Built-in recipes over their usual steps, and the games from which their players learn."""
PANELS = {
    "share of illegal moves": "rollout/illegal",
    "entropy, nats a token": "loss/entropy",
    "gradient norm": "learner/grad_norm",
}
Rows = Sequence[Mapping[str, float]]


def scores(rows: Rows) -> dict[int, float]:
    """The share of games won against random play by step, a draw counting half."""
    win, draw = AGAINST.evaluation_key("win"), AGAINST.evaluation_key("draw")
    return {int(row["step"]): row[win] + row[draw] / 2 for row in rows if win in row}


def gone(rows: Rows) -> int | None:
    """The step from which on the policy is worse than random play; None where it is not so to the end."""
    found = scores(rows)
    above = max((step for step, score in found.items() if score >= CHANCE), default=0)
    below = [step for step in found if step > above]
    return below[0] if len(below) >= LASTING else None


def warned(rows: Rows, guard: str, trained: Sequence[Matchup]) -> int | None:
    """The first step after which a guard finds something."""
    rule = RULES[guard]()
    for end in range(1, len(rows) + 1):
        if [*rule(rows[:end], trained)]:
            return int(rows[end - 1]["step"])
    return None


def tables(results: Results) -> list[Table | Curves]:
    """Warnings in the collapse and in healthy runs, the answers, and the curves of each arm's first seed."""
    lost = [_seed(number, read_metrics(run)) for number, run in enumerate(results.runs("none"), 1)]
    found: list[Table | Curves] = [
        Table(
            name="warnings",
            title="The step after which each guard first warns of the collapse",
            entries=[entry for entries in lost for entry in entries],
            form="{:.0f}",
            note='"not done": the guard does not warn, or the result is not gone.',
        )
    ]
    if healthy := [entry for arm in HEALTHY for entry in _healthy(arm, results.runs(arm))]:
        title = "Healthy runs in which each guard warns"
        found.append(Table(name="healthy", title=title, entries=healthy, form="{:.0f}"))
    return [*found, _answers(results), _curves(results)]


def _seed(number: int, rows: Rows) -> list[Entry]:
    """A column of the table of warnings: one run that nothing answers."""
    column = f"run {number}"
    first = [Entry(row="the result is gone", column=column, value=gone(rows))]
    return first + [Entry(row=name, column=column, value=warned(rows, name, [Matchup(game=GAME)])) for name in RULES]


def _healthy(arm: str, runs: Sequence[Path]) -> list[Entry]:
    """A column of the table of healthy runs: a recipe."""
    known = [read_metrics(run) for run in runs]
    return [
        Entry(
            row=name,
            column=f"{arm.replace('_', '-')}, of {len(known)}",
            value=sum(warned(rows, name, HEALTHY[arm]) is not None for rows in known),
            n=len(known),
        )
        for name in (RULES if known else ())
    ]


def _answers(results: Results) -> Table:
    """What is left at the end: the score of the last evaluation, and the illegal moves of the last ten steps.

    A run that stops keeps the weights that the run without an answer has after the step of the first warning.
    """
    entries = _arm("none", [read_metrics(run) for run in results.runs("none")])
    stopped = []
    for run in results.runs("none"):
        rows = read_metrics(run)
        end = warned(rows, ANSWERING, [Matchup(game=GAME)])
        stopped.append(rows if end is None else rows[:end])
    entries += _arm("stop", stopped)
    for arm in ANSWERS:
        entries += _arm(arm, [read_metrics(run) for run in results.runs(arm)])
    return Table(name="answers", title=f"The end of the run, by what {ANSWERING} answers to a warning", entries=entries)


def _arm(arm: str, runs: Sequence[Rows]) -> list[Entry]:
    """A row of the table of answers; means over the runs, without intervals, which two runs cannot give."""
    illegal = [[row["rollout/illegal"] for row in rows[-10:]] for rows in runs]
    columns = {
        "best score": [max(scores(rows).values()) for rows in runs],
        "score at the end": [[*scores(rows).values()][-1] for rows in runs],
        "illegal moves, last ten steps": [sum(values) / len(values) for values in illegal],
        "runs whose result is gone": [float(gone(rows) is not None) for rows in runs],
    }
    label = f"{arm} ({len(runs)} run{'s' if len(runs) != 1 else ''})"
    return [
        Entry(row=label, column=column, value=sum(values) / len(values) if values else None, n=len(runs))
        for column, values in columns.items()
    ]


def _curves(results: Results) -> Curves:
    """The score and what the guards watch, of each arm's first run."""
    lines: list[Line] = []
    for arm in ("none", *ANSWERS):
        lines += results.curves(arm, arm, PANELS)
        for rows in [read_metrics(run) for run in results.runs(arm)[:1]]:
            found = scores(rows)
            lines.append(Line(panel="score against random", label=arm, x=[*found], y=[*found.values()]))
    return Curves(name="curves", title="A collapse, and what each answer makes of it", lines=lines)
