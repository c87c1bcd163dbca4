"""Names of actions that a game's parameter lists, such as "red green blue"."""

from __future__ import annotations

import re

MAX_LABELS = 20
WORD = re.compile(r"[A-Za-z0-9_]{1,24}")


def split_labels(game: str, parameter: str, text: str) -> tuple[str, ...]:
    """Return the words of a parameter, which are separated by single spaces.

    Raises:
        ValueError: They are not two or more different words of letters and digits.
    """
    words = tuple(text.split(" "))
    different = len({word.casefold() for word in words}) == len(words)
    if not 2 <= len(words) <= MAX_LABELS or not different or not all(map(WORD.fullmatch, words)):
        raise ValueError(
            f"{game} got {parameter}={text[:80]!r}; expected 2 to {MAX_LABELS} different words of letters and digits"
            " with a space between them, such as 'red green blue'"
        )
    return words
