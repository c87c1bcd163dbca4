"""Nim: heaps of objects; a player takes one or more from one heap, and the player that takes the last object wins.

Chance fills each heap with 1 to `size` objects, all numbers equally likely. The action "2:3" takes three from heap 2;
heaps are numbered from 1. Perfect play is known (Bouton, 1901): the player to move loses exactly when the nim-sum, the
exclusive or of the heaps, is 0, and a winning move makes it 0.

The winner is paid +1 and the other player -1.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Hashable, Iterable
from typing import ClassVar

from spiral.games.base import CHANCE, TERMINAL, Game, State, Style

HEAPS = range(1, 7)
SIZES = range(1, 32)
MAX_POSITIONS = 5_000
"""Positions of one player, up to which exact theory takes a few seconds."""


def nim_sum(heaps: Iterable[int]) -> int:
    """The exclusive or of all heaps."""
    return functools.reduce(operator.xor, heaps, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nim(Game):
    """Heaps of random sizes, normal play: the last to take wins."""

    name: ClassVar[str] = "nim"
    summary: ClassVar[str] = "take from one of several heaps; the last to take wins"
    rules: ClassVar[str] = "Bouton (1901); random heaps"

    heaps: int = 3
    size: int = 7

    def __post_init__(self) -> None:
        """Refuse numbers of heaps and sizes that are not playable."""
        for field, allowed in (("heaps", HEAPS), ("size", SIZES)):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"nim got {field}={value}; expected a number from {allowed[0]} to {allowed[-1]}")

    def initial_state(self) -> NimState:
        """Before the first heap is filled."""
        return NimState(heaps=self.heaps, size=self.size)

    @property
    def enumerable(self) -> bool:
        """By default 512 positions; 4,096 with `heaps=4` or with `size=15`."""
        positions: int = (self.size + 1) ** self.heaps
        return positions <= MAX_POSITIONS

    @property
    def max_turns(self) -> int:
        """Objects taken one by one."""
        return self.heaps * self.size

    @property
    def min_return(self) -> float:
        """A loss."""
        return -1.0

    @property
    def max_return(self) -> float:
        """A win."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class NimState(State):
    """What chance put on each heap and what was taken since, in order."""

    heaps: int = 3
    size: int = 7
    dealt: tuple[int, ...] = ()
    """The heaps that chance has filled so far."""
    taken: tuple[tuple[int, int], ...] = ()
    """The index of the heap, from 0, and the number taken of each move; player 0 at even positions."""

    def heap_sizes(self) -> tuple[int, ...]:
        """The objects on each heap now."""
        left = list(self.dealt)
        for heap, number in self.taken:
            left[heap] -= number
        return tuple(left)

    @property
    def current_player(self) -> int:
        """Players alternate until all heaps are empty."""
        if len(self.dealt) < self.heaps:
            return CHANCE
        return len(self.taken) % 2 if any(self.heap_sizes()) else TERMINAL

    def legal_actions(self) -> tuple[str, ...]:
        """Any number from any heap, heap by heap; none once the game is over."""
        if len(self.dealt) < self.heaps:
            return ()
        return tuple(
            f"{heap}:{number}" for heap, left in enumerate(self.heap_sizes(), start=1) for number in range(1, left + 1)
        )

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """The sizes of the next heap."""
        if len(self.dealt) == self.heaps:
            return ()
        return tuple((str(number), 1 / self.size) for number in range(1, self.size + 1))

    def apply(self, action: str) -> NimState:
        """Fills the next heap, or takes from one."""
        if len(self.dealt) < self.heaps:
            if action not in [name for name, _ in self.chance_outcomes()]:
                raise self.refuse(action)
            return dataclasses.replace(self, dealt=(*self.dealt, int(action)))
        if not self.is_legal(action):
            raise self.refuse(action)
        heap, number = map(int, action.split(":"))
        return dataclasses.replace(self, taken=(*self.taken, (heap - 1, number)))

    def returns(self) -> tuple[float, float]:
        """+1 to the player that took the last object."""
        if self.current_player != TERMINAL:
            return (0.0, 0.0)
        return (1.0, -1.0) if len(self.taken) % 2 else (-1.0, 1.0)

    def information_state(self, player: int) -> str:
        """Everything is public: the deal and the moves in order."""
        return f"{' '.join(map(str, self.dealt))};{' '.join(f'{heap + 1}:{number}' for heap, number in self.taken)}"

    def position_key(self) -> Hashable:
        """The heaps and the player to move; before the deal is done, also what chance may still do."""
        if len(self.dealt) < self.heaps:
            return (self.heaps, self.size, self.dealt)
        return (len(self.taken) % 2, self.heap_sizes())

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form is the heaps alone, which is all that matters to the player to move."""
        sizes = self.heap_sizes()
        if style == "compact":
            return f"nim:{' '.join(map(str, sizes))}"
        moves = [f"seat {ply % 2} took {number} from heap {heap + 1}" for ply, (heap, number) in enumerate(self.taken)]
        lines = [
            f"You are playing nim with {self.heaps} {'heap' if self.heaps == 1 else 'heaps'} of objects. Players take"
            " turns. In a turn a player takes one or more objects from a single heap. The player that takes the last"
            " object of all wins.",
            f"You are seat {player}. Seat 0 moves first.",
            f"The heaps at the start: {_listed(self.dealt)}.",
            f"Moves so far: {', '.join(moves) or 'none'}.",
            f"The heaps now: {_listed(sizes)}.",
        ]
        if self.current_player == player:
            lines.append(
                'It is your turn. An action is the number of a heap and how many objects to take from it: "2:3" takes 3'
                f" from heap 2. Your legal actions: {', '.join(self.legal_actions())}."
            )
        return "\n".join(lines)


def _listed(sizes: tuple[int, ...]) -> str:
    """Heaps with their numbers, as words."""
    return ", ".join(f"heap {heap} has {left}" for heap, left in enumerate(sizes, start=1)) or "none yet"
