"""Where results go: one directory, nothing left behind by failures, and paths shown consistently."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commands import spiral
from spiral.cli.output import shown_path
from spiral.evaluation.results import result_directory
from spiral.models.loading import NANO_DIRECTORY

DOWN = 'down = {base_url = "http://localhost:1/v1", model = "m", retries = 0}\n'


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIRAL_RESULTS")


@pytest.mark.parametrize(
    "arguments",
    [
        ("exploitability", "random", "--game", "connect_four"),
        ("exploitability", "nano", "--game", "simple_negotiation"),
        ("evaluate", "minimax", "--game", "kuhn_poker", "--opponent", "random"),
        ("evaluate", "random", "--game", "kuhn_poker", "--opponent", "endpoint:down", "--episodes", "2"),
        ("compare", "random", "equilibrium", "--game", "kuhn_poker", "--opponent", "endpoint:down", "--episodes", "2"),
        ("tournament", "random", "minimax", "--game", "kuhn_poker", "--episodes", "2"),
        ("benchmark", "nano", "--task", "gsm8k", "--data", "none.jsonl"),
    ],
)
def test_what_fails_leaves_nothing_behind(arguments, tmp_path):
    (tmp_path / "endpoints.toml").write_text(DOWN)
    assert spiral(*arguments).status in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["endpoints.toml"]


def test_what_was_kept_before_stays():
    results = result_directory("evaluate", "x", {}, model="random")
    with results.locked():
        results.append_item({"a": 1})
    with pytest.raises(KeyboardInterrupt), results.locked():
        raise KeyboardInterrupt
    assert results.read_items() == [{"a": 1}]
    Path("mine").mkdir()
    other = result_directory("evaluate", "y", {}, model="random", out=Path("mine"))
    with pytest.raises(ZeroDivisionError), other.locked():
        raise ZeroDivisionError
    assert list(Path("mine").iterdir()) == [], "a directory that was given stays"
    with other.locked():
        shutil.rmtree(other.path)  # as another process that failed may have done
        other.write({"b": 2}, items=[{"c": 3}])
    assert other.read_items() == [{"c": 3}]


def test_everything_of_a_run_is_in_its_results(tmp_path):
    run = tmp_path / "run"
    for step in ("step-000000", "step-000003"):
        shutil.copytree(NANO_DIRECTORY, run / "checkpoints" / step)
    (run / "checkpoints" / "latest").symlink_to("step-000003")
    (run / "config.toml").write_text("[sampling]\nmax_new_tokens = 8\n")
    few = ("--game", "kuhn_poker", "--episodes", "2")
    said = [
        spiral("evaluate", "run", *few, "--opponent", "random"),
        spiral("exploitability", "run", "--game", "kuhn_poker"),
        spiral("tournament", "run", *few),
        spiral("compare", "run", "random", *few),
    ]
    assert [result.status for result in said] == [0, 0, 0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "results"}, "random play comes from no run"
    kinds = {path.name.partition("-")[0] for path in (run / "results").iterdir()}
    assert kinds == {"evaluate", "exploitability", "tournament", "compare"}
    for result in said:
        (line,) = [line for line in result.out.splitlines() if "results/" in line]
        assert line.partition(": ")[2].startswith("run/results/"), "relative where it lies below"


def test_paths_are_shown_consistently(tmp_path):
    assert shown_path(tmp_path / "results" / "x") == "results/x"
    assert shown_path("results/x") == "results/x"
    assert shown_path(tmp_path) == "."
    assert shown_path(tmp_path.parent / "other") == str(tmp_path.parent / "other")
    assert shown_path("../other") == "../other"
    assert shown_path("a/..b/c") == "a/..b/c"
    assert shown_path("x\x1b[2J") == r"x\u001b[2J"


def test_results_are_left_out_of_the_repository():
    lines = (Path(__file__).parents[2] / ".gitignore").read_text().splitlines()
    assert {"/results/", "/runs/"} <= set(lines)
