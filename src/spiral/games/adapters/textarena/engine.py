"""One position of a TextArena game as a value: the library's mutable environment behind a function `step`.

TextArena's environments change in place, draw from the global `random`, and forgive one bad move. Here a move is made
on a deep copy, with the game's own random state in place of the global one while the library works, and a move that the
library calls invalid is undone and reported instead of punished. The bare environment is used, without TextArena's
wrappers, and its messages to the players are taken out after every move, so that it stays small enough to copy often.

Not covered: numpy's global generator, which no playable game uses.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import importlib.util
import io
import random
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from spiral.games.adapters.textarena.catalog import PLAYABLE

GAME = -1
"""The speaker of TextArena's own messages."""
_lock = threading.RLock()


class Message(NamedTuple):
    """One message to a player, or one of its own actions."""

    speaker: int
    kind: str
    """The name of a TextArena `ObservationType`, or "OWN" for the player's own action, which may have no message."""
    text: str


Heard = tuple[tuple[Message, ...], ...]
"""[num_players] the messages to each player and its own actions, in order."""


class _Refused(BaseException):
    """TextArena calls a move invalid. Not an `Exception`, so that no game's own `except` can swallow it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """An environment that is no longer changed, with its random state and messages."""

    name: str
    env: Any
    randomness: object
    """The value of `random.getstate()` after the last move."""
    heard: Heard

    @property
    def player(self) -> int:
        """The player to act."""
        return int(self.env.state.current_player_id)

    def speaker(self, number: int) -> str:
        """TextArena's name for a speaker."""
        return "GAME" if number == GAME else str(self.env.state.role_mapping.get(number, f"Player {number}"))

    def listed(self) -> tuple[str, ...]:
        """The legal moves that the catalogue lists; candidates are tried out first."""
        entry = PLAYABLE[self.name]
        found = tuple(entry.moves(self.env, self.player))
        return tuple(move for move in found if self.step(move)) if entry.tried else found

    def step(self, action: str) -> Position | None:
        """The position after an action; None when TextArena calls it invalid.

        Raises `RuntimeError` when TextArena itself fails.
        """
        entry = PLAYABLE[self.name]
        if entry.must_hold and not re.search(entry.must_hold, action, re.IGNORECASE):
            return None
        own = Message(self.player, "OWN", action)
        shared = {id(value): value for value in (getattr(self.env, field) for field in entry.shared)}
        with _isolated_random(self.randomness):
            env = copy.deepcopy(self.env, shared)
            try:
                env.step(action)
            except _Refused:
                return None
            except Exception as error:
                raise RuntimeError(
                    f"TextArena's {self.name} failed on the action {action!r}: {type(error).__name__}: {error}"
                ) from error
            heard = tuple(
                messages + ((own,) if own.speaker == number else ()) for number, messages in enumerate(self.heard)
            )
            return Position(name=self.name, env=env, heard=_hear(env, heard), randomness=random.getstate())


def deal(name: str, seed: int, players: int) -> Position:
    """The first position of a game that TextArena deals to `players` players from `seed`."""
    make, kwargs = _environment(name)
    with _isolated_random(None):
        random.seed(seed)
        env = make(**kwargs)
        env.reset(num_players=players, seed=seed)
        env.state.error_allowance = 0
        env.state.set_invalid_move = _refuse
        return Position(name=name, env=env, heard=_hear(env, ((),) * players), randomness=random.getstate())


def installed() -> bool:
    """Whether TextArena can be imported; does not import it."""
    return importlib.util.find_spec("textarena") is not None


def _refuse(reason: str = "") -> NoReturn:  # noqa: ARG001
    """Replaces TextArena's `set_invalid_move`."""
    raise _Refused


def _hear(env: Any, heard: Heard) -> Heard:
    """Take the players' new messages out of the environment."""
    state = env.state
    new = [list(state.observations[player]) for player in range(len(heard))]
    state.observations = {player: [] for player in range(len(heard))}
    state.logs = []
    return tuple(
        before + tuple(Message(speaker, kind.name, str(text)) for speaker, text, kind in messages)
        for before, messages in zip(heard, new, strict=True)
    )


@contextlib.contextmanager
def _isolated_random(randomness: Any) -> Iterator[None]:
    """Lend the global `random` to the library and mute its prints during a `with` block."""
    with _lock, contextlib.redirect_stdout(io.StringIO()):
        before = random.getstate()
        try:
            if randomness is not None:
                random.setstate(randomness)
            yield
        finally:
            random.setstate(before)


@functools.cache
def _environment(name: str) -> tuple[Any, dict[str, Any]]:
    """The class behind an environment's id, and its keyword arguments in TextArena."""
    with _isolated_random(None), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # A heavy optional package, imported only when one of its games is played.
            from textarena.envs.registration import ENV_REGISTRY

            spec = ENV_REGISTRY[name]
            module, _, attribute = spec.entry_point.partition(":")
            return getattr(importlib.import_module(module), attribute), dict(spec.kwargs)
        except ImportError as error:
            raise ValueError(f"game 'textarena/{name}' cannot be loaded: {error}; pip install textarena") from error
        except KeyError as error:
            raise ValueError(
                f"the TextArena that is installed has no environment {name!r}; expected 0.7.4 or one close to it"
            ) from error
