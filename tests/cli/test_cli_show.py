"""`spiral show`: a run at a glance, from files made up here."""

from __future__ import annotations

import json
import math
import shutil
import tomllib

import pytest
import tomli_w

from commands import refused, spiral
from made_up_run import made_run
from spiral.cli.show import BARS, chart
from spiral.runs.lock import run_held, run_owner

HOSTILE = "<script>alert(1)</script>\x1b[2J\x1b]0;owned\x07 \u202eright to left\u2066 zero\u200bwidth [red]markup[/red]"
ACTING = "\x1b\x07\u202e\u2066\u200b"


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "mine")


def test_a_run_at_a_glance(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    result = spiral("show", str(run))
    assert (result.status, result.err) == (0, "")
    lines = [line.rstrip() for line in result.out.splitlines()]
    assert lines[0] == str(run)
    assert lines[1] == "stopped, step 12 of 20; 0:24 of training; nano on tictactoe"
    assert (
        "thinking collapse     fine   10% of thoughts are empty (10% at first), 50 tokens long (50 at first)" in lines
    )
    assert "seat collapse         fine   all 2 players, 40% to 70% of games lost" in lines
    assert "illegal moves         bad    player 1 of tictactoe: 60.0% of its moves are illegal" in lines
    assert any(line.startswith("entropy") and "█▄▃▂▂▁▁▁" in line and "0.0833 to 1" in line for line in lines)
    assert any(line.startswith("tictactoe against random win or draw   ▁█   ") for line in lines)
    assert "Evaluation after step 12, and before training (step 0):" in lines
    assert "Game 1 of step 12:" in lines  # the one that was played to its end
    assert "Result: player 0 won (returns: player 0 +1, player 1 -1)." in lines
    assert lines[-1].endswith("spiral show RUN --step 12 --episode 1")


def test_json_is_one_object_with_everything(run):
    found = spiral("show", str(run), "--json").json
    assert (found["state"], found["step"], found["steps"], found["seconds"]) == ("stopped", 12, 20, 24.0)
    assert found["seconds_left"] is None
    assert [light["state"] for light in found["health"] if light["name"] == "illegal moves"] == ["fine", "bad"]
    assert found["metrics"]["loss/entropy"] == pytest.approx(1 / 12)
    assert [evaluation["step"] for evaluation in found["evaluations"]] == [0, 12]
    assert (found["game"]["episode"], found["game"]["returns"]) == (1, [1.0, -1.0])
    assert found["game"]["text"].startswith("One game of tictactoe")
    assert found["notices"] == []


def test_a_chosen_game_is_shown_whole(run):
    out = spiral("show", str(run), "--step", "12", "--episode", "0").out
    assert "Game 0 of step 12:" in out
    assert "You are playing tic-tac-toe." in out
    assert "The whole game" not in out
    assert refused("show", str(run), "--episode", "2") == "step 12 has 2 games; expected a number from 0 to 1"
    assert refused("show", str(run), "--step", "3").endswith("kept no games of step 3; it has those of steps 12")


def test_a_run_that_trains_says_how_long_it_will_take(run):
    assert run_owner(run) is None
    with run_held(run):
        assert run_owner(run).pid > 0
        found = spiral("show", str(run), "--json").json
        assert (found["state"], found["seconds_left"]) == ("training", 16.0)
        assert "training, step 12 of 20; 0:24 of training; about 0:16 left" in spiral("show", str(run)).out
    assert run_owner(run) is None


def test_hostile_text_is_inert(tmp_path, monkeypatch):
    run = made_run(tmp_path / "r\x1b[31m\u202e", reply=f"{HOSTILE}\n{'<b>' * 300_000}")
    for columns in ("200", "50"):
        monkeypatch.setenv("COLUMNS", columns)
        for more in ((), ("--episode", "1")):
            result = spiral("show", str(run), *more)
            assert result.status == 0
            assert not set(result.out) & set(ACTING)
            assert "\\u001b[2J" in result.out
            assert len(result.out) < 100_000
    assert "[red]markup[/red]" in "".join(result.out.split("\n"))
    text = spiral("show", str(run), "--json").json["game"]["text"]
    assert HOSTILE in text, "files and JSON keep the text as it is"


def test_no_colours_where_nobody_sees_them(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert "\x1b" not in spiral("show", str(run)).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;31mbad" in spiral("show", str(run)).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;31m" not in spiral("show", str(run)).out


def test_narrow_terminals_get_lines(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = spiral("show", str(run)).out
    assert max(len(line) for line in out.split("Evaluation after")[0].splitlines()[1:]) <= 40
    assert "illegal moves: bad, player 1 of" in out
    assert "entropy\n  █▄▃▂▂▁▁▁▁▁▁▁  1, last 0.0833\n" in out


def test_damaged_files_are_left_out_with_a_notice(run):
    later = run / "episodes" / "step-000013.parquet"
    shutil.copy(run / "episodes" / "step-000012.parquet", later)
    later.write_bytes(later.read_bytes()[:500])
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 13, "loss/entr')  # being written
    (run / "config.toml").write_text("[run", encoding="utf-8")
    found = spiral("show", str(run), "--json").json
    assert (found["step"], found["steps"], found["game"]["step"]) == (12, None, 12)
    first, second = found["notices"]
    assert "config.toml cannot be read" in first
    assert "step-000013.parquet" in second
    assert "Note: " in spiral("show", str(run)).out
    assert "cannot read" in refused("show", str(run), "--step", "13")


def test_a_run_without_games_or_steps(tmp_path):
    run = made_run(tmp_path / "mine")
    shutil.rmtree(run / "episodes")
    shutil.rmtree(run / "evaluation")
    (run / "metrics.jsonl").write_text("", encoding="utf-8")
    result = spiral("show", str(run))
    assert result.status == 0
    assert "stopped, step 0 of 20; nano on tictactoe" in result.out
    assert spiral("show", str(run), "--json").json["game"] is None
    assert "no run at" in refused("show", str(tmp_path / "none"))
    assert "no run at" in refused("show", str(tmp_path))


def test_a_chart_is_drawn_from_its_lowest_to_its_highest_value():
    assert chart([0, 1, 2, 3, 4, 5, 6, 7], 8) == BARS
    assert chart([3.0, 3.0], 8) == "▄▄"
    assert chart([0, 0, 1, 1], 2) == "▁█"
    assert len(chart(list(range(1000)), 40)) == 40
    assert chart([-1e300, 1e300], 8) == "▁█"


def config_with(section, name, value):
    """Sets a setting of a run's recipe, whatever its type."""

    def change(run):
        config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
        config[section][name] = value
        (run / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")

    return change


def metrics_with(**values):
    """Sets metrics of every step, `a__b` for a/b."""

    def change(run):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row.update({name.replace("__", "/"): value for name, value in values.items()})
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    return change


def arena_with(**values):
    """Sets what an evaluation found; "gone" removes it."""

    def change(run):
        for file in (run / "evaluation").glob("*.json"):
            found = json.loads(file.read_text(encoding="utf-8"))
            for row in found["arena"]:
                row.update(values)
                for name in [name for name, value in row.items() if value == "gone"]:
                    del row[name]
            file.write_text(json.dumps(found), encoding="utf-8")

    return change


NO_NUMBER = {"loss__entropy": [1], "time__step_s": {"a": 1}, "guard__gap": "x", "selfplay__tictactoe__games": "many"}


@pytest.mark.parametrize(
    "change",
    [
        config_with("selfplay", "games", 3),
        config_with("selfplay", "games", [1, [2]]),
        config_with("selfplay", "opponents", 3),
        config_with("selfplay", "opponents", [1, {"a": 1}]),
        config_with("run", "steps", "many"),
        config_with("run", "guards", [1, "seats"]),
        metrics_with(time__step_s=1e308, rollout__turns=1e308, selfplay__tictactoe__games=1e308),
        metrics_with(selfplay__tictactoe__games=math.nan, selfplay__tictactoe__player0__illegal=math.inf),
        metrics_with(**NO_NUMBER),
        arena_with(not_lost="gone", not_lost_low="gone", not_lost_high="gone"),
        arena_with(win_low=None, win_high=None, not_lost_low=None),
        arena_with(opponent=None),
        arena_with(win="0.5"),
    ],
    ids=range(13),
)
def test_what_others_wrote_into_a_run_never_ends_in_a_fault(change, run):
    change(run)
    result = spiral("show", str(run))
    assert (result.status, "bug" in result.err) == (0, False), result.err
    assert "step 12" in result.out
    assert spiral("show", str(run), "--json").json["step"] == 12


def test_a_directory_in_the_place_of_a_file(run):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    assert refused("show", str(run)).endswith("is a directory, where a run keeps a file of that name; move it away")
