"""Every command that the documents show is one that `spiral` takes; their `sh` and Python blocks run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from documents import FILE_NAME, NAMES, ROOT, blocks, commands, inline_commands, save_files
from spiral.cli.app import load_command
from spiral.cli.experiment import check_command
from spiral.models.store import local_models

PLACEHOLDERS = {"RECIPE", "RECIPE|FILE.toml", "FILE.toml"}
ENDPOINTS = """\
local = {base_url = "http://127.0.0.1:9/v1", model = "none"}
teacher = {base_url = "http://127.0.0.1:9/v1", model = "none"}
"""
RUNNABLE = [name for name in NAMES if blocks(name, "sh")]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader's directory, with the examples and endpoints of the documents."""
    for example in (ROOT / "examples").glob("*.py"):
        shutil.copy(example, tmp_path)
    (tmp_path / "endpoints.toml").write_text(ENDPOINTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


@pytest.mark.parametrize("name", [name for name in NAMES if [*commands(name)]])
def test_every_command_is_one_that_spiral_takes(name, reader):
    for page in dict.fromkeys(("README.md", "docs/guides/add_an_estimator.md", name)):
        save_files(page, reader)
    wrong = []
    for words in commands(name):
        try:
            if PLACEHOLDERS.isdisjoint(words):
                check_command(words)
        except ValueError as error:
            if not re.search(r"there is no run directory '|have no checkpoint", str(error)):  # of a run made elsewhere
                wrong.append(f"spiral {' '.join(words)}: {error}")
    assert wrong == []


@pytest.mark.parametrize("name", [name for name in NAMES if [*inline_commands(name)]])
def test_every_command_within_a_text_has_its_options(name):
    wrong = []
    for words in inline_commands(name):
        command, *options = [
            re.split(r"[=:.,]", word)[0] for word in words if word == words[0] or word.startswith("--")
        ]
        known = {option for one in load_command(command).params for option in (*one.opts, *one.secondary_opts)}
        wrong += [f"{command} {option}" for option in options if option not in known | {"--help"}]
    assert wrong == []


def test_a_wrong_command_would_be_found(reader):
    with pytest.raises(ValueError, match="No such option"):
        check_command(["train", "nano", "--epochs", "3"])
    with pytest.raises(ValueError, match=r"unknown key 'selfplay\.gmes'"):
        check_command(["train", "nano", "--set", "selfplay.gmes=tictactoe"])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_a_reader_can_follow(name, reader):
    """The blocks of a page in turn, as one session: `sh` in a shell, Python in one program, named blocks saved."""
    if "smollm2" in "".join(code for _, code in blocks(name, "sh")) and "smollm2" not in local_models():
        pytest.skip("SmolLM2 is not on this machine; spiral models get smollm2")
    programs = reader / "bin"
    programs.mkdir()
    for program, start in (("spiral", f"{sys.executable} -m spiral"), ("python", sys.executable)):
        (programs / program).write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        (programs / program).chmod(0o755)
    save_files(name, reader)
    script = ["set -e"]
    for number, (language, code) in enumerate(blocks(name, "sh", "python")):
        if language == "sh":
            script.append(code)
        elif not FILE_NAME.match(code):
            (reader / f"block{number}.py").write_text(code)
            script.append(f"python block{number}.py")
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT / 'src'}:.", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], env=os.environ | path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr[-2000:] if done.returncode else "") == (0, "")


def test_the_pages_that_teach_are_run():
    taught = {path.stem for path in (ROOT / "docs" / "guides").glob("*.md")} | {"quickstart"}
    assert {Path(name).stem for name in RUNNABLE} >= taught
