"""A real collapse: guards see it ten steps before the result is gone, and a pull to the reference keeps the result."""

from pathlib import Path

import pytest

from file_modules import module_of
from spiral.core.metrics import Matchup
from spiral.launch import execute, start
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "experiments/guards"
KUHN = [Matchup(game="kuhn_poker")]


@pytest.fixture(scope="module")
def table():
    """The module experiments/guards/table.py."""
    return module_of(FOLDER / "table.py")


def scored(*scores):
    """Rows of steps 2, 4, 6 and so on with these scores against random play."""
    win, draw = (Matchup(game="kuhn_poker", opponent="random").evaluation_key(key) for key in ("win", "draw"))
    return [{"step": 2.0 * index, win: score - 0.05, draw: 0.1} for index, score in enumerate(scores, 1)]


def test_when_a_result_is_gone(table):
    assert table.scores(scored(0.6, 0.5)) == {2: pytest.approx(0.6), 4: pytest.approx(0.5)}
    assert table.gone(scored(0.6, 0.4, 0.55, 0.4, 0.3, 0.2)) == 8, "not at step 4, after which it came back"
    assert table.gone(scored(0.6, 0.6, 0.6, 0.6, 0.4, 0.4)) is None, "two evaluations may be chance"
    assert table.gone(scored(0.6, 0.1, 0.1, 0.1, 0.1, 0.6)) is None


@pytest.mark.slow
def test_a_collapse_is_seen_early_and_answered(table, tmp_path):
    """Without an answer and with a pull, from the same seed."""
    rows = {answer: run(tmp_path / answer, answer) for answer in ("none", "pull")}
    lost, best = table.gone(rows["none"]), max(table.scores(rows["none"]).values())
    assert lost is not None
    assert best > 0.55, "it had learned something that could be lost"
    seen = {guard: table.warned(rows["none"], guard, KUHN) for guard in ("entropy_rise", "illegal", "gradient")}
    assert all(step is not None and step <= lost - 10 for step in seen.values()), (seen, lost)
    assert sum(row["guard/answers"] for row in rows["pull"]) >= 1
    assert table.gone(rows["pull"]) is None
    assert illegal(rows["pull"]) < illegal(rows["none"]) / 2
    assert last(table, rows["pull"]) > last(table, rows["none"]) + 0.05


def last(table, rows):
    """The score of the last evaluation."""
    return [*table.scores(rows).values()][-1]


def illegal(rows):
    """The share of illegal moves in the last five steps."""
    return sum(row["rollout/illegal"] for row in rows[-5:]) / 5


def run(path, answer):
    """The metrics of a run of the experiment's recipe."""
    answers = [] if answer == "none" else [f"answer.guards={{entropy_rise = '{answer}'}}"]
    recipe = load_recipe(str(FOLDER / "collapse.toml"), ["run.seed=14", *answers])
    execute(start(recipe, path), lambda _step, _metrics: None).close()
    return read_metrics(path)
