"""Evaluations during a run, the files they keep, and that they do not affect training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from commands import refused, tiny_run, tiny_settings
from spiral.core.storage import read_episodes
from spiral.runs.directory import read_evaluations, read_metrics

METRICS_PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
SFT_ONLY = ("sft/", "loss/nll", "loss/accuracy")
"""Beginnings of the keys that only runs with expert games have; their tests look for them."""
TRAINED = ("loss/policy", "loss/entropy", "learner/grad_norm", "credit/samples")


def sums(path, count=3):
    lines = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1), "id": f"q{n}"}) + "\n" for n in range(count)]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("evaluated")
    file = sums(tmp_path / "sums.jsonl")
    result = tiny_run(
        tmp_path / "run",
        run__steps="3",
        evaluation__opponents="['random', 'nano', 'minimax(depth=1)']",
        evaluation__every="2",
        evaluation__episodes_between="2",
        benchmark__tasks=f"{{gsm8k = '{file}', 'reasoning_gym/gcd' = ''}}",
        benchmark__limit="2",
        benchmark__samples="2",
        benchmark__max_new_tokens="8",
        benchmark__every="1",
    )
    assert result.status == 0, result.err
    return tmp_path / "run"


def test_everything_a_recipe_can_ask_for(run):
    reports = dict(read_evaluations(run))
    assert sorted(reports) == [0, 1, 2, 3]
    assert [(result["opponent"], result["episodes"]) for result in reports[2].arena] == [
        ("random", 2),
        ("nano", 2),
        ("minimax(depth=1)", 2),
    ]
    assert [result["episodes"] for result in reports[3].arena] == [4, 4, 4]
    assert reports[1].arena == ()
    assert [[result["task"] for result in report.benchmarks] for report in reports.values()] == [
        ["gsm8k", "reasoning_gym/gcd"]
    ] * 4
    last = reports[3].benchmarks[0]
    assert (last["items"], last["samples"], last["model"]) == (2, 2, "policy")
    metrics = read_metrics(run)[-1]
    assert metrics["benchmark/gsm8k/accuracy"] == last["accuracy"]
    assert metrics["evaluation/tictactoe/nano/win"] == reports[3].arena[1]["win"]


def documented_keys():
    """Patterns of the keys in docs/metrics.md."""
    rows = [
        line.split("`")[1] for line in METRICS_PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    rows = [row for row in rows if "/" in row]  # the page lists guards too
    rows += [row.replace("selfplay/GAME", "against/GAME/OPPONENT") for row in rows if row.startswith("selfplay/")]
    return [
        re.sub(r"GAME|OPPONENT|TASK|GUARD", r"[A-Za-z0-9_.-]+", row.replace(".", r"\.")).replace("N/", r"\d+/")
        for row in rows
    ]


def test_every_metric_is_documented(run):
    keys = {key for row in read_metrics(run) for key in row} - {"step"}
    assert [key for key in sorted(keys) if not any(re.fullmatch(pattern, key) for pattern in documented_keys())] == []
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", key) for key in keys)
    unseen = [pattern for pattern in documented_keys() if not any(re.fullmatch(pattern, key) for key in keys)]
    elsewhere = (
        *SFT_ONLY,
        "selfplay/dropped_turns",  # of runs with selfplay.samples_per_step
        "cluster/",
        "against/",
        "guard/answers",  # of guards with an answer
        "guard/anchor_share",
        "guard/pull",
        "guard/rate",
        "opponents/",  # of samplers that keep past selves
        r"selfplay/[A-Za-z0-9_.-]+/player\d+/thought_information",  # where thoughts have words and prompts repeat
        "rollout/history_",  # of prompts with a history
        "value/",  # of estimators that learn values
        r"evaluation/[A-Za-z0-9_.-]+/optimal_share",
        r"evaluation/[A-Za-z0-9_.-]+/regret",
    )
    assert [pattern for pattern in unseen if not pattern.startswith(elsewhere)] == [], "no longer written"


def test_evaluations_keep_the_data_behind_the_metrics(run):
    kept = run / "evaluation" / "step-000003"
    assert sorted(file.name for file in kept.iterdir()) == [
        "gsm8k.jsonl",
        "kuhn_poker-states.jsonl",
        "reasoning_gym-gcd.jsonl",
        "tictactoe-against-minimax-depth=1.parquet",
        "tictactoe-against-nano.parquet",
        "tictactoe-against-random.parquet",
    ]
    report = dict(read_evaluations(run))[3]
    won = [
        episode.returns[index % 2] > 0
        for index, episode in enumerate(read_episodes(kept / "tictactoe-against-nano.parquet"))
    ]
    assert sum(won) / 4 == report.arena[1]["win"]
    attempts = [json.loads(line) for line in (kept / "gsm8k.jsonl").read_text().splitlines()]
    assert sum(attempt["correct"] for attempt in attempts) / 4 == report.benchmarks[0]["accuracy"]
    assert len((kept / "kuhn_poker-states.jsonl").read_text().splitlines()) == 12


def test_training_never_notices(run, tmp_path):
    assert tiny_run(tmp_path / "plain", run__steps="3", evaluation__games="[]").status == 0
    evaluated, plain = read_metrics(run), read_metrics(tmp_path / "plain")
    assert [[row[key] for key in TRAINED] for row in evaluated] == [[row[key] for key in TRAINED] for row in plain]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"benchmark__tasks": "{math50 = ''}"}, "benchmark.tasks: there is no task 'math50'; did you mean 'math500'"),
        ({"evaluation__opponents": "['minimax(depth=0)']"}, "evaluation.opponents: "),
        ({"evaluation__opponents": "['endpoint:nobody']"}, "evaluation.opponents: there is no endpoint 'nobody'"),
    ],
)
def test_impossible_evaluations_are_refused_at_once(tmp_path, setting, words):
    line = refused("train", "nano", "--run-dir", str(tmp_path / "run"), *tiny_settings(**setting))
    assert words in line
    assert not (tmp_path / "run").exists()
