"""Games of three players and of one, small enough to know every result."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from spiral.games import CHANCE, TERMINAL, Game, State, Style


@dataclasses.dataclass(frozen=True, kw_only=True)
class OddOneOut(Game):
    """Three players say heads or tails in turn; one who differs from the two others pays each of them 1."""

    summary: ClassVar[str] = "odd one out"
    rules: ClassVar[str] = "made up"
    num_players = 3

    def initial_state(self) -> OddState:
        return OddState()

    @property
    def enumerable(self) -> bool:
        return True

    @property
    def max_turns(self) -> int:
        return 3

    @property
    def min_return(self) -> float:
        return -2.0

    @property
    def max_return(self) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class OddState(State):
    said: tuple[str, ...] = ()

    @property
    def current_player(self) -> int:
        return len(self.said) if len(self.said) < 3 else TERMINAL

    def legal_actions(self) -> tuple[str, ...]:
        return ("heads", "tails") if len(self.said) < 3 else ()

    def apply(self, action: str) -> OddState:
        if not self.is_legal(action):
            raise self.refuse(action)
        return OddState((*self.said, action))

    def observation(self, player: int, style: Style = "full") -> str:
        return f"You are player {player}. Said: {', '.join(self.said)}. Legal: {', '.join(self.legal_actions())}"

    def information_state(self, player: int) -> str:
        return " ".join(self.said)

    def returns(self) -> tuple[float, ...]:
        odd = [self.said.count(word) == 1 for word in self.said]
        if not self.is_terminal or not any(odd):
            return (0.0, 0.0, 0.0)
        return tuple(-2.0 if is_odd else 1.0 for is_odd in odd)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Echo(Game):
    """One player repeats what chance shows, and is paid 1 at once for each word that is right."""

    summary: ClassVar[str] = "repeat what you see"
    rules: ClassVar[str] = "made up"
    zero_sum: ClassVar[bool] = False

    rounds: int = 2

    @property
    def num_players(self) -> int:
        return 1

    @property
    def enumerable(self) -> bool:
        return True

    @property
    def max_turns(self) -> int:
        return self.rounds

    def initial_state(self) -> EchoState:
        return EchoState(rounds=self.rounds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EchoState(State):
    rounds: int
    words: tuple[str, ...] = ()
    """What chance showed and what was said, by turns."""

    @property
    def current_player(self) -> int:
        if len(self.words) == 2 * self.rounds:
            return TERMINAL
        return 0 if len(self.words) % 2 else CHANCE

    def legal_actions(self) -> tuple[str, ...]:
        return ("ping", "pong") if self.current_player == 0 else ()

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        return (("ping", 0.5), ("pong", 0.5)) if self.is_chance else ()

    def apply(self, action: str) -> EchoState:
        if self.is_terminal or action not in ("ping", "pong"):
            raise self.refuse(action)
        return dataclasses.replace(self, words=(*self.words, action))

    def observation(self, player: int, style: Style = "full") -> str:
        return f"Shown and said: {' '.join(self.words)}. Legal: {', '.join(self.legal_actions())}"

    def information_state(self, player: int) -> str:
        return " ".join(self.words)

    def rewards(self) -> tuple[float, ...]:
        answered = len(self.words) > 0 and len(self.words) % 2 == 0
        return (float(self.words[-1] == self.words[-2]) if answered else 0.0,)

    def returns(self) -> tuple[float, ...]:
        if not self.is_terminal:
            return (0.0,)
        return (float(sum(shown == said for shown, said in zip(self.words[::2], self.words[1::2], strict=True))),)
