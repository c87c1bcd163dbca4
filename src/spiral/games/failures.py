"""Which game an exception came from.

A game is asked from many places: the game loop, prompts, scripted players, exact theory. Instead of guarding each call,
the traceback of an error is searched for the game's own method.
"""

from __future__ import annotations

import dataclasses

from spiral.games.base import Game, State
from spiral.user_code import UserCodeError, describe_error

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
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        owner = frame.f_locals.get("self")
        if isinstance(owner, State | Game) and not frame.f_code.co_name.startswith("__"):
            return GameFailure(owner=owner, method=frame.f_code.co_name, error=error)
        traceback = traceback.tb_next
    return None
