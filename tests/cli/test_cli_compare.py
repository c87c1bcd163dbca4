"""`spiral compare` and `spiral benchmark`: what they print, keep, read again and refuse."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from commands import refused, spiral
from spiral.evaluation.results import RESULTS_VARIABLE
from spiral.models.loading import NANO_DIRECTORY
from spiral.policies import registry


@pytest.fixture(autouse=True)
def results_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIRAL_RESULTS")


def written(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_two_models_on_the_same_games_and_problems(tmp_path):
    data = written(tmp_path / "sums.jsonl", *({"question": f"{n}?", "answer": str(n), "id": str(n)} for n in range(4)))
    arguments = [
        *("compare", "nano", str(NANO_DIRECTORY), "--game", "kuhn_poker", "--episodes", "20", "--limit", "3"),
        *("--exploitability", "kuhn_poker", "--task", "math500", "--data", f"math500={data}", "--samples", "1"),
        *("--benchmark-tokens", "12"),
    ]
    result = spiral(*arguments, "--json")
    assert (result.status, result.err) == (0, "")
    rows = {row["measure"]: row for row in result.json["rows"]}
    assert list(rows) == [
        "kuhn_poker against random: score",
        "kuhn_poker against random: illegal",
        "kuhn_poker: exploitability (scored)",
        "math500: accuracy",
    ]
    # The same weights under two names: no difference anywhere.
    assert all(row["difference"] == 0 and not row["significant"] for row in rows.values())
    # That ten pairs of games agree leaves room for 3.841459 / 13.841459; what is exact leaves none.
    assert rows["kuhn_poker against random: score"]["difference_high"] == pytest.approx(0.277533, abs=1e-6)
    assert rows["kuhn_poker: exploitability (scored)"]["difference_high"] == 0
    assert [rows[name]["n"] for name in rows] == [10, 10, 12, 3]
    assert rows["kuhn_poker: exploitability (scored)"]["p_value"] is None
    files = Path(result.json["files"])
    assert len(list(csv.DictReader((files / "table.csv").read_text().splitlines()))) == 4
    assert (files / "table.md").read_text().count("\n") == 6
    assert json.loads((files / "result.json").read_text())["result"]["rows"] == result.json["rows"]
    # What is kept is read again.
    kept = {file: file.stat().st_mtime_ns for file in Path("results").glob("evaluate-*/episodes.parquet")}
    assert len(kept) == 2
    assert spiral(*arguments, "--json").json["rows"] == result.json["rows"]
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    assert spiral(*arguments, "--json", "--fresh").json["rows"] == result.json["rows"]
    assert all(file.stat().st_mtime_ns != before for file, before in kept.items())


def test_scripted_players_and_what_people_see():
    result = spiral("compare", "random", "minimax", "--game", "tictactoe", "--episodes", "40")
    assert result.status == 0
    line = next(line for line in result.out.splitlines() if "score" in line)
    assert "20   0.500" in line
    assert line.rstrip().endswith("*")
    assert "significant at 5% after Holm's correction" in result.out


def test_games_of_three_players_are_counted_by_deals_of_three():
    result = spiral("compare", "random", "random", "--game", "multi_kuhn", "--json").json
    assert [(row["n"], row["difference"]) for row in result["rows"]] == [(134, 0.0), (134, 0.0)]
    # Each of three random players wins equally often.
    assert 0.25 < result["rows"][0]["a"] < 0.6
    said = refused("compare", "random", "random", "--game", "multi_kuhn", "--episodes", "4")
    assert "got --episodes 4; expected a multiple of the 3 players of multi_kuhn" in said


def test_a_run_decides_what_is_evaluated(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(NANO_DIRECTORY, run / "checkpoints" / "step-000007")
    (run / "checkpoints" / "latest").symlink_to("step-000007")
    (run / "config.toml").write_text('[evaluation]\ngames = ["tictactoe"]\nopponents = ["minimax"]\n')
    (run / "config.toml").write_text("[sampling]\ntemperature = 0.5\n" + (run / "config.toml").read_text())
    noted = spiral("compare", "nano", str(run), "--episodes", "4", "--each-as-trained", "--json").json
    assert noted["notes"] == ["temperature is 1.0 for A and 0.5 for B in games, as each was trained"]
    kept = json.loads((Path(noted["files"]) / "result.json").read_text())["result"]
    assert (kept["notes"], kept["rows"]) == (noted["notes"], noted["rows"])
    cooled = ("compare", "nano", str(run), "--episodes", "4", "--temperature", "1", "--json")
    assert spiral(*cooled, "--each-as-trained").json["notes"] == []
    result = spiral("compare", "random", str(run), "--episodes", "4", "--json")
    assert [row["measure"] for row in result.json["rows"]] == [
        "tictactoe against minimax: score",
        "tictactoe against minimax: illegal",
    ]
    assert Path(result.json["files"]).parent == run / "results"
    # An opponent that cannot play a game is left out for it, as the run itself does.
    (run / "config.toml").write_text(
        '[evaluation]\ngames = ["tictactoe", "kuhn_poker"]\nopponents = ["random", "minimax(depth=1)"]\n'
    )
    result = spiral("compare", "random", str(run), "--episodes", "4", "--json")
    assert [row["measure"] for row in result.json["rows"][::2]] == [
        "tictactoe against random: score",
        "tictactoe against minimax(depth=1): score",
        "kuhn_poker against random: score",
    ]


def test_every_comparison_keeps_its_own_table(tmp_path):
    data = written(tmp_path / "sums.jsonl", *({"question": f"{n}?", "answer": str(n), "id": str(n)} for n in range(4)))
    arguments = ["compare", "nano", str(NANO_DIRECTORY), "--task", "gsm8k", "--data", f"gsm8k={data}", "--samples", "1"]
    arguments += ["--benchmark-tokens", "4", "--temperature", "0.5", "--json"]
    first, second, third = (spiral(*arguments, "--limit", limit).json for limit in ("2", "3", "2"))
    assert [found["rows"][0]["n"] for found in (first, second)] == [2, 3]
    assert first["files"] == third["files"] != second["files"]
    assert json.loads((Path(first["files"]) / "result.json").read_text())["result"]["rows"] == first["rows"]


def test_named_twice_counts_once_and_opponents_play_as_they_were_trained():
    twice = ("--game", "kuhn_poker", "--game", "kuhn_poker", "--opponent", "nano", "--opponent", "nano")
    result = spiral("compare", "random", "equilibrium", *twice, "--episodes", "4", "--temperature", "0.25", "--json")
    assert len(result.json["rows"]) == 2
    kept = [json.loads(file.read_text())["settings"] for file in Path("results").glob("evaluate-*/result.json")]
    assert [settings["opponent"]["sampling"]["temperature"] for settings in kept] == [1.0, 1.0]
    # The same games as `spiral evaluate` plays: kept in the same directory.
    found = spiral("evaluate", "random", "--game", "kuhn_poker", "--opponent", "nano", "--episodes", "4", "--json")
    assert len(list(Path("results").glob("evaluate-*"))) == 2
    assert Path(found.json["files"]).name.startswith("evaluate-kuhn_poker-random-against-nano-")


def test_games_that_could_not_be_played_are_no_fault_of_ours():
    Path("endpoints.toml").write_text('down = {base_url = "http://localhost:1/v1", model = "m", retries = 0}\n')
    result = spiral("compare", "random", "equilibrium", "--game", "kuhn_poker", "--opponent", "endpoint:down")
    assert result.status == 1
    assert "none of 400 games of kuhn_poker" in result.err
    assert "a bug in spiral" not in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "random", "minimax"], "add --game GAME"),
        (["compare", "random", "nosuch", "--game", "tictactoe"], "no path 'nosuch'"),
        (["compare", "random", "minimax", "--game", "tictactoe", "--episodes", "3"], "got --episodes 3"),
        (["compare", "random", "nano", "--task", "reasoning_gym/gcd", "--limit", "2"], "'random', which plays games"),
        (["compare", "nano", "nano", "--task", "math500", "--data", "x"], "cannot read x"),
        (["compare", "nano", "nano", "--game", "tictactoe", "--data", "aime24=x"], "names; add --task aime24, or"),
        (["compare", "random", "random", "--exploitability", "connect_four"], "too large for exact theory"),
        (
            ["compare", "random", "nano", "--game", "tictactoe", "--engine", "foo"],
            "--engine: got 'foo'; expected transformers, vllm or auto",
        ),
        (["benchmark", "minimax", "--task", "math500"], "plays games only"),
        (["benchmark", "nano", "--task", "math"], "did you mean"),
        (["benchmark", "nano", "--task", "math500", "--data", "none.jsonl"], "cannot read none.jsonl"),
        (["benchmark", "nano", "--task", "math500", "--data", "none.jsonl", "--top-p", "3"], "top-p: got 3.0"),
    ],
)  # fmt: skip
def test_wrong_input(arguments, words):
    assert words in refused(*arguments)


def test_a_benchmark_prints_and_saves_its_results(tmp_path):
    data = written(tmp_path / "sums.jsonl", {"question": "1 + 1?", "answer": "2"}, {"question": "2?", "answer": "2"})
    arguments = ("benchmark", "nano", "--task", "gsm8k", "--data", data, "--samples", "3", "--max-new-tokens", "9")
    result = spiral(*arguments, "--json")
    assert (result.status, result.err) == (0, "")
    assert (result.json["items"], result.json["samples"], result.json["task"]) == (2, 3, "gsm8k")
    assert result.json["accuracy_low"] <= result.json["accuracy"] <= result.json["accuracy_high"]
    kept = [json.loads(line) for line in (Path(result.json["files"]) / "items.jsonl").read_text().splitlines()]
    assert len(kept) == 6
    assert {attempt["prompt"].splitlines()[0] for attempt in kept} == {"1 + 1?", "2?"}
    assert all(attempt["tokens"] <= 9 for attempt in kept)
    saved = json.loads((Path(result.json["files"]) / "result.json").read_text())
    assert saved["settings"]["model"]["sampling"] == {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 9}
    assert len(saved["settings"]["model"]["weights_sha256"]) == 64
    assert {"python", "torch", "transformers", "spiral-selfplay"} < set(saved["versions"])
    said = spiral(*arguments)
    assert "accuracy (avg@3)" in said.out
    assert "replies without a boxed answer" in said.out


def test_several_tasks_share_an_engine_and_have_a_mean(tmp_path, monkeypatch):
    sums = written(tmp_path / "sums.jsonl", {"question": "1 + 1?", "answer": "2"}, {"question": "2?", "answer": "2"})
    choice = written(tmp_path / "choice.jsonl", {"question": "Which?", "choices": ["a", "b"], "answer": "B"})
    loaded, load = [], registry.load_answerer
    monkeypatch.setattr(registry, "load_answerer", lambda *given: loaded.append(given[1]) or load(*given))
    arguments = ("--task", "gsm8k", "--task", "mmlu_pro", "--data", f"gsm8k={sums}", "--data", f"mmlu_pro={choice}")
    few = ("--protocol", "v1", "--max-new-tokens", "9", "--shots", "1", "--shots-data", f"mmlu_pro={choice}")
    assert "(1 others are questions of the test)" in refused("benchmark", "nano", *arguments, *few)
    few = few[:4]
    result = spiral("benchmark", "nano", *arguments, *few, "--json").json
    counts = [(row["task"], row["items"], row["samples"]) for row in result["tasks"]]
    assert counts == [("gsm8k", 2, 4), ("mmlu_pro", 1, 4)]
    mean = result["mean"]
    assert mean["accuracy"] == pytest.approx(sum(row["accuracy"] for row in result["tasks"]) / 2)
    assert mean["accuracy_low"] <= mean["accuracy"] <= mean["accuracy_high"]
    assert [options.reply_tokens for options in loaded] == [9]
    assert all(Path(row["files"], "result.json").exists() for row in result["tasks"])
    said = spiral("benchmark", "nano", *arguments, *few)
    assert "mean of tasks" in said.out
    assert "nano on 2 tasks" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no task; add --task TASK, such as math500"),
        (["--task", "gsm8k", "--protocol", "v2"], "got the protocol 'v2'; expected v3 or v1"),
        (["--task", "gsm8k", "--shots", "5"], "there are no worked examples for gsm8k"),
        (
            ["--task", "gsm8k", "--task", "aime24", "--data", "x.jsonl"],
            "got --data 'x.jsonl'; expected TASK=FILE.jsonl",
        ),
        (["--task", "gsm8k", "--task", "aime24", "--data", "amc23=x"], "got --data for amc23, which no --task names"),
        (["--task", "gsm8k", "--data", "a=1", "--data", "b=2"], "got --data for gsm8k twice"),
    ],
)
def test_what_a_benchmark_of_several_tasks_refuses(arguments, message):
    assert message in refused("benchmark", "nano", *arguments)


@pytest.mark.parametrize("command", ["evaluate", "exploitability", "benchmark", "compare", "tournament"])
def test_help_names_the_variable_for_results(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert RESULTS_VARIABLE in spiral(command, "--help").out


def test_the_documents_name_the_variable_for_results():
    assert f"`{RESULTS_VARIABLE}`" in (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_results_go_to_the_requested_folder(tmp_path, monkeypatch):
    arguments = ("benchmark", "nano", "--task", "reasoning_gym/gcd", "--limit", "1", "--samples", "1", "--json")
    assert Path(spiral(*arguments, "--out", str(tmp_path / "mine")).json["files"]).parent == tmp_path / "mine"
    monkeypatch.setenv("SPIRAL_RESULTS", str(tmp_path / "theirs"))
    assert Path(spiral(*arguments).json["files"]).parent == tmp_path / "theirs"
    (tmp_path / "file").write_text("")
    assert "choose another directory with --out" in refused(*arguments, "--out", str(tmp_path / "file" / "x"))
