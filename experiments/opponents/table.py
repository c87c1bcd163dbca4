"""How well each arm plays against an opponent that none of them met in training, over time and at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from spiral.core.metrics import Matchup
from spiral.experiments.paired import by_seed, by_step, compare, curves
from spiral.experiments.tables import Curves, Results, Table, mean_entry
from spiral.runs.directory import read_metrics

ARMS = ("mirror", "random", "minimax", "past_selves", "pfsp")
START = "start"
"""The model that all arms begin with."""
CONTROL = "mirror"
GAME = "tictactoe"
NEVER_MET = "minimax(depth=1)"
"""Takes a win at once, and chooses among all else by random games: neither random play nor perfect play."""
THEORY = {
    "optimal moves, all positions": "optimal_share",
    "optimal moves, positions of random play": "optimal_share_random",
    "loss of value a move, positions of random play": "regret_random",
}
Rows = Sequence[Mapping[str, float]]


def tables(results: Results) -> list[Table | Curves]:
    """Scores over time, at the end, and what theory says of the last weights."""
    columns = {
        "never met, second half": lambda run: late(scores(run, NEVER_MET)),
        "never met, after the last step": lambda run: last(scores(run, NEVER_MET)),
        "against minimax, after the last step": lambda run: last(scores(run, "minimax")),
        "illegal moves, last ten steps": lambda run: fmean(row["rollout/illegal"] for row in read_metrics(run)[-10:]),
        "turns a game, last ten steps": lambda run: fmean(
            row["rollout/turns_per_game"] for row in read_metrics(run)[-10:]
        ),
    }
    return [
        over_time(results),
        *compare(results, ARMS, CONTROL, columns, "Scores by the opponent in training"),
        *theory(results),
        curves(results, ARMS, lambda run: scores(run, NEVER_MET), f"Score against {NEVER_MET}, never met"),
    ]


def scores(run: Path, opponent: str) -> dict[int, float]:
    """The share of games won against an opponent by evaluated step, a draw counting half."""
    matchup = Matchup(game=GAME, opponent=opponent)
    win, draw = matchup.evaluation_key("win"), matchup.evaluation_key("draw")
    won, drawn = by_step(run, win), by_step(run, draw)
    return {step: share + drawn[step] / 2 for step, share in won.items()}


def late(by_step: Mapping[int, float]) -> float:
    """Mean over the evaluations of the second half."""
    return fmean(value for step, value in by_step.items() if step * 2 > max(by_step))


def last(by_step: Mapping[int, float]) -> float:
    """After the last step."""
    return by_step[max(by_step)]


def over_time(results: Results) -> Table:
    """Rows are arms, columns the evaluated steps."""
    found = {arm: by_seed(results, arm, lambda run: scores(run, NEVER_MET)) for arm in ARMS}
    steps = sorted({step for runs in found.values() for by_step in runs.values() for step in by_step}) or [0]
    entries = [
        mean_entry(arm, f"step {step}", [by_step.get(step) for by_step in found[arm].values()])
        for step in steps
        for arm in ARMS
    ]
    return Table(
        name="over_time", title=f"Score against {NEVER_MET}, which no arm met, over the steps", entries=entries,
        note="Means over the seeds, with Student's 95% intervals.",
    )  # fmt: skip


def theory(results: Results) -> list[Table]:
    """Exact numbers of the last weights, and what each arm has more than the control."""
    rows = {arm: ("theory", arm) for arm in ARMS}
    values, differences = results.against(CONTROL, rows, THEORY)
    start = [results.entry(START, column, "theory", START, key=key) for column, key in THEORY.items()]
    title = "The last weights against perfect play, position by position"
    return [
        Table(name="theory", title=title, entries=[*start, *values], form="{:.3f}"),
        Table(
            name="theory_differences", title=f"{title}, less {CONTROL} with the same seed", entries=differences,
            form="{:+.3f}", note="Student's 95% intervals over pairs of runs with the same seed.",
        ),
    ]  # fmt: skip
