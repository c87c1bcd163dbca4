"""What counts as a pattern of reasoning, and what does not: the rules for readers, for judges and for the cues.

The three patterns are those that v3 of the paper follows from Kuhn poker to mathematics (arXiv 2506.24119v3, table 2
and figure 4). The paper names them; the definitions here are our own.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pattern:
    """A pattern of reasoning that a trace shows or does not show."""

    name: str
    """The key in files, letters and underscores."""
    title: str
    """The name in tables."""
    counts: str
    """What a text must do to show it."""
    excluded: str = ""
    """What looks like it and does not count."""


CASES = Pattern(
    name="case_analysis",
    title="case by case",
    counts=(
        "The text takes up at least two alternatives (hands that the opponent may hold, moves that are open, values"
        " that a number may have, ways in which something may happen) and says for each of them what follows."
    ),
    excluded=(
        "Steps of one calculation, a list of alternatives without consequences, a single condition, a repetition of the"
        " rules or of the problem."
    ),
)
EXPECTED_VALUE = Pattern(
    name="expected_value",
    title="expected value",
    counts=(
        "The text weighs what may happen by how likely it is: it multiplies a gain, a loss or a number by a probability"
        " or a share of the cases, compares the average results of several choices, or names the probability of an"
        " outcome and decides by it."
    ),
    excluded=(
        "The words chance, risk or likely alone; percentages and averages that the problem itself asks for; gains that"
        " are taken as certain."
    ),
)
RECOGNITION = Pattern(
    name="pattern_recognition",
    title="pattern recognition",
    counts=(
        "The text points out a regularity or a known form in what is before it (a threat or a line on the board, a"
        " habit of the opponent, a sequence, a symmetry, a kind of equation or problem) and uses it for what it does"
        " next."
    ),
    excluded=(
        "A repetition of the rules or of the problem, a description of the position that leads to nothing, a formula"
        " that is applied without saying why it fits."
    ),
)
PATTERNS = (CASES, EXPECTED_VALUE, RECOGNITION)
"""The patterns that v3 names, in the order of its table."""

PAPER = {CASES.name: (0.72, 0.71), EXPECTED_VALUE.name: (0.78, 0.28), RECOGNITION.name: (0.35, 0.45)}
"""v3's shares of Kuhn poker games and of solutions late in training: Qwen3-4B-Base, judged by a model."""
PAPER_SOURCE = "v3 of the paper, Qwen3-4B-Base late in training on Kuhn poker"


def described(patterns: tuple[Pattern, ...]) -> str:
    """The patterns as numbered rules, for a judge."""
    return "\n".join(
        f'{number}. "{pattern.name}": {pattern.counts}'
        + (f" Not enough: {pattern.excluded}" if pattern.excluded else "")
        for number, pattern in enumerate(patterns, 1)
    )
