"""Health lights: each turns at its threshold, and says why it cannot be judged."""

from __future__ import annotations

import json
import math

import pytest

from spiral.core.metrics import Matchup
from spiral.runs.health import SEVERITY, Light, health

GAMES = Matchup(game="tictactoe")


def rows_of(steps, **changes):
    """Steps of a healthy run of tic-tac-toe, with some metrics changed in the last half."""
    healthy = {
        "rollout/turns": 400.0,
        "thinking/length": 100.0,
        "thinking/empty": 0.1,
        "sampler/gap_mean": 0.01,
        "sampler/gap_warning": 0.0,
        GAMES.key("games"): 64.0,
        GAMES.key("draw"): 0.1,
    }
    for player, win in ((0, 0.55), (1, 0.35)):
        healthy |= {
            GAMES.key("return", player): win - 0.45,
            GAMES.key("win", player): win,
            GAMES.key("illegal", player): 0.02,
            GAMES.key("thinking_length", player): 100.0,
        }
    half = steps // 2
    return [{"step": step + 1, **healthy, **(changes if step >= half else {})} for step in range(steps)]


def lights_of(rows, trained=(GAMES,)):
    """State by name and player."""
    return {(light.name, light.player): light.state for light in health(rows, trained)}


def test_a_healthy_run_has_green_lights_in_a_fixed_order():
    lights = health(rows_of(20), [GAMES])
    assert [(light.name, light.player) for light in lights] == [
        ("thinking collapse", None),
        ("thinking collapse", 0),
        ("thinking collapse", 1),
        ("seat collapse", 0),
        ("seat collapse", 1),
        ("illegal moves", 0),
        ("illegal moves", 1),
        ("sampler-learner gap", None),
        ("staleness", None),
    ]
    assert {light.state for light in lights} == {"fine"}
    assert lights[3].reading == "it loses 35% of its games, mean return +0.10"
    assert lights[3].about == "player 0 of tictactoe"
    assert all(light.rule.endswith(".") and any(c.isdigit() for c in light.rule) for light in lights[:-2])
    assert json.loads(json.dumps(lights[5].to_json())) == {
        "name": "illegal moves",
        "state": "fine",
        "value": pytest.approx(0.02),
        "reading": "2.0% of its moves are illegal",
        "rule": "Yellow when more than 20% of the player's moves are illegal, red at 50% (95% confidence).",
        "game": "tictactoe",
        "player": 0,
        "opponent": None,
    }


@pytest.mark.parametrize(
    ("changes", "light", "state"),
    [
        ({"thinking/length": 40.0}, ("thinking collapse", None), "fine"),  # as far as the paper's run
        ({"thinking/length": 24.0}, ("thinking collapse", None), "warn"),
        ({"thinking/length": 9.0}, ("thinking collapse", None), "bad"),
        ({"thinking/empty": 0.34}, ("thinking collapse", None), "fine"),
        ({"thinking/empty": 0.36}, ("thinking collapse", None), "warn"),
        ({"thinking/empty": 0.7}, ("thinking collapse", None), "bad"),
        ({GAMES.key("thinking_length", 1): 2.0}, ("thinking collapse", 1), "bad"),
        ({GAMES.key("win", 1): 0.0, GAMES.key("draw"): 0.05}, ("seat collapse", 1), "warn"),
        ({GAMES.key("win", 1): 0.0, GAMES.key("draw"): 0.11}, ("seat collapse", 1), "fine"),
        ({GAMES.key("return", 1): -0.97}, ("seat collapse", 1), "bad"),
        ({GAMES.key("illegal", 0): 0.2}, ("illegal moves", 0), "fine"),
        ({GAMES.key("illegal", 0): 0.3}, ("illegal moves", 0), "warn"),
        ({GAMES.key("illegal", 0): 0.6}, ("illegal moves", 0), "bad"),
        ({"sampler/gap_warning": 1.0, "sampler/gap_mean": 0.2}, ("sampler-learner gap", None), "bad"),
        ({"cluster/staleness": 1.0, "cluster/dropped_turns": 0.0}, ("staleness", None), "fine"),
        ({"cluster/staleness": 4.5, "cluster/dropped_turns": 0.0}, ("staleness", None), "warn"),
        ({"cluster/staleness": 9.0, "cluster/dropped_turns": 0.0}, ("staleness", None), "bad"),
        (
            {"cluster/staleness": 1.0, "cluster/dropped_turns": 100.0, "credit/samples": 400.0},
            ("staleness", None),
            "warn",
        ),
    ],
)
def test_a_light_turns_at_its_threshold_and_no_other_does(changes, light, state):
    lights = lights_of(rows_of(40, **changes))
    assert lights.pop(light) == state
    assert set(lights.values()) == {"fine"}


def test_one_step_over_the_gap_limit_is_a_warning():
    rows = rows_of(40)
    rows[-2] |= {"sampler/gap_warning": 1.0, "sampler/gap_mean": 0.09}
    (gap,) = [light for light in health(rows) if light.name == "sampler-learner gap"]
    assert (gap.state, gap.value) == ("warn", pytest.approx(0.026))
    assert gap.reading == "0.026 nats a token, over the limit in 1 of 5 steps"


def test_only_the_last_steps_count():
    rows = rows_of(100, **{GAMES.key("illegal", 0): 0.9})
    assert lights_of(rows)["illegal moves", 0] == "bad"
    assert lights_of([*rows, *rows_of(12)])["illegal moves", 0] == "fine"


def test_what_cannot_be_judged_is_unknown_and_says_why():
    def reading(name, rows, player=None):
        (found,) = [light for light in health(rows, [GAMES]) if (light.name, light.player) == (name, player)]
        assert (found.state, found.value) == ("unknown", None)
        return found.reading

    assert reading("illegal moves", rows_of(3), 0) == "3 of 5 steps and 192 of 100 games"
    few = [{**row, GAMES.key("games"): 2.0} for row in rows_of(20)]
    assert reading("seat collapse", few, 1) == "5 of 5 steps and 10 of 100 games"
    assert reading("thinking collapse", rows_of(4)) == "4 of 5 steps"
    short = [{**row, "rollout/turns": 8.0, "thinking/length": 100.0 / row["step"]} for row in rows_of(20)]
    assert reading("thinking collapse", short) == "40 of 100 replies"
    lengths = {GAMES.key("games"): 2.0, GAMES.key("thinking_length", 0): 1.0}
    assert reading("thinking collapse", rows_of(20, **lengths), 0) == "5 of 5 steps and 10 of 100 games"
    at_once = [{**row, "thinking/length": 0.0, "thinking/empty": 1.0} for row in rows_of(20)]
    assert reading("thinking collapse", at_once) == "there were no thoughts in the first steps"
    assert ("thinking collapse", 0) not in lights_of(at_once)
    for name in ("thinking collapse", "sampler-learner gap", "staleness"):
        assert "metrics say nothing" in reading(name, [])
        assert "metrics say nothing" in reading(name, [{"step": 1, "loss/nll": 0.5}])  # fine-tuning


def test_damaged_numbers_are_left_out():
    rows = rows_of(20)
    for row in rows[-3:]:
        row |= {"thinking/length": math.nan, "sampler/gap_mean": None, GAMES.key("illegal", 0): "x"}
    assert set(lights_of(rows).values()) == {"fine"}
    nothing = [{**row, GAMES.key("return", 0): math.nan} for row in rows]
    assert ("seat collapse", 0) not in lights_of(nothing)


def test_lights_of_games_against_an_opponent_and_of_games_of_one_player():
    against = Matchup(game="tictactoe", opponent="minimax")
    row = {
        against.key("games"): 64.0,
        against.key("draw"): 0.0,
        against.key("return", 0): -0.99,
        against.key("win", 0): 0.0,
        against.key("illegal", 0): 0.0,
    }
    lights = {light.name: light for light in health([row] * 10, [GAMES, against])}
    assert lights["seat collapse"].state == "bad"
    assert lights["seat collapse"].about == "player 0 of tictactoe against minimax"
    alone = Matchup(game="problems/gsm8k")
    row = {key.replace("against/tictactoe/minimax", "selfplay/problems.gsm8k"): value for key, value in row.items()}
    names = [light.name for light in health([row] * 10, [alone])]
    assert names == ["thinking collapse", "illegal moves", "sampler-learner gap", "staleness"]


def test_the_worst_state_comes_first():
    assert SEVERITY == ("bad", "warn", "fine", "unknown")
    assert Light(name="x", state="fine", value=1, reading="", rule="").about == "the run"
