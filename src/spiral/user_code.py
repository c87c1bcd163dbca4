"""Errors of code that the user brings to a run: games and advantage estimators."""

from __future__ import annotations

import traceback
from pathlib import Path

MAX_MESSAGE = 300
"""Characters of the user's own error message that are repeated."""


class UserCodeError(RuntimeError):
    """The user's code failed or broke its contract.

    The message names the code, what it did and where; it is not a fault of spiral's, and asking again or another worker
    would not help.
    """


def describe_error(error: BaseException) -> str:
    """`KeyError: 'boom' (my_game.py, line 42, in apply)`: what was raised, and the innermost line that raised it."""
    text = " ".join(str(error).split())
    shown = text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."
    named = f"{type(error).__name__}: {shown}" if shown else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return named
    last = frames[-1]
    return f"{named} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"
