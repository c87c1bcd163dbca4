"""The comparison of baselines on a model that thinks: what its table reads off a run."""

from pathlib import Path

import numpy as np
import pytest

from arm_runs import made_up
from file_modules import module_of
from spiral.core.records import Episode, Generation, Seat, Turn
from spiral.core.storage import write_episodes
from spiral.experiments.sweep import jobs_of, load_sweep
from spiral.experiments.tables import Results, Table, load_tables
from spiral.games import load_game
from spiral.policies import can_play
from spiral.runs.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "experiments/credit"


@pytest.fixture(scope="module")
def table():
    """The module experiments/credit/table.py."""
    return module_of(FOLDER / "table.py")


def test_arms_differ_in_baseline_and_pull_alone():
    jobs = jobs_of(load_sweep(FOLDER), "laptop", (14,))
    recipes = {job.name: load_recipe(str(FOLDER / "nim.toml"), list(job.words)[3::2]) for job in jobs}
    chosen = {name: (recipe.credit.estimator, recipe.loss.kl_coefficient) for name, recipe in recipes.items()}
    assert chosen == {
        "rae": ("rae", 0), "none": ("returns", 0), "shared": ("shared", 0),
        "rae_pull": ("rae", 0.05), "none_pull": ("returns", 0.05), "shared_pull": ("shared", 0.05),
    }  # fmt: skip
    rest = {recipe.model_dump_json(exclude={"credit": True, "loss": {"kl_coefficient"}}) for recipe in recipes.values()}
    assert len(rest) == 1


def test_the_recipe_has_what_the_table_reads(table):
    recipe = load_recipe(str(FOLDER / "nim.toml"), [])
    assert tuple(recipe.run.guards) == table.GUARDS
    assert recipe.evaluation.opponents == ["random", "minimax"]
    assert can_play("minimax", load_game(table.GAME)), "an opponent that cannot play is left out"
    assert recipe.run.record_learner, "for the advantages"
    assert recipe.prompt.observation == "compact"
    assert recipe.run.steps >= 2 * table.WINDOW
    assert recipe.run.steps % recipe.run.episodes_every == 0


def test_numbers_of_the_metrics(table):
    rows = [{"step": 0, "evaluation/nim/random/win": 0.5}]
    rows += [{"step": step, "learner/grad_norm": float(step), "thinking/length": 10.0 - (step > 12)}
             for step in range(1, 25)]  # fmt: skip
    rows[-1] |= {"evaluation/nim/random/win": 0.75, "evaluation/nim/minimax/win": 0.25}
    assert (table.score(rows, "random"), table.score(rows, "minimax")) == (0.75, 0.25)
    assert table.score(rows[:-1], "minimax") is None
    assert table.norms(rows) == [float(step) for step in range(13, 25)]
    assert table.spread([1.0, 3.0]) == 0.5
    assert table.spread([0.0, 0.0]) == 0
    assert table.longer(rows) == -1


def games(*turns):
    """An episode of these turns: observation, reply, action and advantage."""
    generation = Generation(
        token_ids=np.array([1, 2]), logprobs=np.array([-0.1, -0.2]), stop_reason="stop", policy_version=0
    )
    made = tuple(
        Turn(player=number % 2, observation=observation, reply=reply, action=action, generation=generation,
             prompt_ids=np.array([1]), advantages=None if advantage is None else np.array([advantage]))
        for number, (observation, reply, action, advantage) in enumerate(turns)
    )  # fmt: skip
    seats = (Seat(policy="self", trainable=True),) * 2
    return Episode(game="nim", seed=1, seats=seats, turns=made, returns=(1.0, -1.0), outcome="finished")


TRUE = "<think>sum 3 6 take - - 2 </think>\\boxed{3:2}"


def test_numbers_of_the_games(table, tmp_path):
    (tmp_path / "episodes").mkdir()
    early = games(("nim:1 2 5", "<think>sum 1</think>", None, 100.0))
    late = games(
        ("nim:1 2 5", TRUE, "3:2", 1.0),
        ("nim:1 2 5", TRUE.replace("3:2", "1:1"), "1:1", -2.0),
        ("nim:1 2 5", TRUE.replace("6", "7"), "3:2", None),
        ("nim:1 1 0", "<think>sum 0 0 take - - - </think>\\boxed{1:1}", "1:1", 0.5),
    )
    for step, episode in ((1, early), (2, late)):
        write_episodes(tmp_path / f"episodes/step-{step:06d}.parquet", [episode])
    assert table.true_thoughts(tmp_path) == {1: 0, 2: 0.75}
    assert table.winning_moves(tmp_path) == pytest.approx(2 / 3), "no move wins from 1 1 0"
    assert table.squared_advantage(tmp_path) == pytest.approx((1 + 4 + 0.25) / 3), "of the second half of the steps"


def test_guards_count_the_runs_that_they_warn_of(table, tmp_path):
    rows = {14: [{"step": 1, "guard/thoughts": 2.0}, {"step": 2, "guard/thoughts": 0.0, "guard/seats": 1.0}],
            42: [{"step": 1, "guard/thoughts": 1.0}]}  # fmt: skip
    found = made_up(tmp_path, {"rae": rows})
    counts = {
        name: {entry.row: entry.value for entry in table.guards(found, name, least).entries if entry.column == "rae"}
        for name, least in table.STATES.items()
    }
    assert (counts["warning"]["thoughts"], counts["collapse"]["thoughts"]) == (2, 1)
    assert (counts["warning"]["seats"], counts["collapse"]["seats"], counts["warning"]["length"]) == (1, 0, 0)
    assert {entry.value for entry in table.guards(found, "warning", 1.0).entries if entry.column == "none"} == {None}


def test_nothing_done_gives_every_table():
    made = load_tables(FOLDER, Results(scale="laptop", seeds=(14,), jobs=[]))
    assert [one.name for one in made] == [
        "play_arms", "play_differences", "gradients_arms", "gradients_differences", "thoughts_arms",
        "thoughts_differences", "guards_warning", "guards_collapse", "scores", "norms", "lengths", "truths",
    ]  # fmt: skip
    assert {entry.value for one in made if isinstance(one, Table) for entry in one.entries} == {None}
