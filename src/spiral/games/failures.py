"""Find the user's code that raised an exception.

A game's methods are called from many modules: the game loop, prompts, scripted players, exact theory. Instead of
guarding each call, the traceback of an error is searched for the game's own method.
"""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path

from spiral.games.base import Game, State

MAX_MESSAGE = 300
"""Maximum number of characters repeated of the user's own error message."""


class UserCodeError(RuntimeError):
    """The user's code failed or broke its contract.

    The message names the code and what it did. It is not a fault of spiral's, and another try would fail too.
    """


def describe_error(error: BaseException) -> str:
    """Return the error and the innermost line that raised it: `KeyError: 'boom' (my_game.py, line 42, in apply)`."""
    text = " ".join(str(error).split())
    shown = text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."
    named = f"{type(error).__name__}: {shown}" if shown else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return named
    last = frames[-1]
    return f"{named} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


OWN_PACKAGE = "spiral."


class GameError(UserCodeError):
    """A game raised an exception or broke its contract."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GameFailure:
    """The outermost method of a game or state that an exception passed through."""

    owner: Game | State
    method: str
    error: BaseException

    @property
    def native(self) -> bool:
        """Whether the game is one of spiral's own, adapters and problem games included."""
        return type(self.owner).__module__.startswith(OWN_PACKAGE)

    @property
    def message(self) -> str:
        """The class and method that failed, without the game under way."""
        owner = self.owner
        name = owner.spec if isinstance(owner, Game) else f"{type(owner).__module__}:{type(owner).__qualname__}"
        return f"the game's code failed: {name}.{self.method} raised {describe_error(self.error)}"


def find_game_failure(error: BaseException) -> GameFailure | None:
    """Return the game's method that raised an exception; None when no game raised it.

    A game that refuses its parameters in `__post_init__`, or in what that calls, has not failed.
    """
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        owner = frame.f_locals.get("self")
        method = frame.f_code.co_name
        if isinstance(owner, State | Game):
            if method in ("__init__", "__post_init__"):
                return None
            if not method.startswith("__"):
                return GameFailure(owner=owner, method=method, error=error)
        trace = trace.tb_next
    return None
