"""`spiral compare --group`: runs of several seeds, what is printed and kept, and groups that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from commands import refused, spiral, tiny_run

FEW = ("--game", "tictactoe", "--exploitability", "kuhn_poker", "--episodes", "4")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a recipe, and the directory that they are in."""
    root = tmp_path_factory.mktemp("seeds")
    short = {"evaluation__games": "[]", "evaluation__exploitability": "[]"}
    for seed in ("0", "1"):
        assert tiny_run(root / f"s{seed}", run__seed=seed, **short).status == 0
    return root


def test_runs_of_several_seeds(runs, monkeypatch, tmp_path):
    monkeypatch.chdir(runs)
    arguments = ("compare", "--group", "BASE=nano", "--group", "SPIRAL=s0,s1", *FEW, "--out", str(tmp_path))
    result = spiral(*arguments, "--json").json
    assert result["groups"] == {"BASE": ["nano"], "SPIRAL": ["s0", "s1"]}
    score, illegal, exploitability = result["rows"]
    assert score["measure"] == "tictactoe against random: score"
    assert (score["n"], len(score["a_runs"]), len(score["b_runs"])) == (2, 1, 2)
    assert score["b"] == pytest.approx(sum(score["b_runs"]) / 2)
    assert score["difference"] == pytest.approx(score["b"] - score["a"])
    assert illegal["better"] == "lower"
    assert (exploitability["kind"], exploitability["p_value"]) == ("theory", None)
    single = spiral("exploitability", "s1", "--game", "kuhn_poker", "--json").json
    assert exploitability["b_runs"][1] == pytest.approx(single["exploitability"])
    files = Path(result["files"])
    assert {"table.md", "table.csv", "result.json"} <= {file.name for file in files.iterdir()}
    assert json.loads((files / "result.json").read_text())["result"]["rows"] == result["rows"]
    said = spiral(*arguments).out
    assert "SPIRAL (2 runs)" in said
    assert "BASE (1 run)" in said
    assert "All models get the same prompt" in said


def test_groups_that_mix_what_may_not_be_mixed(runs, monkeypatch):
    monkeypatch.chdir(runs)
    shutil.copytree("s1", "other", symlinks=True)
    settings = Path("other/config.toml").read_text()
    Path("other/config.toml").write_text(settings.replace("\nlearning_rate = ", "\nlearning_rate = 1", 1))
    shutil.copytree("s0/checkpoints/step-000002", "moved")
    for group, words in {
        "X=s0,s0": "have the same seed, 0",
        "X=s0,other": "different settings: learner.learning_rate is",
        "X=s0,s1@1": "s0 is at step 2 and s1@1 at step 1; expected the same step of both, such as s1@2",
        "X=s0,minimax": "minimax does not lie in a run directory with its config.toml",
        "X=s0,random": "random does not lie in a run directory",
        "X=s0,moved": "moved does not lie in a run directory",
        "X=s0,": "got --group 'X=s0,'; expected two groups",
        "X": "got --group 'X'; expected two groups",
        "BASE=s0": "got 1 group; expected two groups",
        "X=nano": "nano is in both groups",
    }.items():
        assert words in refused("compare", "--group", "BASE=nano", "--group", group, *FEW), group
    both = ("compare", "s0", "--group", "BASE=nano", "--group", "X=s0,s1")
    assert "expected two models, or two groups" in refused(*both)
    assert "got fewer than two models" in refused("compare", "s0")
