"""A truthful thought about a position of nim, and the words that it is made of.

    nim:3 5 7  ->  <think>sum 6 1 take 1 1 1</think>

"sum" goes through the heaps and writes the nim-sum so far after the second and each later one: 3^5 = 6, 6^7 = 1. "take"
writes for each heap how many objects to take so that the nim-sum becomes 0, or "-" where taking cannot do it: heap 1
would have to become 3^1 = 2. So each word follows from two numbers that are already there, while the right answer needs
all of them. A position in which no move wins has only "-".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spiral.games.nim import nim_sum
from spiral.models.nano.tokenizer import THINK_CLOSE, THINK_OPEN
from spiral.text.prompts import THINK_MARK

SUM, TAKE, NOTHING = "sum ", "take ", "- "
MAX_HEAPS, MAX_SIZE = 6, 31
"""The largest game that has a word for every number: nim itself has no larger one."""


def winning_takes(heaps: Sequence[int]) -> list[int]:
    """What to take from each heap to win; 0 where no number does."""
    total = nim_sum(heaps)
    return [max(0, left - (left ^ total)) for left in heaps]


def winning_actions(heaps: Sequence[int]) -> list[str]:
    """The actions that win, none where the position is lost."""
    return [f"{heap}:{number}" for heap, number in enumerate(winning_takes(heaps), start=1) if number]


def thought(heaps: Sequence[int]) -> str:
    """The thought about a position, with its tags."""
    sums = [nim_sum(heaps[:seen]) for seen in range(2, len(heaps) + 1)]
    takes = [f"{number} " if number else NOTHING for number in winning_takes(heaps)]
    return f"{THINK_OPEN}{SUM}{_spaced(sums)}{TAKE}{''.join(takes)}{THINK_CLOSE}"


def _spaced(numbers: Iterable[int]) -> str:
    return "".join(f"{number} " for number in numbers)


def words() -> list[str]:
    """Every word of the compact observations of nim, of thoughts and of replies, in a fixed order."""
    numbers = range(MAX_SIZE + 1)
    written = [f"{number}{end}" for end in (" ", "", "}") for number in numbers]
    boxes = [f"\\boxed{{{heap}:" for heap in range(1, MAX_HEAPS + 1)]
    return [THINK_MARK, THINK_OPEN, THINK_CLOSE, "nim:", SUM, TAKE, NOTHING, *written, *boxes]
