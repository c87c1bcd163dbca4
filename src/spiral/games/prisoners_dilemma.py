"""The iterated prisoner's dilemma: two players cooperate or defect over a known number of rounds.

In every round both choose at the same time: player 0's choice is hidden until player 1 has made its own, then both are
shown and paid. Payoffs are those of Axelrod's tournaments (1984, "The Evolution of Cooperation"): 3 each for
cooperating, 1 each for defecting, 5 for defecting alone and 0 for cooperating alone. The return is the sum of the
rounds, so the game is not zero-sum; to defect in every round is its only equilibrium, since the last round is known.

`labels` gives the two choices other names, cooperation first: `prisoners_dilemma(labels='0 1')` is the same game
without words that tell a language model what is expected of it, and in words that a small model can write.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from spiral.games.base import TERMINAL, Game, State, Style
from spiral.games.labels import split_labels

PAYOFFS = {(0, 0): (3, 3), (0, 1): (0, 5), (1, 0): (5, 0), (1, 1): (1, 1)}
"""By the choices of players 0 and 1: 0 cooperates, 1 defects."""
LABELS = "cooperate defect"
ROUNDS = range(1, 101)
MAX_ENUMERABLE = 4
"""Rounds up to which the tree is small: 511 nodes with four."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrisonersDilemma(Game):
    """The prisoner's dilemma over a fixed number of rounds."""

    name: ClassVar[str] = "prisoners_dilemma"
    summary: ClassVar[str] = "cooperate or defect, round after round"
    rules: ClassVar[str] = "Axelrod (1984), with a known last round"
    zero_sum: ClassVar[bool] = False

    rounds: int = 5
    labels: str = ""
    """The names of the two choices, cooperation first; empty for cooperate and defect."""

    def __post_init__(self) -> None:
        """Refuse numbers of rounds out of range, and labels that are not two words."""
        if self.rounds not in ROUNDS:
            raise ValueError(
                f"prisoners_dilemma got rounds={self.rounds}; expected a number from {ROUNDS[0]} to {ROUNDS[-1]}"
            )
        if self.labels and len(split_labels(self.name, "labels", self.labels)) != 2:
            raise ValueError(f"prisoners_dilemma got labels={self.labels!r}; expected two words, cooperation first")

    def initial_state(self) -> PrisonersDilemmaState:
        """The first round."""
        return PrisonersDilemmaState(rounds=self.rounds, labels=self.labels or LABELS)

    @property
    def enumerable(self) -> bool:
        """Every round has four endings."""
        return self.rounds <= MAX_ENUMERABLE

    @property
    def max_turns(self) -> int:
        """Two choices a round."""
        return 2 * self.rounds

    @property
    def min_return(self) -> float:
        """Cooperating alone in every round."""
        return 0.0

    @property
    def max_return(self) -> float:
        """Defecting alone in every round."""
        return 5.0 * self.rounds


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrisonersDilemmaState(State):
    """The choices in order, 0 for cooperation: player 0's at even places, player 1's at odd ones."""

    rounds: int = 5
    labels: str = LABELS
    choices: tuple[int, ...] = ()

    @property
    def current_player(self) -> int:
        """The players in turn."""
        return TERMINAL if len(self.choices) == 2 * self.rounds else len(self.choices) % 2

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.labels.split())

    def legal_actions(self) -> tuple[str, ...]:
        """Both choices, cooperation first."""
        return () if self.is_terminal else self._names

    def apply(self, action: str) -> PrisonersDilemmaState:
        """Add a choice."""
        if not self.is_legal(action):
            raise self.refuse(action)
        return dataclasses.replace(self, choices=(*self.choices, self._names.index(action)))

    def _rounds(self) -> list[tuple[int, int]]:
        """The choices of the rounds that are over."""
        return list(zip(self.choices[0::2], self.choices[1::2], strict=False))

    def rewards(self) -> tuple[float, float]:
        """The payoffs of the round that the last choice ended."""
        if not self.choices or len(self.choices) % 2:
            return (0.0, 0.0)
        first, second = PAYOFFS[self._rounds()[-1]]
        return (float(first), float(second))

    def returns(self) -> tuple[float, float]:
        """The sum of all rounds."""
        return self._points() if self.is_terminal else (0.0, 0.0)

    def _points(self) -> tuple[float, float]:
        paid = [PAYOFFS[chosen] for chosen in self._rounds()]
        return (float(sum(first for first, _ in paid)), float(sum(second for _, second in paid)))

    def information_state(self, player: int) -> str:
        """The rounds that are over, and the player's own choice in the present one."""
        own = f":{self.choices[-1]}" if len(self.choices) % 2 and player == 0 else ""
        return ",".join(f"{first}{second}" for first, second in self._rounds()) + own

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form lists the rounds that are over as pairs of choices, the player's own first."""
        names, rounds = self._names, self._rounds()
        pairs = [(chosen[player], chosen[1 - player]) for chosen in rounds]
        number = min(len(rounds) + 1, self.rounds)
        if style == "compact":
            past = " ".join(f"{names[own]}-{names[other]}" for own, other in pairs)
            return f"prisoners_dilemma:{number}/{self.rounds}:{past}"
        cooperate, defect = names
        lines = [
            f"You are playing a game of {self.rounds} round{'s' * (self.rounds != 1)} with one other player. In each"
            f" round both players choose {cooperate} or {defect} at the same time, without seeing the other's choice."
            f" If both choose {cooperate}, each gets 3 points; if both choose {defect}, each gets 1 point; if one"
            f" chooses {defect} and the other {cooperate}, the first gets 5 points and the other none. Points are"
            " added up over all rounds; you want as many as you can get.",
            f"You are seat {player}, the other player is seat {1 - player}.",
        ]
        lines += [
            f"Round {index}: you chose {names[own]}, the other player chose {names[other]}."
            for index, (own, other) in enumerate(pairs, start=1)
        ]
        points = self._points()
        lines.append(f"Your points so far: {points[player]:.0f}. The other player's: {points[1 - player]:.0f}.")
        if self.is_terminal:
            lines.append("The game is over.")
        elif self.current_player == player:
            lines.append(f"This is round {number} of {self.rounds}. Your legal actions: {cooperate}, {defect}.")
        return "\n".join(lines)
