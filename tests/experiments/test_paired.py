"""Arms by numbers of their runs, and less a control with the same seed."""

import json

import pytest

from arm_runs import made_up
from spiral.experiments.paired import by_seed, by_step, compare, curves
from spiral.experiments.tables import Line
from spiral.runs.directory import read_metrics


def last(run):
    """The number of the last step; None where it is not there."""
    return read_metrics(run)[-1].get("number")


def runs(*numbers):
    """One row a run, by seed."""
    return {seed: None if number is None else [{"step": 1, "number": number}]
            for seed, number in zip((14, 42, 100), numbers, strict=True)}  # fmt: skip


def shown(entries):
    return [(entry.row, entry.column, round(entry.value, 6), entry.n) for entry in entries]


def test_every_arm_less_one_control(tmp_path):
    found = made_up(
        tmp_path, {"real": runs(0.3, 0.45, 0.75), "coin": runs(0.2, 0.4, 0.6), "late": runs(0.5, 0.5, None)}
    )
    arms, differences = compare(found, ("real", "coin", "late"), "coin", {"last": last}, "Wins")
    assert (arms.name, differences.name, differences.title) == (
        "arms", "differences", "Wins, less coin with the same seed",
    )  # fmt: skip
    assert shown(arms.entries) == [("real", "last", 0.5, 3), ("coin", "last", 0.4, 3), ("late", "last", 0.5, 2)]
    assert shown(differences.entries) == [("real - coin", "last", 0.1, 3), ("late - coin", "last", 0.2, 2)]
    real = differences.entries[0]
    assert real.high - real.value == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=1e-3), "over pairs, not over arms"


def test_each_arm_less_its_own_control(tmp_path):
    found = made_up(tmp_path, {"a": runs(1, 2, 3), "b": runs(2, 3, 4), "c": runs(5, 6, 7)})
    columns = {"last": last, "twice": lambda run: 2 * last(run)}
    arms, differences = compare(found, ("a", "b", "c"), {"b": "a", "c": "b"}, columns, "Wins", prefix="play_")
    assert [table.name for table in (arms, differences)] == ["play_arms", "play_differences"]
    assert shown(differences.entries) == [
        ("b - a", "last", 1, 3), ("c - b", "last", 3, 3), ("b - a", "twice", 2, 3), ("c - b", "twice", 6, 3),
    ]  # fmt: skip
    assert differences.title == "Wins, less the control with the same seed"


def test_runs_without_the_number_are_left_out(tmp_path):
    arms = {"a": {14: [{"step": 1, "number": 1.0}], 42: [{"step": 1}]}, "b": {14: [{"step": 1}], 42: [{"step": 1}]}}
    values, differences = compare(made_up(tmp_path, arms), ("a", "b"), "b", {"last": last}, "Wins")
    assert [(entry.value, entry.n) for entry in values.entries] == [(1.0, 1), (None, None)]
    assert [entry.value for entry in differences.entries] == [None]


def test_a_metric_by_step_begins_before_training(tmp_path):
    found = made_up(tmp_path, {"a": {14: [{"step": 1}, {"step": 2, "evaluation/kuhn_poker/exploitability": 0.25}]}})
    (run,) = found.runs("a")
    (run / "evaluation").mkdir()
    for step, value in ((0, 0.5), (2, 0.25)):
        theory = [{"game": "kuhn_poker", "exploitability": value}]
        results = json.dumps({"arena": [], "exploitability": theory})
        (run / f"evaluation/step-{step:06d}.json").write_text(results)
    assert by_step(run, "evaluation/kuhn_poker/exploitability") == {0: 0.5, 2: 0.25}


@pytest.mark.parametrize("control", ["none", {"a": "none"}, {"none": "a"}])
def test_a_control_that_is_no_arm(control, tmp_path):
    with pytest.raises(ValueError, match="the arm 'none' is none of the rows; expected one of a, b"):
        compare(made_up(tmp_path, {}), ("a", "b"), control, {"last": last}, "Wins")


def test_a_panel_for_each_seed(tmp_path):
    found = made_up(tmp_path, {"a": runs(1, 2, None), "b": runs(3, None, None)})
    assert by_seed(found, "a", last) == {14: 1, 42: 2}
    drawn = curves(found, ("a", "b"), lambda run: {1: last(run)}, "Wins", name="wins")
    assert drawn.name == "wins"
    assert drawn.lines == [
        Line(panel="seed 14", label="a", x=[1], y=[1]),
        Line(panel="seed 42", label="a", x=[1], y=[2]),
        Line(panel="seed 14", label="b", x=[1], y=[3]),
    ]
