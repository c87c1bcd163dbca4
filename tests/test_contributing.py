"""What CONTRIBUTING.md and README.md show is run, and the results are those that the text promises."""

from __future__ import annotations

import dataclasses
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spiral.games import load_game
from spiral.launch import execute, start
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|toml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"# (\w+\.(?:py|toml))\n")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, on Python's path; modules made in it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def follow(document: str, directory: Path) -> dict[str, Any]:
    """Does as a reader would: blocks that open with a file's name are saved, other Python blocks run in turn.

    Returns what the blocks defined.
    """
    namespace: dict[str, Any] = {"__name__": document}
    for language, code in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")):
        named = FILE_NAME.match(code)
        if named:
            (directory / named.group(1)).write_text(code, encoding="utf-8")
        elif language == "python":
            exec(compile(code, document, "exec"), namespace)
        else:
            tomllib.loads(code)
    return namespace


def test_the_examples_do_what_they_say(directory: Path) -> None:
    found = follow("CONTRIBUTING.md", directory)
    assert sorted(file.name for file in directory.iterdir() if file.is_file()) == [
        "my_credit.py", "my_games.py", "my_recipe.toml",
    ]  # fmt: skip
    assert found["game"].spec == "my_games:Nim(heap=8)"
    assert found["first_to_move"] == -1.0
    assert load_game("my_games:Nim").initial_state().legal_actions() == ("1", "2", "3")
    assert 0 < found["gap"] <= 2
    assert len(found["episodes"]) == 50
    assert found["lost"] == 0
    assert {episode.game for episode in found["episodes"]} == {"my_games:Nim(heap=8)"}
    assert len(found["advantages"]) == 50
    assert found["total"] == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="nim got heap=0; expected 1 or more"):
        load_game("my_games:Nim", heap=0)


def test_the_estimators_part_runs_alone(directory: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add an advantage estimator")[2]
    namespace: dict[str, Any] = {}
    for language, code in BLOCK.findall(text):
        named = FILE_NAME.match(code)
        if named:
            (directory / named.group(1)).write_text(code, encoding="utf-8")
        elif language == "python":
            exec(compile(code, "CONTRIBUTING.md", "exec"), namespace)
    assert len(namespace["advantages"]) == 50
    assert {episode.game for episode in namespace["hands"]} == {"kuhn_poker"}
    assert namespace["total"] == pytest.approx(0.0, abs=1e-9)


def test_leaving_one_out_by_hand(directory: Path) -> None:
    found = follow("CONTRIBUTING.md", directory)
    first, second, third = (found["episodes"][index] for index in range(3))
    episodes = [_paid(first, 1.0), _paid(second, -1.0), _paid(third, 0.5)]
    expected = [(1.25, -1.25), (-1.75, 1.75), (0.5, -0.5)]
    for episode, values, pair in zip(episodes, found["estimate"](episodes), expected, strict=True):
        assert values.tolist() == [pair[turn.player] for turn in episode.turns]
    (alone,) = found["estimate"](episodes[:1])
    assert set(alone.tolist()) == {0.0}


def _paid(episode: Any, value: float) -> Any:
    return dataclasses.replace(episode, returns=(value, -value))


def test_the_recipe_trains(directory: Path) -> None:
    follow("CONTRIBUTING.md", directory)
    assert load_recipe("my_recipe.toml").model.path.startswith("Qwen/")
    small = ["model.path=nano", "prompt.observation=compact", "sampling.max_new_tokens=8", "run.steps=2"]
    run = start(load_recipe("my_recipe.toml", [*small, "selfplay.episodes_per_step=16"]), directory / "run")
    execute(run, lambda step, metrics: None)
    rows = read_metrics(directory / "run")
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["rollout/games"] == 16
    assert rows[1]["selfplay/my_games.Nim/turns"] >= 1
    assert rows[1]["credit/samples"] > 0
    assert not [key for key in rows[1] if "baseline" in key], "this estimator keeps no baseline"


def test_the_readme_runs(directory: Path) -> None:
    assert follow("README.md", directory)["__name__"] == "README.md"


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "README.md", "docs/architecture.md"])
def test_documents_are_complete(document: str) -> None:
    """A comment in a document marks a place that is still to be filled."""
    assert "<!--" not in (ROOT / document).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "README.md", "docs/architecture.md"])
def test_documents_name_what_there_is(document: str) -> None:
    """Commands of the Makefile, and links to and mentions of files of this repository."""
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)(?=`|\s{2,}#)", text)) <= targets
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []
    mentioned = re.findall(r"`((?:src|tests|docs)/[\w./-]+)`", text)
    assert [file for file in mentioned if not (ROOT / file).exists()] == []
