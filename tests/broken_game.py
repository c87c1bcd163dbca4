"""A game of three moves that can break the contract in one chosen way, and estimators that do."""

from __future__ import annotations

import dataclasses
import fractions
import math
import sys
from typing import ClassVar

from spiral.games.base import CHANCE, TERMINAL, Game, State

RETURNS = {
    "nan": (math.nan, 0.0),
    "inf": (math.inf, -math.inf),
    "huge": (1e300, -1e300),
    "sum": (5.0, 3.0),
    "three": (1.0, 0.0, -1.0),
    "one": (1.0,),
    "words": ("won", "lost"),
    "nothing": None,
    "bounds": (2.5, -2.5),
    "integers": (1, -1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Game):
    summary: ClassVar[str] = "breaks the contract"
    rules: ClassVar[str] = "none"

    fault: str = "none"

    @property
    def min_return(self):
        return -2.0 if self.fault == "bounds" else None

    @property
    def max_return(self):
        return 2.0 if self.fault == "bounds" else None

    def initial_state(self):
        if self.fault == "initial":
            raise KeyError("first")
        return None if self.fault == "no first state" else BrokenState(fault=self.fault)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrokenState(State):
    fault: str
    moves: tuple[str, ...] = ()

    @property
    def current_player(self):
        second = len(self.moves) == 1
        if self.fault in ("endless chance", "chance outcomes"):
            return CHANCE
        if self.fault == "player" and second:
            return 7
        if self.fault == "disk" and second:
            raise OSError(28, "No space left on device")
        return TERMINAL if len(self.moves) >= 3 else len(self.moves) % 2

    def chance_outcomes(self):
        return (("go", 1.0),) if self.fault == "endless chance" else (1, 2)

    def legal_actions(self):
        if len(self.moves) == 1:
            if self.fault == "legal":
                raise ValueError("not enough values to unpack")
            if self.fault == "exit":
                sys.exit(3)
            if self.fault == "no actions":
                return ()
            if self.fault == "numbers":
                return (0, 1)
        return ("0", "1")

    def apply(self, action):
        if self.fault == "apply" and len(self.moves) == 2:
            return {}["boom"]
        if self.fault == "no return":
            return None
        return dataclasses.replace(self, moves=(*self.moves, action))

    def observation(self, player, style="full"):
        if self.fault == "observation" and len(self.moves) == 1:
            return 1 / 0
        return None if self.fault == "no observation" and len(self.moves) == 1 else "Choose 0 or 1."

    def information_state(self, player):
        return ",".join(self.moves)

    def returns(self):
        if len(self.moves) < 3:
            return (0.0, 0.0)
        return RETURNS.get(self.fault, (1.0, -1.0))


def raising(episodes, baselines):
    baselines.update("tictactoe", 0, 1.0)
    raise KeyError("estimator boom")


def exiting(episodes, baselines):
    sys.exit(7)


def short(episodes, baselines):
    return [(0.5, 0.0)]


def nan(episodes, baselines):
    return [(0.0, math.nan)] * len(episodes)


def words(episodes, baselines):
    return [("a", "b")] * len(episodes)


def nan_baseline(episodes, baselines):
    baselines.update("tictactoe", 0, math.nan)
    return [(1.0, 0.0)] * len(episodes)


def digits(episodes, baselines):
    return [[1, "0.5"] for _ in episodes]


def halves(episodes, baselines):
    return [[1, fractions.Fraction(1, 2)] for _ in episodes]


def third_step(episodes, baselines):
    """Fails in its third call; a baseline of its own counts them."""
    baselines.update("calls", 0, 1.0)
    if baselines.value("calls", 0) > 0.12:
        raise KeyError("third step")
    return [(0.5, -0.5)] * len(episodes)
