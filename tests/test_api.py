"""Whole runs from Python, and a past checkpoint by a short name."""

from __future__ import annotations

import gc
import json

import pytest

import spiral
from commands import TINY, tiny_run
from commands import spiral as command
from spiral.core.metrics import Matchup
from spiral.launch import saved_recipe
from spiral.models.loading import model_directory
from spiral.runs.recipe import load_recipe

SETTINGS = [f"{key}={value}" for key, value in TINY.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, and its steps as they were shown."""
    path, seen = tmp_path_factory.mktemp("api") / "run", []
    result = spiral.train("nano", path, overrides=SETTINGS, show=lambda step, metrics: seen.append((step, metrics)))
    return path, result, seen


def test_train_gives_where_the_run_is_and_how_it_ended(trained):
    path, result, seen = trained
    assert (result.run_dir, result.step) == (path, 2)
    assert [step for step, _ in seen] == [1, 2]
    rows = spiral.read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2]
    assert result.metrics == {key: value for key, value in rows[-1].items() if key != "step"}
    assert result.metrics["rollout/games"] == 8


def test_what_the_program_has_frozen_stays_frozen(trained):
    """The tests' own setup freezes everything that was imported (conftest.py); the run has ended since."""
    assert gc.get_freeze_count() > 100_000


def test_turns_are_rows(trained):
    path, *_ = trained
    rows = spiral.read_episodes(str(path))
    assert {row["step"] for row in rows} == {1, 2}
    assert {row["game"] for row in rows} == {"tictactoe"}
    assert sum(row["step"] == 2 for row in rows) == spiral.read_metrics(path)[-1]["rollout/turns"]


def test_train_goes_on_and_refuses_what_would_change_the_run(trained, tmp_path):
    settings = [*SETTINGS, "evaluation.games=[]", "evaluation.exploitability=[]"]
    first = spiral.train("nano", tmp_path / "r", steps=1, overrides=settings)
    assert first.step == 1
    with pytest.raises(ValueError, match="already holds a run"):
        spiral.train("nano", tmp_path / "r", overrides=settings)
    with pytest.raises(ValueError, match=r"own settings: learner\.epochs is 1 in the run and 2"):
        spiral.train("nano", tmp_path / "r", resume=True, overrides=[*settings, "learner.epochs=2"])
    again = spiral.train("nano", tmp_path / "r", steps=3, resume=True, overrides=settings)
    assert (again.step, [row["step"] for row in spiral.read_metrics(tmp_path / "r")]) == (3, [1, 2, 3])


def test_a_policy_by_its_name_plays(trained):
    path, *_ = trained
    game = spiral.load_game("tictactoe")
    policy = spiral.load_policy(f"{path}@1", "tictactoe", temperature=0.0)
    assert policy.sampling.temperature == 0
    (episode,) = spiral.play([spiral.Match(game=game, seed=1, policies=(policy, policy))])
    assert spiral.parse_action(episode.turns[0].reply, game.initial_state()) in {str(cell) for cell in range(9)}
    result = spiral.evaluate(spiral.load_policy("minimax", game), spiral.load_policy("random", game), game, 20, 0)
    assert result.loss.value == 0


def test_a_run_at_a_step_is_a_model(trained, tmp_path):
    path, *_ = trained
    for step in (0, 1, 2):
        assert model_directory(f"{path}@{step}") == str(path / "checkpoints" / f"step-00000{step}")
    assert model_directory(f"{path}@002") == model_directory(f"{path}@2")
    with pytest.raises(ValueError, match=r"has no checkpoint or snapshot of step 7; it has: 0, 1, 2"):
        model_directory(f"{path}@7")
    with pytest.raises(ValueError, match="there is no run directory 'nowhere'; expected RUN@STEP"):
        model_directory("nowhere@3")
    (tmp_path / "odd@5").mkdir()
    assert model_directory(str(tmp_path / "odd@5")) == str(tmp_path / "odd@5"), "a path that is there is that path"


def test_a_past_checkpoint_as_opponent_by_a_plain_key(trained, tmp_path):
    path, *_ = trained
    recipe = load_recipe("nano", [f"selfplay.opponents=mirror=3, {path}@1=1"])
    assert recipe.selfplay.opponents == {"mirror": 3.0, f"{path}@1": 1.0}
    result = tiny_run(tmp_path / "run", selfplay__opponents=f"mirror=1,{path}@1=1", evaluation__games="[]")
    assert result.status == 0
    against = Matchup(game="tictactoe", opponent=f"{path}@1")
    assert spiral.read_metrics(tmp_path / "run")[0][against.key("games")] == 4


def test_runs_and_recipes_of_earlier_versions_load(trained, tmp_path):
    path, *_ = trained
    text = (path / "config.toml").read_text()
    assert "final_learning_rate_share = 0.02" in text
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.toml").write_text(text.replace("final_learning_rate_share", "final_learning_rate"))
    assert saved_recipe(old) == saved_recipe(path)
    (tmp_path / "old.toml").write_text("[learner]\nfinal_learning_rate = 0.25\n")
    assert load_recipe(str(tmp_path / "old.toml")).learner.final_learning_rate_share == 0.25
    for setting in ("learner.final_learning_rate=0.5", "learner.final_learning_rate_share=0.5"):
        assert load_recipe(str(tmp_path / "old.toml"), [setting]).learner.final_learning_rate_share == 0.5
    assert json.loads(command("recipes", "--json").out)
