"""Where self-play collapses: what the table reads off a policy and a run, worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from arm_runs import made_up
from file_modules import module_of
from kuhn_runs import BOLD, PASSIVE, STATES, UNIFORM, make_run
from spiral.experiments.sweep import jobs_of, load_sweep
from spiral.experiments.tables import Results, Table, load_tables
from spiral.games import load_game
from spiral.runs.recipe import load_recipe
from spiral.theory import information_states, uniform_policy
from spiral.theory.tree import build_tree

FOLDER = Path(__file__).parents[2] / "experiments/collapse"
KUHN, LEDUC = "kuhn_poker", "leduc_poker"
HONEST = {
    key: {action: float((action in ("bet", "call")) == key.startswith("K")) for action in actions}
    for key, _, actions in STATES
}
"""Bets and calls with the king alone."""


@pytest.fixture(scope="module")
def table():
    """The module experiments/collapse/table.py."""
    return module_of(FOLDER / "table.py")


def opened_with(bet):
    """Always bets and calls, but for the first action, which is a bet with a given probability."""
    return BOLD | {f"{card}-:": {"check": 1 - bet, "bet": bet} for card in "JQK"}


def test_uniform_play_in_kuhn_poker(table):
    # Betting is a best action with every card, and with a bet to answer J folds and Q and K call: 6 of 12 states, which
    # are reached with 1/2 + 1/4 of 1 + 1 + 1/4. Mean advantages: 3/8 at first, 1/4 after a check, 5/6 after a bet.
    found = table.reading(UNIFORM, KUHN)
    assert found.positions == 12
    assert found.varied == found.varied_by_reach == 0
    assert found.contingent == 0.5
    assert found.contingent_by_reach == pytest.approx(1 / 3)
    assert found.advantage == pytest.approx((3 / 8 + 1 / 4 / 2 + 5 / 6 * 3 / 4) / (9 / 4))


def test_nothing_depends_on_the_card_against_a_player_who_always_folds(table):
    # A bet takes the ante with any card. With K a check wins it too, and a tie is no dependence.
    assert table.reading(PASSIVE, KUHN) == table.Reading(6, 0, 0, 0, 0, 0)


def test_a_deterministic_policy_may_leave_contingent_decisions(table):
    # Against who always bets, a check is best with J and loses nothing with Q and K; an answer to a bet depends.
    found = table.reading(BOLD, KUHN)
    assert found == table.Reading(6, 0, 0, 0.5, pytest.approx(0.5), 0)


def test_a_policy_that_plays_by_its_card(table):
    # Facing a bet only J and Q are left, which both fold; the king has bet or called.
    found = table.reading(HONEST, KUHN)
    assert found.positions == 3 + 3 + 2 + 2
    assert found.varied == pytest.approx(0.6)
    assert found.varied_by_reach == pytest.approx((1 + 2 / 3) / (1 + 2 / 3 + 1 / 3 + 1 / 3))


def test_positions_are_reached_in_one_game_of_a_hundred(table):
    assert table.reading(opened_with(0.98), KUHN).positions == 6, "each card checks in 2/3 of a game of 100"
    assert table.reading(opened_with(0.96), KUHN).positions == 12


def test_policies_differ_from_a_tenth_on(table):
    def with_king(bet):
        return table.reading(UNIFORM | {"K-:": {"check": 1 - bet, "bet": bet}}, KUHN)

    assert with_king(0.59).varied == 0
    assert with_king(0.61).varied == 0.25, "the first decision with all three cards"
    assert with_king(0.61).varied_by_reach == pytest.approx(1 / (2 + (0.5 + 0.5 + 0.39) / 3 / 2))


def test_uniform_play_in_leduc_poker(table):
    policy = {state.information_state(player): uniform_policy(state, player)
              for state, player in information_states(load_game(LEDUC))}  # fmt: skip
    found = table.reading(policy, LEDUC)
    assert found.positions == 18 + 30 + 24, "first round; second round before and after player 0 has acted"
    assert found.varied == 0
    assert 0 < found.contingent_by_reach < 1


def test_siblings_share_the_public_card(table):
    tree = build_tree(load_game(LEDUC))
    found = table.siblings_of(tree, np.ones(len(tree.infosets)))
    names = {tree.infosets[one].name: {tree.infosets[other].name for other in others} for one, others in found.items()}
    assert len(names) == 288
    assert names["J-:-:raise"] == {"Q-:-:raise", "K-:-:raise"}
    assert names["J-:Q:call,call/raise"] == {"Q-:Q:call,call/raise", "K-:Q:call,call/raise"}


def test_what_an_action_gives_away(table):
    tree = build_tree(load_game(KUHN))
    slots = {(infoset.name, action): infoset.first_slot + index
             for infoset in tree.infosets for index, action in enumerate(infoset.actions)}  # fmt: skip
    numbers = {infoset.name: number for number, infoset in enumerate(tree.infosets)}
    half_A = np.full(len(tree.infoset_A), 0.5)
    reach_N = tree.reach(tree.edge_weights(half_A))
    value_A, loss_A = table.action_values(tree, half_A, reach_N), table.losses(tree, half_A, reach_N)
    assert value_A[slots["Q-:", "check"]] == pytest.approx(-0.25), "0 after a check, -1/2 after a bet"
    assert value_A[slots["K-:bet", "call"]] == pytest.approx(2), "to player 1"
    assert loss_A[slots["Q-:", "check"]] == pytest.approx(0.5), "later answers are the best ones: 0 instead of 1/2"
    assert loss_A[slots["K-:bet", "fold"]] == pytest.approx(3)
    assert loss_A[slots["J-:bet", "fold"]] == 0
    assert table.loss_of_one_action(tree, loss_A, numbers["J-:bet"], numbers["K-:bet"]) == pytest.approx(1)
    assert table.variation(tree, half_A, numbers["J-:bet"], numbers["K-:bet"]) == 0
    half_A[[slots["K-:bet", "call"], slots["K-:bet", "fold"]]] = 0.9, 0.1
    assert table.variation(tree, half_A, numbers["J-:bet"], numbers["K-:bet"]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("policies", "exploitability", "expected"),
    [
        ([UNIFORM, UNIFORM], [0.4, 0.4], "neither"),
        ([UNIFORM, BOLD], [0.4, 0.3], "collapsed alone"),
        ([UNIFORM, PASSIVE], [0.4, 0.3], "both"),
        ([PASSIVE, PASSIVE], [0.4, 0.3], "contingency lost alone"),
        ([UNIFORM, PASSIVE], [0.4, 0.2], "learned"),
    ],
)
def test_outcomes(table, tmp_path, policies, exploitability, expected):
    assert table.outcome(make_run(tmp_path, policies, exploitability=exploitability), KUHN) == expected


def test_numbers_of_a_run(table, tmp_path):
    run = make_run(tmp_path, [UNIFORM, BOLD], exploitability=[0.4, 0.3])
    rows = [{"step": step, "credit/zero_advantage": float(step == 12)} for step in range(1, 13)]
    rows[-1]["evaluation/kuhn_poker/exploitability"] = 0.3
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {title: number(run) for title, number in table.columns(KUHN).items()}
    assert columns["exploitability"] == 0.3
    assert columns["exploitability, less the start"] == pytest.approx(-0.1)
    assert columns["what it wins of random play"] == pytest.approx(0.375), "1/2 and 1/4"
    assert columns["zero advantages, last ten steps"] == pytest.approx(0.1)
    assert columns["illegal moves, last ten steps"] is None, "a metric that the run does not have"
    assert columns["positions reached"] == 6
    assert columns["best action depends on the card"] == 0.5
    assert table.over_steps(run, KUHN, "advantage") == {0: pytest.approx(0.5), 10: 0}


def test_tables_of_runs(table, tmp_path):
    found = made_up(tmp_path, {"kuhn_none": {14: [], 42: []}, "kuhn_start": {14: None}})
    for one, policy in zip(found.runs("kuhn_none"), (BOLD, PASSIVE), strict=True):
        make_run(one, [UNIFORM, policy], exploitability=[0.4, 0.4])
    made = {one.name: one for one in load_tables(FOLDER, found)}
    counts = {(entry.row, entry.column): entry.value for entry in made["kuhn_outcomes"].entries}
    assert [counts["kuhn_none", kind] for kind in table.OUTCOMES] == [0, 0, 1, 0, 1]
    assert counts["kuhn_start", "both"] is None
    cells = {(entry.row, entry.column): (entry.value, entry.n) for entry in made["kuhn_arms"].entries}
    assert cells["kuhn_none", "best action depends, by reach"] == (pytest.approx(0.25), 2)
    lines = {(line.panel, line.label): [*line.y] for line in made["kuhn_contingent_by_reach"].lines}
    assert lines["seed 42", "kuhn_none"] == [pytest.approx(1 / 3), 0]


def test_nothing_done_gives_every_table():
    made = load_tables(FOLDER, Results(scale="laptop", seeds=(14,), jobs=[]))
    parts = ("arms", "differences", "outcomes", "exploitability", "contingent_by_reach", "varied_by_reach", "advantage")
    assert [one.name for one in made] == [f"{game}_{part}" for game in ("kuhn", "leduc") for part in parts]
    assert {entry.value for one in made if isinstance(one, Table) for entry in one.entries} == {None}


def test_arms_differ_in_game_and_pull_alone(table):
    jobs = jobs_of(load_sweep(FOLDER), "laptop", (14,))
    recipes = {job.name: load_recipe(str(FOLDER / "poker.toml"), list(job.words)[3::2]) for job in jobs}
    chosen = {name: (recipe.evaluation.exploitability, recipe.loss.kl_coefficient) for name, recipe in recipes.items()}
    assert chosen == {
        f"{name}_{pull}": ([game], strength)
        for name, game in table.GAMES.items() for pull, strength in zip(table.PULLS, (0, 0.15), strict=True)
    }  # fmt: skip
    assert all([*recipe.selfplay.games] == recipe.evaluation.exploitability for recipe in recipes.values())
    for name in table.GAMES:
        pair = [recipes[f"{name}_{pull}"].model_dump_json(exclude={"loss": {"kl_coefficient"}}) for pull in table.PULLS]
        assert pair[0] == pair[1]
    recipe = recipes["kuhn_none"]
    assert recipe.run.steps % recipe.evaluation.every == 0
    assert recipe.run.steps > table.WINDOW
