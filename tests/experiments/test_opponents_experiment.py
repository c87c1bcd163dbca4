"""The comparison of opponents: who trains against whom, and what the table reads off a run."""

from pathlib import Path

import pytest

from arm_runs import made_up
from file_modules import module_of
from spiral.experiments.sweep import jobs_of, load_sweep
from spiral.experiments.tables import Results, Table, load_tables
from spiral.games import load_game
from spiral.policies import can_play
from spiral.runs.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "experiments/opponents"


@pytest.fixture(scope="module")
def table():
    """The module experiments/opponents/table.py."""
    return module_of(FOLDER / "table.py")


def test_no_arm_trains_against_the_opponent_of_the_table(table):
    jobs = [job for job in jobs_of(load_sweep(FOLDER), "laptop", (14,)) if job.is_run]
    recipes = {job.name: load_recipe(str(FOLDER / "tictactoe.toml"), list(job.words)[3::2]) for job in jobs}
    assert tuple(recipes) == table.ARMS
    met = {name: (set(recipe.selfplay.opponents), recipe.selfplay.opponent_sampler) for name, recipe in recipes.items()}
    assert met == {
        "mirror": ({"mirror"}, "fixed"), "random": ({"random"}, "fixed"), "minimax": ({"minimax"}, "fixed"),
        "past_selves": ({"mirror", "past"}, "past_selves"), "pfsp": ({"mirror", "past"}, "pfsp"),
    }  # fmt: skip
    rest = {
        recipe.model_dump_json(exclude={"selfplay": {"opponents", "opponent_sampler", "opponent_options"}})
        for recipe in recipes.values()
    }
    assert len(rest) == 1
    recipe = recipes["mirror"]
    assert recipe.selfplay.samples_per_step, "every arm learns from as many turns"
    assert table.NEVER_MET in recipe.evaluation.opponents
    assert can_play(table.NEVER_MET, load_game(table.GAME))


def evaluated(step, win, draw):
    """The row of an evaluated step."""
    key = "evaluation/tictactoe/minimax-1"
    return {"step": step, f"{key}/win": win, f"{key}/draw": draw}


def test_scores_over_time(table, tmp_path):
    rows = [evaluated(0, 0.25, 0.25), {"step": 1}, evaluated(10, 0.25, 0.5), evaluated(20, 0.75, 0.0)]
    found = made_up(tmp_path, {"mirror": {14: rows, 42: [evaluated(0, 0.125, 0.0)]}})
    scores = table.scores(found.runs("mirror")[0], table.NEVER_MET)
    assert scores == {0: 0.375, 10: 0.5, 20: 0.75}
    assert (table.late(scores), table.last(scores)) == (0.75, 0.75)
    assert table.late({1: 0.0, 2: 0.5, 3: 1.0}) == 0.75
    entries = {(entry.row, entry.column): (entry.value, entry.n) for entry in table.over_time(found).entries}
    assert entries["mirror", "step 0"] == (0.25, 2)
    assert entries["mirror", "step 20"] == (0.75, 1)
    assert entries["pfsp", "step 0"] == (None, None)


def test_nothing_done_gives_every_table():
    made = load_tables(FOLDER, Results(scale="laptop", seeds=(14,), jobs=[]))
    names = ["over_time", "arms", "differences", "theory", "theory_differences", "curves"]
    assert [one.name for one in made] == names
    assert {entry.value for one in made if isinstance(one, Table) for entry in one.entries} == {None}
