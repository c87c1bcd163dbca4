"""A game that chance ends: one call, then a coin."""

from __future__ import annotations

from typing import ClassVar

from spiral.games.base import CHANCE, TERMINAL, Game, State


class Flip(Game):
    """One call of a coin; chance ends the game."""

    name: ClassVar[str] = "flip"
    summary: ClassVar[str] = "a coin"
    rules: ClassVar[str] = "none"

    def initial_state(self):
        return FlipState(())


class FlipState(State):
    def __init__(self, done):
        self.done = done

    @property
    def current_player(self):
        return (0, CHANCE, TERMINAL)[len(self.done)]

    def legal_actions(self):
        return ("heads", "tails") if not self.done else ()

    def chance_outcomes(self):
        return (("heads", 0.5), ("tails", 0.5)) if len(self.done) == 1 else ()

    def apply(self, action):
        return FlipState((*self.done, action))

    def observation(self, player, style="full"):
        return "call it"

    def information_state(self, player):
        return str(self.done)

    def returns(self):
        if len(self.done) < 2:
            return (0.0, 0.0)
        return (1.0, -1.0) if self.done[0] == self.done[1] else (-1.0, 1.0)
