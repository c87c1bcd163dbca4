"""What a run says of its past selves: in its plan, and from its last checkpoint."""

from __future__ import annotations

import json

import pytest

from spiral.models.shapes import model_config
from spiral.plan import describe
from spiral.plan.fit import make_plan
from spiral.rollout.matchmaking import SelfPlayConfig
from spiral.rollout.opponents.loading import most_past_selves
from spiral.runs.past_selves import past_self_standings
from spiral.runs.recipe import load_recipe

MIB = 1024


def test_as_many_past_selves_are_planned_as_are_on_disk_at_once():
    config = SelfPlayConfig(
        opponents={"past": 1.0},
        opponent_sampler="past_selves",
        opponent_options={"save_every": 2, "window": 3, "swap_every": 1},
    )
    assert most_past_selves(config, 20, 2) == 4, "the newest is written before the oldest goes"
    assert most_past_selves(config, 20, 10) == 8, "those that left the window go with the next checkpoint"
    assert most_past_selves(config, 3, 10) == 2
    assert most_past_selves(SelfPlayConfig(), 20, 2) == 0


def test_the_plan_counts_the_weights_that_wait_and_the_disk():
    plans = [
        make_plan(load_recipe("nano-past-selves", settings), model_config("nano"))
        for settings in ((), ("selfplay.opponent_sampler=fixed", "selfplay.opponents={mirror=1}",
                              "selfplay.opponent_options={}"))
    ]  # fmt: skip
    size = 4 * plans[0].parameters / 2**30
    assert plans[0].past_self_gib == pytest.approx(2 * size)
    assert plans[1].past_self_gib == 0
    assert {item.name for item in plans[0].items} - {item.name for item in plans[1].items} == {
        "the policy's weights while others play in its engine",
        "a past self or an opponent that is read from disk",
    }
    lines = describe(plans[0])
    assert any(f"11 past selves of {size * MIB:.2f}" in line for line in lines), lines
    assert any(line.startswith("Past selves, and opponents that share it, play with the policy") for line in lines)


@pytest.fixture
def run(tmp_path):
    """Writes the state of the last checkpoint."""

    def write(opponents):
        checkpoint = tmp_path / "checkpoints" / "step-000012"
        checkpoint.mkdir(parents=True, exist_ok=True)
        text = opponents if isinstance(opponents, str) else json.dumps({"version": 12, "opponents": opponents})
        (checkpoint / "state.json").write_text(text)
        return tmp_path

    return write


def test_standings_are_those_of_the_last_checkpoint(run):
    rows = {"0": {}, "6": {"0": [100, 75.0, 50.0]}, "12": {"6": [40, 30.0, 20.0], "0": [20, 18.0, 9.0]}}
    saved = {"rows": rows, "recent": {}, "anchor": 0.0}
    state = {"past_selves": [6, 12], "drawn": [1, 6], "results": {"kuhn_poker": saved}}
    (found,) = past_self_standings(run(state))
    assert (found.game, found.step) == ("kuhn_poker", 12)
    assert [(past.step, past.plays, past.games) for past in found.past_selves] == [
        (0, False, 120),
        (6, True, 40),
        (12, True, 0),
    ]
    assert [past.win_rate for past in found.past_selves] == [pytest.approx(93 / 120), 0.75, None]
    assert 0 == found.past_selves[0].elo < found.past_selves[1].elo < found.past_selves[2].elo == found.elo
    assert found.payoffs[0] == {"row": "6", "column": "0", "games": 100, "wins": 75.0, "payoff": 50.0}
    assert json.loads(json.dumps(found.to_json()))["elo"] == found.elo


def test_other_samplers_have_no_standings(run):
    assert past_self_standings(run({"lost": {"random": 1}})) == []
    assert past_self_standings(run({})) == []


@pytest.mark.parametrize(
    "state",
    [
        "not json",
        "[]",
        {"past_selves": ["x"], "results": {}},
        {"past_selves": [1], "results": {"kuhn_poker": {"rows": {"\x1b[31m": {"a": [1]}}}}},
        {"past_selves": [1], "results": []},
    ],
)
def test_a_damaged_state_is_said_to_be_so(run, state):
    with pytest.raises(ValueError, match=r"state\.json says nothing readable of the past selves"):
        past_self_standings(run(state))
