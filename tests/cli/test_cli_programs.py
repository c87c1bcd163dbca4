"""The commands printed for people to copy can be run as they are, also where nothing was activated."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from spiral.cli.output import program, resume_command
from spiral.cli.train_results import next_commands


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of programs that is not on the path; the running command and its Python are elsewhere."""
    path = tmp_path / "my venv" / "bin"
    path.mkdir(parents=True)
    for name in ("spiral", "tensorboard"):
        (path / name).write_text("#!/bin/sh\necho called $0 $*\n")
        (path / name).chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "elsewhere" / "pytest")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.chdir(tmp_path)
    return path


def test_on_the_path_the_name_is_enough(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "argv", [str(folder / "spiral")])
    assert (program("spiral"), program("tensorboard")) == ("spiral", "tensorboard")


def test_otherwise_it_is_the_running_command_and_what_lies_beside_it(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["my venv/bin/spiral", "train"])
    assert program("spiral") == "'my venv/bin/spiral'"
    assert program("tensorboard") == "'my venv/bin/tensorboard'"
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["spiral"])
    assert program("spiral") == "./spiral"
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "argv", [str(folder / "spiral")])
    (folder.parents[1] / "below").mkdir()
    monkeypatch.chdir(folder.parents[1] / "below")
    assert program("spiral") == shlex.quote(str(folder / "spiral"))


def test_a_module_that_runs_finds_them_beside_python(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(sys, "argv", ["/site-packages/spiral/__main__.py"])
    assert program("spiral") == "'my venv/bin/spiral'"


def test_commands_say_again_where_python_finds_a_game(folder, monkeypatch):
    (folder / "my_game.py").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(folder / "spiral")])
    for given, prefix in (("", ""), (".", "PYTHONPATH=. "), ("/nowhere:.", "PYTHONPATH=/nowhere:. "), ("/nowhere", "")):
        monkeypatch.setenv("PYTHONPATH", given)
        commands = next_commands("runs/r1", "my_game:Nim(heap=21)", [], ["my_game:Nim(heap=21)", "tictactoe"])
        assert commands[0] == f"{prefix}./spiral play runs/r1 --game 'my_game:Nim(heap=21)'"
        assert commands[1].startswith(f"{prefix}./spiral evaluate")
        assert not next_commands("runs/r1", "tictactoe", [], ["tictactoe"])[0].startswith("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", ".")
    assert next_commands("runs/r1", "openspiel/nim", [], ["openspiel/nim"])[0].startswith("./spiral")


def test_what_is_nowhere_keeps_its_name(folder):
    (folder.parents[1] / "elsewhere" / "spiral").mkdir(parents=True)
    assert program("spiral") == "spiral"


def test_every_printed_command_runs_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["my venv/bin/spiral"])
    commands = [resume_command(Path("a run")), *next_commands("a run", "kuhn_poker(hands=2)", ["kuhn_poker"])]
    said = [subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout for line in commands]
    assert said == [
        "called my venv/bin/spiral train --resume --run-dir a run\n",
        "called my venv/bin/spiral play a run --game kuhn_poker(hands=2)\n",
        "called my venv/bin/spiral evaluate a run --game kuhn_poker(hands=2) --opponent random\n",
        "called my venv/bin/spiral exploitability a run --game kuhn_poker\n",
        "called my venv/bin/spiral show a run\n",
        "called my venv/bin/tensorboard --logdir a run\n",
    ]


def test_ctrl_c_while_a_module_is_imported_ends_with_130(tmp_path):
    """A program in a text, as dataclasses run it: CPython notes a Ctrl-C in one until the end of the process."""
    (tmp_path / "interrupted.py").write_text('exec("raise KeyboardInterrupt")\n')
    command = [sys.executable, "-m", "spiral", "evaluate", "random", "--opponent", "random", "--game", "interrupted:G"]
    python_path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": python_path}, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, b"spiral: interrupted\n")
