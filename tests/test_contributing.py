"""What the documents show in Python and TOML is run, and the results are those that the text promises."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from documents import FILE_NAME, NAMES, ROOT, blocks, save_files
from made_up import new_episode
from spiral.core.records import Seat
from spiral.games import load_game
from spiral.launch import execute, start
from spiral.rollout.opponents.loading import make_sampler
from spiral.runs.directory import read_episodes, read_metrics
from spiral.runs.recipe import load_recipe


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, on Python's path; modules made in it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def follow(document: str, directory: Path) -> dict[str, Any]:
    """Does as a reader would: blocks that begin with a file's name are saved, other Python blocks run in turn.

    Returns what the blocks defined.
    """
    namespace: dict[str, Any] = {"__name__": document}
    save_files(document, directory)
    for language, code in blocks(document, "python", "toml"):
        if language == "toml":
            tomllib.loads(code)
        elif not FILE_NAME.match(code):
            exec(compile(code, document, "exec"), namespace)
    return namespace


def test_the_recipe_trains(directory: Path) -> None:
    follow("docs/guides/add_an_estimator.md", directory)
    assert load_recipe("my_recipe.toml").model.path.startswith("Qwen/")
    small = ["model.path=nano", "prompt.observation=compact", "sampling.max_new_tokens=8", "run.steps=2"]
    run = start(load_recipe("my_recipe.toml", [*small, "selfplay.episodes_per_step=16"]), directory / "run")
    execute(run, lambda step, metrics: None)
    rows = read_metrics(directory / "run")
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["rollout/games"] == 16
    assert rows[1]["selfplay/add_a_game.Nim/turns"] >= 1
    assert rows[1]["credit/samples"] > 0
    assert not [key for key in rows[1] if "baseline" in key], "this estimator keeps no baseline"


def test_the_sampler_and_the_reward_train(directory: Path) -> None:
    follow("docs/guides/add_an_estimator.md", directory)
    follow("docs/guides/add_an_opponent.md", directory)
    assert load_recipe("my_opponents.toml").selfplay.opponent_options == {"others": 0.5}
    settings = {
        "model.path": "nano",
        "prompt.observation": "compact",
        "sampling.max_new_tokens": "8",
        "run.steps": "1",
        "run.episodes_every": "1",
        "run.checkpoint_every": "1",
        "selfplay.games": "{ tictactoe = 1.0 }",
        "selfplay.episodes_per_step": "8",
        "selfplay.reward": "my_rewards:quick_wins",
        "evaluation.every": "0",
    }
    recipe = load_recipe("my_opponents.toml", [f"{key}={value}" for key, value in settings.items()])
    run = start(recipe, directory / "run")
    execute(run, lambda step, metrics: None)
    turns = read_episodes(directory / "run")
    lost = {"random": 0, "minimax": 0}
    for turn in turns:
        (name,) = set(turn["policies"]) & set(lost)
        other = turn["policies"].index(name)
        if turn["turn"] == 0:
            lost[name] += turn["returns"][other] < turn["returns"][1 - other]
        assert turn["outcome"] != "finished" or abs(turn["rewards"][0]) in (
            0.0,
            *(0.95**moves for moves in range(5, 10)),
        )
    state = json.loads(next((directory / "run" / "checkpoints").glob("step-*/state.json")).read_text())
    assert state["opponents"] == {"lost": lost}

    sampler = make_sampler(recipe.selfplay)
    seats = (Seat(policy="random", trainable=False), Seat(policy="nano", trainable=True))
    sampler.observe(1, [dataclasses.replace(new_episode((-1.0, 1.0)), seats=seats)])
    assert sampler.state_dict() == {"lost": {"random": 1, "minimax": 0}}
    assert Counter(sampler.sample(2, load_game("tictactoe"), 100, random.Random(0)))["minimax"] > 60


ALONE = [name for name in NAMES if blocks(name, "python") and not blocks(name, "sh")]
"""Documents whose Python needs nothing but what they say; tests/docs runs the others after their commands."""


@pytest.mark.parametrize("document", ALONE)
def test_the_python_of_a_document_runs(document: str, directory: Path) -> None:
    try:
        assert follow(document, directory)["__name__"] == document
    except ImportError as error:
        if "needs the package" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("document", NAMES)
def test_documents_are_complete(document: str) -> None:
    """A comment in a document marks a passage that is still to be filled."""
    assert "<!--" not in (ROOT / document).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", NAMES)
def test_documents_name_what_there_is(document: str) -> None:
    """Commands of the Makefile, and files of this repository."""
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)(?=`|\s{2,}#)", text)) <= targets
    mentioned = re.findall(r"`((?:src|tests|docs)/[\w./-]+)`", text)
    assert [file for file in mentioned if not (ROOT / file).exists()] == []
