"""Which game an exception came from.

A game is asked from many places: the game loop, prompts, scripted players, exact theory. Instead of guarding each call,
the traceback of an error is searched for the game's own method.
"""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path

from spiral.games.base import Game, State

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


OWN_PACKAGE = "spiral.games."


class GameError(UserCodeError):
    """A game raised an exception, or gave what no game may give."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GameFailure:
    """The outermost method of a game or state that an exception passed through."""

    owner: Game | State
    method: str
    error: BaseException

    @property
    def native(self) -> bool:
        """Whether the game is one of spiral's own, adapters included."""
        return type(self.owner).__module__.startswith(OWN_PACKAGE)

    @property
    def message(self) -> str:
        """Which class failed where, without the game under way."""
        owner = self.owner
        name = owner.spec if isinstance(owner, Game) else f"{type(owner).__module__}:{type(owner).__qualname__}"
        return f"the game's code failed: {name}.{self.method} raised {describe_error(self.error)}"


def find_game_failure(error: BaseException) -> GameFailure | None:
    """The game's method that an exception came out of; None for an error that no game raised.

    A game's own refusal of its parameters (`__post_init__`) is not a failure.
    """
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        owner = frame.f_locals.get("self")
        if isinstance(owner, State | Game) and not frame.f_code.co_name.startswith("__"):
            return GameFailure(owner=owner, method=frame.f_code.co_name, error=error)
        trace = trace.tb_next
    return None
