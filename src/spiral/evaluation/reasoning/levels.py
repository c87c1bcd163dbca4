"""Levels of difficulty of some families of reasoning-gym (arXiv 2505.24760), from 1, the easiest, to `LEVELS`.

A family's own settings mix easy and hard problems. A level narrows them to problems of about one difficulty, so that
the share of right answers at a level says how much of it a model can do. All answers are whole numbers. The levels are
ours, by the number of terms, digits, words or animals; reasoning-gym's own curricula are not used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

LEVELS = 5
Settings = Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelledFamily:
    """A family whose problems have levels."""

    summary: str
    """What its problems ask, in a few words."""
    settings: tuple[Settings, ...]
    """[LEVELS] the settings of reasoning-gym at each level."""


def _terms_and_digits(*levels: tuple[int, int, int]) -> tuple[Settings, ...]:
    """Levels from the number of terms and the smallest and largest number of digits of each."""
    return tuple(
        {"min_terms": terms, "max_terms": terms, "min_digits": low, "max_digits": high} for terms, low, high in levels
    )


LEVELLED = {
    "chain_sum": LevelledFamily(
        summary="sums and differences",
        settings=_terms_and_digits((2, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (6, 5, 5)),
    ),
    "products": LevelledFamily(
        summary="multiplication",
        settings=_terms_and_digits((2, 1, 1), (3, 1, 1), (2, 2, 2), (2, 3, 3), (2, 4, 4)),
    ),
    "gcd": LevelledFamily(
        summary="greatest common divisors",
        settings=tuple(
            {"min_value": largest // 10 + 1, "max_value": largest} for largest in (20, 100, 400, 2_000, 20_000)
        ),
    ),
    "count_bits": LevelledFamily(
        summary="ones in the binary form of a number",
        settings=tuple(
            {"min_n": largest // 16 + 1, "max_n": largest} for largest in (31, 255, 4_095, 65_535, 1_048_575)
        ),
    ),
    "letter_counting": LevelledFamily(
        summary="how often a letter is in a text",
        settings=tuple({"min_words": words, "max_words": words} for words in (4, 8, 15, 25, 40)),
    ),
    "leg_counting": LevelledFamily(
        summary="legs of some animals together",
        settings=tuple(
            {"min_animals": animals, "max_animals": animals, "max_instances": instances}
            for animals, instances in ((1, 5), (2, 5), (4, 9), (6, 12), (10, 15))
        ),
    ),
}
"""By the family's name in reasoning-gym."""


def settings_of(family: str, level: int) -> Settings:
    """Return the settings of reasoning-gym at a level of a family; none at level 0, the family's own mixture.

    Raises:
        ValueError: The family has no levels, or no such level.
    """
    if level == 0:
        return {}
    if family not in LEVELLED:
        raise ValueError(f"reasoning-gym's family {family!r} has no levels here; these have: {', '.join(LEVELLED)}")
    if not 1 <= level <= LEVELS:
        raise ValueError(f"got level {level} of {family}; expected 1 to {LEVELS}, or 0 for the family's own settings")
    return LEVELLED[family].settings[level - 1]
