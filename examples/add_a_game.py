"""A game in one file: one-heap Nim, checked, solved, played, and ready for training.

    python examples/add_a_game.py

A game is a frozen dataclass that hands out a first state; a state is a frozen dataclass that never changes. Hidden
cards and dice are chance: `current_player` is `CHANCE` and `chance_outcomes()` lists what may happen
(`spiral/games/kuhn_poker.py` shows how). To train on it, in the directory of this file and with a model that can read:

    PYTHONPATH=. spiral train smollm2-cpu --set 'selfplay.games={ "add_a_game:Nim" = 1.0 }'
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import spiral
from spiral.games import TERMINAL, Game, State, Style
from spiral.policies import scripted_policy
from spiral.theory import uniform_policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nim(Game):
    """The players take one to three objects in turn, and the player who takes the last one wins.

    The fields are the game's parameters; each has a default.
    """

    summary: ClassVar[str] = "take one to three from a heap; the last to take wins"
    rules: ClassVar[str] = "the subtraction game in normal play"
    heap: int = 7

    def __post_init__(self) -> None:
        if self.heap < 1:
            raise ValueError(f"nim got heap={self.heap}; expected 1 or more")

    def initial_state(self) -> NimState:
        return NimState(heap=self.heap)

    @property
    def enumerable(self) -> bool:
        return self.heap <= 12

    @property
    def max_turns(self) -> int:
        return self.heap


@dataclasses.dataclass(frozen=True, kw_only=True)
class NimState(State):
    """The objects taken, turn by turn."""

    heap: int
    taken: tuple[int, ...] = ()

    @property
    def left(self) -> int:
        return self.heap - sum(self.taken)

    @property
    def current_player(self) -> int:
        return len(self.taken) % 2 if self.left else TERMINAL

    def legal_actions(self) -> tuple[str, ...]:
        return tuple(str(number) for number in (1, 2, 3) if number <= self.left)

    def apply(self, action: str) -> NimState:
        if not self.is_legal(action):
            raise self.refuse(action)
        return dataclasses.replace(self, taken=(*self.taken, int(action)))

    def returns(self) -> tuple[float, float]:
        if self.left:
            return (0.0, 0.0)
        return (1.0, -1.0) if len(self.taken) % 2 else (-1.0, 1.0)

    def information_state(self, player: int) -> str:
        return ",".join(str(number) for number in self.taken)

    def observation(self, player: int, style: Style = "full") -> str:
        history = " ".join(str(number) for number in self.taken)
        if style == "compact":
            return f"nim:{player}:{self.left}:{history}"
        lines = [
            f"You are playing Nim with one heap of {self.heap} objects. The players take one, two or three objects in"
            " turn; the player who takes the last one wins.",
            f"You are player {player}. Player 0 moves first.",
            f"Taken so far, in turn: {history or 'nothing'}. Left: {self.left}.",
        ]
        if self.current_player == player:
            lines.append(f"It is your turn. Your legal actions: {', '.join(self.legal_actions())}.")
        return "\n".join(lines)


def main() -> None:
    """Checks the game, solves it, and lets random play meet perfect play."""
    game = Nim(heap=8)
    spiral.check_game(game)  # walks the whole tree; an error says where, what was expected, and how to fix it
    print(game.initial_state().observation(0))
    print("value for the first player:", spiral.minimax_value(game.initial_state()))  # a multiple of four is lost
    print("NashConv of uniform play:", spiral.nash_conv(game, uniform_policy))
    random, perfect = scripted_policy("random", game), scripted_policy("minimax", game)
    episodes = spiral.play([spiral.Match(game=game, seed=seed, policies=(random, perfect)) for seed in range(50)])
    print("games that perfect play lost:", sum(episode.returns[1] < 0 for episode in episodes), "of", len(episodes))


if __name__ == "__main__":
    main()
