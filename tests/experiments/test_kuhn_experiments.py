"""The numbers of the experiments in Kuhn poker: what they compute from a run's evaluations."""

from pathlib import Path

import pytest

from file_modules import module_of
from kuhn_runs import BOLD, PASSIVE, UNIFORM, make_run
from spiral.experiments.sweep import jobs_of, load_sweep
from spiral.experiments.tables import Results, load_tables
from spiral.rollout.rewards import REWARDS
from spiral.runs.recipe import load_recipe
from spiral.theory.policy import policy_from_table

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def kuhn():
    """The module experiments/kuhn.py."""
    return module_of(FOLDER / "kuhn.py")


def test_distance_between_policies(kuhn):
    assert kuhn.distance(UNIFORM, UNIFORM) == 0
    assert kuhn.distance(UNIFORM, BOLD) == pytest.approx(0.5)
    assert kuhn.distance(PASSIVE, BOLD) == pytest.approx(1)


def test_payoff_is_the_mean_of_both_players(kuhn):
    uniform, passive, bold = (policy_from_table(policy) for policy in (UNIFORM, PASSIVE, BOLD))
    assert kuhn.payoff(uniform) == pytest.approx(0)
    assert kuhn.payoff(bold, passive) == pytest.approx(1), "who always bets takes the ante of who always folds"
    assert kuhn.payoff(passive, bold) == pytest.approx(-1)


def test_numbers_of_a_run(kuhn, tmp_path):
    run = make_run(tmp_path, [UNIFORM, PASSIVE, BOLD, PASSIVE], illegal=0.1, exploitability=[0.4, 0.3, 0.2, 0.1])
    assert kuhn.exploitability(run) == {10: 0.3, 20: 0.2, 30: 0.1}
    assert kuhn.late_exploitability(run) == pytest.approx(0.15)
    assert kuhn.last_exploitability(run) == 0.1
    assert kuhn.exploitability_change(run) == pytest.approx(-0.3)
    assert kuhn.illegal(run) == pytest.approx(0.1)
    assert kuhn.moved(run) == pytest.approx(0.5)
    assert kuhn.walked(run) == kuhn.got_away(run) == pytest.approx(1)
    assert kuhn.beaten_by_earlier(run) == 1, "the last policy always folds to the one before"
    assert kuhn.policies(run)[10] == {key: pytest.approx(row) for key, row in PASSIVE.items()}


def test_a_walk_there_and_back_gets_nowhere(kuhn, tmp_path):
    run = make_run(tmp_path, [UNIFORM, UNIFORM, UNIFORM, BOLD, PASSIVE, BOLD])
    assert kuhn.walked(run) == pytest.approx(2)
    assert kuhn.got_away(run) == pytest.approx(0)
    assert kuhn.beaten_by_earlier(run) == pytest.approx(1 / 3), "no policy wins against an equal one"


@pytest.mark.parametrize(("name", "arms"), [("pull", 3), ("controls", 6)])
def test_every_arm_changes_one_recipe(name, arms):
    jobs = jobs_of(load_sweep(FOLDER / name), "laptop", (14,))
    recipes = [load_recipe(str(FOLDER / "kuhn.toml"), list(job.words)[3::2]) for job in jobs]
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(recipes) == arms
    assert len({recipe.selfplay.episodes_per_step * recipe.run.steps for recipe in recipes}) == 1, "equal games"
    tables = load_tables(FOLDER / name, Results(scale="laptop", seeds=(14,), jobs=[]))
    assert [table.name for table in tables] == ["arms", "differences", "curves"]
    assert {entry.row for entry in tables[0].entries} == {job.name for job in jobs}
    assert all(entry.value is None for entry in tables[0].entries)


def test_the_controls_have_a_row_for_every_reward_named_after_it():
    jobs = jobs_of(load_sweep(FOLDER / "controls"), "laptop", (14,))
    paid = {job.name: load_recipe(str(FOLDER / "kuhn.toml"), list(job.words)[3::2]).selfplay.reward for job in jobs}
    assert paid == {name: name for name in REWARDS}


def test_a_policy_without_a_legal_move_counts_as_uniform(kuhn, tmp_path):
    assert kuhn.policies(make_run(tmp_path, [BOLD], illegal=1.0))[0] == UNIFORM
