"""What a run of `spiral train` says while it works, and of models that do not know a game."""

from __future__ import annotations

import time

import pytest

from commands import refused, spiral, tiny_run, tiny_settings
from spiral.core import progress as module
from spiral.core.progress import Progress, made_current, progress_shown, shown

SILENT = {"evaluation__games": "[]", "evaluation__exploitability": "[]"}


@pytest.fixture
def stages(monkeypatch):
    """Every stage that begins, and after its name the last count of it."""
    stages = []
    real_stage, real_update = Progress.stage, Progress.update

    def stage(self, what, total=None, unit=""):
        stages.append([what, None])
        real_stage(self, what, total, unit)

    def update(self, done, detail=""):
        stages[-1][1] = (done, self._total)
        real_update(self, done, detail)

    monkeypatch.setattr(Progress, "stage", stage)
    monkeypatch.setattr(Progress, "update", update)
    return stages


def test_every_stage_of_a_run_is_reported(stages, tmp_path):
    assert tiny_run(tmp_path / "run", learner__minibatches="2").status == 0
    named = [(what, count) for what, count in stages if what]
    order = ["preparing nano", "loading nano", "tictactoe against random", "exploitability in kuhn_poker"]
    order += ["step 1: playing", "step 1: learning", "step 1: recording", "step 1: writing the checkpoint"]
    order += ["step 2: playing", "step 2: learning", "tictactoe against random", "step 2: writing the checkpoint"]
    position = -1
    for what in order:
        position = next(number for number, (name, _) in enumerate(named) if number > position and name == what)
    assert ("tictactoe against random", (4, 4)) in named
    assert ("step 1: playing", (8, 8)) in named
    assert ("step 2: learning", (2, 2)) in named


def test_the_innermost_progress_is_shown():
    outside = shown()
    outside.stage("unseen")
    with made_current(Progress()) as outer:
        shown().stage("outer", 3, "games")
        with made_current(Progress()) as inner:
            shown().stage("inner")
        shown().update(2)
        assert (outer.line(), inner.line()) == ("outer: 2/3 games  0:00 elapsed", "inner: 0:00 elapsed")
    assert shown() is outside


def test_time_by_stage():
    now = [100.0]
    whole, by_stage = Progress(lambda: now[0]), Progress(lambda: now[0], by_stage=True)
    for progress in (whole, by_stage):
        now[0] = 100.0
        progress.stage("first")
        now[0] = 160.0
        progress.stage("second")
        now[0] = 165.0
    assert (whole.line(), by_stage.line()) == ("second: 1:05 elapsed", "second: 0:05 elapsed")
    assert by_stage.stage_seconds == 5.0


def test_a_piped_run_reports_only_long_stages(monkeypatch, capsys):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.05)
    with progress_shown(bar=False, fast_seconds=60.0) as progress:
        progress.stage("step 1: playing", 8, "games")
        time.sleep(0.3)
    assert capsys.readouterr().err == ""
    with progress_shown(bar=False, fast_seconds=0.1) as progress:
        progress.stage("step 2: playing", 8, "games")
        progress.update(3, "7 turns")
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert set(lines) == {"step 2: playing: 3/8 games  7 turns  0:00 elapsed"}


def test_a_run_without_evaluation_does_not_mention_it(tmp_path):
    result = tiny_run(tmp_path / "run", **SILENT)
    assert result.status == 0
    assert "evaluating" not in result.err
    assert "Before training" not in result.out
    assert "Warning" not in result.out
    assert [line for line in result.out.splitlines() if line][-5:][0] == "Next:"


def test_the_result_is_the_last_thing_on_the_screen(tmp_path):
    result = tiny_run(tmp_path / "run")
    parts = ["One game of tictactoe", "Result: ", "Run directory: ", "Before training and after step 2:"]
    parts += ["4 games each", "kuhn_poker", "Next:"]
    offsets = [result.out.index(part) for part in parts]
    assert offsets == sorted(offsets)
    assert result.out.index("Before training") - result.out.index("One game of") < 1500
    assert len(result.out[result.out.index("Next:") :].splitlines()) == 6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"evaluation__games": "['tictactoe']"},
            "before training, nearly every game ends with an illegal move in tictactoe (",
        ),
        (SILENT, "in the first step, nearly every game ends with an illegal move in tictactoe"),
    ],
)
def test_a_model_that_does_not_know_the_game_is_warned_of(settings, words, random_model, tokenizer, tmp_path):
    random_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    asked = {"model__path": str(tmp_path / "model"), "run__steps": "1"}
    result = tiny_run(tmp_path / "run", **(SILENT | asked | settings))
    assert result.status == 0, result.err
    (warning,) = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert words in warning
    assert "prompt.example=true" in warning
    assert "larger model" in warning
    assert "collapse" not in result.err + result.out
    assert result.err.index(words) < result.err.index("step 1/1") or words.startswith("in the first step")


@pytest.mark.parametrize("game", ["openspiel/liars_dice", "textarena/Nim-v0", "openspiel/tic_tac_toe"])
def test_the_built_in_model_is_not_trained_on_games_in_words(game):
    line = refused("train", "nano", "--dry-run", "--set", f"selfplay.games={game}")
    assert f"{game}, which the built-in model nano cannot learn: it knows tictactoe, kuhn_poker," in line
    assert "no English" in line
    assert "--model smollm2" in line


def test_a_custom_game_is_warned_of_and_played(monkeypatch, tmp_path):
    (tmp_path / "my_own_game.py").write_text(
        "from spiral.games.tictactoe import TicTacToe\n\n\nclass Mine(TicTacToe):\n    name = 'my_own_game:Mine'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = tiny_settings(selfplay__games="my_own_game:Mine", run__steps="1", **SILENT)
    result = spiral("train", "nano", "--run-dir", str(tmp_path / "run"), *settings)
    assert result.status == 0
    assert "warning: nano hardly learns my_own_game:Mine: it knows tictactoe, " in result.err
