"""A Lewis signalling game: two players who win or lose together have to agree what signals mean.

Chance draws a state of the world, each equally likely, which player 0 alone sees. Player 0 sends one of the signals;
player 1 sees the signal alone and names a state. Both get 1 if it is the right one and 0 otherwise (Lewis, 1969,
"Convention"; for learning it by reinforcement, Skyrms, 2010, "Signals"). No signal means anything at first. With as
many signals as states or more there are perfect conventions, and all of them are equally good; with fewer signals some
states have to share one. Players who ignore signals are right once in as many games as there are states.

States and signals are numbers by default, since these a small model can write; for a language model give words, such
as `lewis_signalling(states='red green blue',signals='ba di gu')`: with the same words on both sides it need not learn.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from spiral.games.base import CHANCE, TERMINAL, Game, State, Style
from spiral.games.labels import split_labels

NUMBERS = "0 1 2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LewisSignalling(Game):
    """One player sees a state and sends a signal, the other sees the signal and names the state."""

    name: ClassVar[str] = "lewis_signalling"
    summary: ClassVar[str] = "two partners agree what signals mean"
    rules: ClassVar[str] = "Lewis (1969), one round"
    zero_sum: ClassVar[bool] = False

    states: str = NUMBERS
    """The states of the world."""
    signals: str = NUMBERS
    """The signals that can be sent."""

    def __post_init__(self) -> None:
        """Refuse states and signals that are not words."""
        split_labels(self.name, "states", self.states)
        split_labels(self.name, "signals", self.signals)

    def initial_state(self) -> LewisSignallingState:
        """Before a state of the world is drawn."""
        return LewisSignallingState(states=self.states, signals=self.signals)

    @property
    def enumerable(self) -> bool:
        """States times signals times states."""
        return True

    @property
    def max_turns(self) -> int:
        """A signal and an answer."""
        return 2

    @property
    def min_return(self) -> float:
        """A wrong answer."""
        return 0.0

    @property
    def max_return(self) -> float:
        """A right answer."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LewisSignallingState(State):
    """What was drawn, sent and answered; empty texts where that is still to come."""

    states: str = NUMBERS
    signals: str = NUMBERS
    drawn: str = ""
    sent: str = ""
    answer: str = ""

    @property
    def current_player(self) -> int:
        """Chance, the sender, the receiver."""
        if not self.drawn:
            return CHANCE
        return TERMINAL if self.answer else 1 if self.sent else 0

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """Every state, equally likely."""
        known = self.states.split()
        return () if self.drawn else tuple((state, 1 / len(known)) for state in known)

    def legal_actions(self) -> tuple[str, ...]:
        """The signals for the sender, the states for the receiver."""
        if self.current_player < 0:
            return ()
        return tuple((self.states if self.sent else self.signals).split())

    def apply(self, action: str) -> LewisSignallingState:
        """Draw a state, send a signal or name a state."""
        if not self.drawn:
            if action not in self.states.split():
                raise self.refuse(action)
            return dataclasses.replace(self, drawn=action)
        if not self.is_legal(action):
            raise self.refuse(action)
        return dataclasses.replace(self, **{"answer" if self.sent else "sent": action})

    def returns(self) -> tuple[float, float]:
        """1 for both if the answer is right."""
        right = float(self.is_terminal and self.answer == self.drawn)
        return (right, right)

    def information_state(self, player: int) -> str:
        """What the player knows; after the answer both know everything."""
        if self.is_terminal:
            return f"{self.drawn}:{self.sent}:{self.answer}"
        return f"{self.drawn}:{self.sent}" if player == 0 else f"?:{self.sent}"

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form is the player's part and what it knows."""
        over = f":{self.drawn}:{self.sent}:{self.answer}" if self.is_terminal else ""
        if style == "compact":
            known = over or f":{self.drawn if player == 0 else self.sent}"
            return f"lewis_signalling:{'send' if player == 0 else 'read'}{known}"
        lines = [
            f"You and a partner win or lose together. One of the states {', '.join(self.states.split())} is drawn, each"
            " equally likely. Seat 0 sees it and sends one signal out of"
            f" {', '.join(self.signals.split())}; seat 1 sees only the signal and names a state. If it is the one that"
            " was drawn, both of you get 1 point, otherwise none. Signals mean what the two of you make them mean.",
            f"You are seat {player}, your partner is seat {1 - player}.",
        ]
        if player == 0 and self.drawn:
            lines.append(f"The state is {self.drawn}.")
        if self.sent:
            lines.append(f"The signal is {self.sent}.")
        if self.is_terminal:
            verdict = "right" if self.answer == self.drawn else "wrong"
            lines.append(f"Seat 1 named {self.answer}, which is {verdict}: the state was {self.drawn}.")
        elif self.current_player == player:
            lines.append(f"It is your turn. Your legal actions: {', '.join(self.legal_actions())}.")
        return "\n".join(lines)
