"""Runs command lines in this process, and small training runs for them to work on."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
from pathlib import Path
from unittest import mock

from matplotlib.figure import Figure

from spiral.cli import main

TINY = {
    "run.steps": "2",
    "run.checkpoint_every": "1",
    "run.episodes_every": "1",
    "selfplay.games": "{tictactoe = 1}",
    "selfplay.opening_plies": "{}",
    "selfplay.episodes_per_step": "8",
    "learner.epochs": "1",
    "evaluation.games": "['tictactoe']",
    "evaluation.opponents": "['random']",
    "evaluation.exploitability": "['kuhn_poker']",
    "evaluation.episodes": "4",
    "evaluation.every": "0",
}
"""A whole run in a second or two."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a command left on its two outputs."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        """Standard output as one JSON object and nothing else."""
        return json.loads(self.out)


def spiral(*arguments: str, stdin: str = "", drawn: bool = False) -> Result:
    """The command line `spiral ARGUMENTS` with `stdin` as what is typed, in an environment that is activated.

    Pictures are empty files unless they are to be `drawn`, which takes half of the time of a tiny run.
    """
    out, err = io.StringIO(), io.StringIO()
    typed = mock.patch.object(sys, "stdin", io.StringIO(stdin))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    activated = mock.patch.dict(os.environ, PATH=path)
    pictures = contextlib.nullcontext() if drawn else mock.patch.object(Figure, "savefig", _empty_picture)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), typed, activated, pictures:
        status = main(arguments)
    return Result(status=status, out=out.getvalue(), err=err.getvalue())


def _empty_picture(_figure: Figure, file: Path, **_options: object) -> None:
    file.write_bytes(b"")


def refused(*arguments: str) -> str:
    """The one line with which a command line is refused: exit status 2, nothing else printed."""
    result = spiral(*arguments)
    lines = result.err.splitlines()
    assert (result.status, result.out, len(lines)) == (2, "", 1), result
    assert lines[0].startswith("spiral: ")
    assert "Traceback" not in lines[0]
    return lines[0].removeprefix("spiral: ")


def tiny_settings(**changed: str) -> list[str]:
    """`--set` for every setting of `TINY`; keyword arguments replace values, with __ for the dot."""
    settings = TINY | {key.replace("__", "."): value for key, value in changed.items()}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def tiny_run(path: Path, *, drawn: bool = False, **changed: str) -> Result:
    """Trains the built-in model for two steps."""
    return spiral("train", "nano", "--run-dir", str(path), *tiny_settings(**changed), drawn=drawn)
