"""`spiral sft`: a run from expert games to its evaluation, resumed by both commands, and what it refuses."""

from __future__ import annotations

import re
import shutil

import pytest

from commands import refused, spiral
from spiral.core.steps import latest_checkpoint
from spiral.launch import saved_recipe
from spiral.runs.directory import read_episodes, read_metrics
from test_launch_evaluation import SFT_ONLY, documented_keys

TINY = tuple(
    part
    for text in ("evaluation.episodes=4", "sft.samples_per_step=16", "sft.max_episodes=12", "sft.epochs=3")
    for part in ("--set", text)
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Games of random play, which have winners."""
    path = tmp_path_factory.mktemp("data") / "random"
    games = ("--game", "tictactoe", "--game", "kuhn_poker", "--episodes", "10")
    assert spiral("collect", "--policy", "random", *games, "--out", str(path)).status == 0
    return path


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A whole run, and what it printed."""
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, spiral("sft", "sft-nano", "--data", str(data), "--run-dir", str(path), "--json", *TINY)


def test_a_run_learns_the_games_that_it_was_given(finished, data):
    path, result = finished
    assert result.status == 0, result.err
    rows = read_metrics(path)
    assert result.json["step"] == len(rows) == saved_recipe(path).run.steps
    assert "note: expert games: " in result.err
    assert "of 12 games; not learned from: " in result.err
    assert " samples  NLL " in result.err
    assert rows[-1]["loss/nll"] < rows[0]["loss/nll"]
    assert 0 < rows[0]["loss/accuracy"] < 1
    assert sum(row["credit/samples"] for row in rows) % 3 == 0  # passes
    patterns = documented_keys()
    assert [key for key in rows[-1] if key != "step" and not any(re.fullmatch(p, key) for p in patterns)] == []
    expected = [pattern for pattern in patterns if pattern.startswith(SFT_ONLY)]
    assert len(expected) == 7
    assert [pattern for pattern in expected if not any(re.fullmatch(pattern, key) for key in rows[-1])] == []
    assert not [key for key in rows[0] if key.startswith(("rollout/", "selfplay/", "sampler/", "thinking/"))]
    assert "evaluation/tictactoe/minimax/draw" in rows[-1]
    assert set(saved_recipe(path).selfplay.games) == {"tictactoe", "kuhn_poker"}
    assert {"student"} <= {name for row in read_episodes(path) for name in row["policies"]}
    assert spiral("evaluate", str(path), "--game", "tictactoe", "--opponent", "random", "--episodes", "2").status == 0


@pytest.mark.slow
def test_a_finished_run_resumes_and_refuses_other_data(finished, data, tmp_path):
    path = shutil.copytree(finished[0], tmp_path / "run", symlinks=True)
    steps = saved_recipe(path).run.steps
    again = spiral("sft", "sft-nano", "--data", str(data), "--run-dir", str(path), "--resume", "--json", *TINY)
    assert (again.status, again.json["step"]) == (0, steps), again.err
    assert "with the run's own settings" not in again.err
    more = spiral("train", "--resume", "--run-dir", str(path), "--steps", str(steps + 1), "--json")
    assert (more.status, more.json["step"]) == (0, steps + 1), more.err
    assert latest_checkpoint(path / "checkpoints").name == f"step-{steps + 1:06d}"
    config = (path / "config.toml").read_text()
    (tmp_path / "other").mkdir()
    shutil.copytree(data / "episodes", tmp_path / "other" / "episodes")
    (path / "config.toml").write_text(config.replace(str(data), str(tmp_path / "other")))
    assert spiral("train", "--resume", "--run-dir", str(path), "--json").status == 0
    for file in (tmp_path / "other" / "episodes").iterdir():
        file.unlink()
    assert "holds no Parquet files of episodes" in refused("train", "--resume", "--run-dir", str(path), "--json")
    (path / "config.toml").write_text(config)
    spiral("collect", "--policy", "random", "--game", "tictactoe", "--out", str(tmp_path / "third"), "--seed", "1")
    (path / "config.toml").write_text(config.replace(str(data), str(tmp_path / "third")))
    assert "the expert games are not those of step-" in refused("train", "--resume", "--run-dir", str(path))


def test_a_dry_run_says_how_much_there_is_to_learn(data):
    result = spiral("sft", "sft-nano", "--data", str(data), "--dry-run", *TINY)
    assert result.status == 0
    (line,) = [line for line in result.out.splitlines() if line.startswith("# Expert games:")]
    steps = int(line.split()[-5].replace(",", ""))
    assert line.endswith(f" turns, 3 passes, {steps} steps of 16 turns")
    assert f"\nsteps = {steps}\n" in result.out
    assert "tictactoe" in result.out.partition("[selfplay.games]")[2]


def test_wrong_use_is_refused(data, tmp_path):
    assert "no expert games to learn from; name them with --data DIR" in refused("sft", "sft-nano")
    assert "# Expert games: none are named yet" in spiral("sft", "sft-nano", "--dry-run").out
    assert "no expert games to learn from" in refused("train", "sft-nano", "--run-dir", str(tmp_path / "r"))
    assert "there is no nowhere" in refused("sft", "sft-nano", "--data", "nowhere")
    given = ("sft", "sft-nano", "--data", str(data), "--run-dir", str(tmp_path / "r"))
    assert "the steps follow from the data" in refused(*given, "--set", "run.steps=3")
    assert "sft.games is leduc_poker, and the data have" in refused(*given, "--set", "sft.games=['leduc_poker']")
    assert "there is no game 'tictacto'" in refused(*given, "--set", "sft.games=['tictacto']")
    assert "the likelihood of expert games is that at temperature 1" in refused(
        *given, "--set", "sampling.temperature=0.7"
    )
    assert "runs in one process" in refused(*given, "--set", "cluster.rollout_workers=1")
    assert "use `spiral sft`" in refused("train", "nano", "--set", f"sft.data=['{data}']")
    assert "of more than 1 tokens (sampling.max_new_tokens)" in refused(*given, "--set", "sampling.max_new_tokens=1")
    assert not (tmp_path / "r" / "checkpoints").exists()


@pytest.mark.slow
def test_any_recipe_can_be_fine_tuned(data, tmp_path):
    settings = [part for text in ("evaluation.episodes=4", "evaluation.exploitability=[]") for part in ("--set", text)]
    result = spiral("sft", "nano", "--data", str(data), "--run-dir", str(tmp_path / "r"), "--json", *settings, *TINY)
    assert result.status == 0, result.err
    assert result.json["metrics"]["loss/kl_reference"] > 0
