"""How to call our programs again, for the commands that are printed for people to copy."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from spiral.core.printable import printable


def program(name: str) -> str:
    """`name` where the shell finds it; otherwise its path, beside the running command or its Python.

    An environment that was never activated (`.venv/bin/spiral`) is not on the shell's path.
    """
    if shutil.which(name):
        return name
    for running in (sys.argv[0], sys.executable):
        path = os.path.join(os.path.dirname(os.path.abspath(running)), name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return shlex.quote(_from_here(path))
    return name


def shown_path(path: Path | str) -> str:
    """A path for people: relative where it lies below the current directory, with what a terminal obeys written out."""
    relative = os.path.relpath(path)
    return printable(str(path) if relative.split(os.sep)[0] == os.pardir else relative)


def _from_here(path: str) -> str:
    """Relative when it lies below the current directory, as a person would type it."""
    relative = os.path.relpath(path)
    if relative.startswith(os.pardir + os.sep):
        return path
    return relative if os.sep in relative else os.path.join(os.curdir, relative)
