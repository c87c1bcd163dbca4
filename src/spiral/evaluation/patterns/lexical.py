r"""A classifier by cues: words and forms that often go with a pattern. It needs no model and is the baseline of judges.

It cannot read. It takes a word for the thing: "a 50% chance of rain" in a problem that is repeated counts as a
probability that is weighed, and a case analysis without "if" or "case" goes unseen. Its cues are English. `spiral
patterns` says how far it agrees with labels made by reading, pattern by pattern. Where that is little, its shares only
compare one checkpoint with another, and a judge is needed for more.
"""

from __future__ import annotations

import dataclasses
import re

from spiral.evaluation.patterns.codebook import CASES, EXPECTED_VALUE, RECOGNITION


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cue:
    """A form that goes with a pattern."""

    pattern: str
    words: str
    """The form in words, for documents and people."""
    form: re.Pattern[str]
    distinct: int = 1
    """How many different texts must match."""

    def found(self, text: str) -> bool:
        """Whether the text has the form often enough."""
        texts = {" ".join(match.group().lower().split()) for match in self.form.finditer(text)}
        return len(texts) >= self.distinct


def _cue(pattern: str, words: str, form: str, distinct: int = 1) -> Cue:
    return Cue(pattern=pattern, words=words, form=re.compile(form, re.IGNORECASE), distinct=distinct)


_SUBJECT = r"(?:then|i|we|you|he|she|it|they|the|my|his|her|player|opponent|x|o)\b"
CUES = (
    _cue(
        CASES.name,
        'two numbered or lettered cases: "case 1" and "case 2", "scenario A" and "scenario B"',
        r"\b(?:case|scenario|possibility|situation)\s*#?(?:\d+|[ivx]+\b|[a-e]\b|one\b|two\b|three\b)",
        distinct=2,
    ),
    _cue(
        CASES.name,
        'two different sentences of the form "if ..., then (I, the opponent) ..."',
        rf"\b(?:if|suppose|assuming)\b[^.!?\n]{{3,120}}?,\s*{_SUBJECT}[^.!?\n]{{3,}}",
        distinct=2,
    ),
    _cue(
        CASES.name,
        '"in the first case", "in the other case"',
        r"\bin (?:the (?:first|second|other)|this|that) case\b",
        2,
    ),
    _cue(
        CASES.name, '"on the other hand", "alternatively, if"', r"\bon the other hand\b|\balternatively,? (?:if|when)\b"
    ),
    _cue(
        EXPECTED_VALUE.name,
        '"expected value", "expected payoff", "expected loss"',
        r"\bexpected\s+(?:value|gain|payoff|return|reward|loss|profit|winnings?|outcome|utility|number)\b|\bEV\b(?=\s*[=(:])",
    ),
    _cue(
        EXPECTED_VALUE.name,
        "a number that is called a chance or a probability",
        r"(?:\d+(?:\.\d+)?\s*\\?%|\b\d+/\d+|\b0?\.\d+|\bone[- ](?:half|third|quarter|in \w+))"
        r"\s*(?:chance|probability|likel)"
        r"|\b(?:probability|chance|odds)\b[^.!?\n]{0,60}?(?:\bis|\bare|=|\bof)\s*\$?(?:\\frac|\d+(?:\.\d+)?\s*\\?%|\d+/\d+|0?\.\d+)",
    ),
    _cue(
        EXPECTED_VALUE.name,
        '"more likely to win", "on average I win": a comparison of choices by their average result',
        r"\bon average,? (?:i|we|he|she|they|the player|player)\b|\b(?:more|less|most) likely to (?:win|lose)\b",
    ),
    _cue(
        RECOGNITION.name,
        '"pattern", "sequence", "symmetry", "trend" that is noticed or followed',
        r"\b(?:notice|see|observe|recogni[sz]e|follow|spot|find|identify|form)\w*\b[^.!?\n]{0,50}"
        r"\b(?:pattern|sequence|symmetr\w+|trend|regularit\w+|cycle|series)\b"
        r"|\b(?:pattern|sequence|trend) (?:is|continues|repeats|shows|of)\b",
    ),
    _cue(
        RECOGNITION.name,
        "a kind of problem or equation that is named: geometric, arithmetic, quadratic, linear",
        r"\b(?:geometric|arithmetic|linear|quadratic|fibonacci)"
        r" (?:sequence|series|progression|equation|function|pattern)\b",
    ),
    _cue(
        RECOGNITION.name,
        '"two in a row" and threats, forks and blocks on a board',
        r"\btwo in a (?:row|line)\b|\b(?:block|threat(?:en)?s?|fork|winning (?:line|move|pattern))\b",
    ),
    _cue(
        RECOGNITION.name,
        'a habit of the opponent: "always bets", "tends to", "every time"',
        r"\b(?:always|usually|keeps?|tends? to)\s+(?:bet|call|check|fold|play|offer|accept|reject|den|bluff)\w*"
        r"|\b(?:each|every) time (?:he|she|they|the opponent|player)\b",
    ),
)
"""Written from the codebook and from traces that are not among the labelled ones."""


def classify_by_cues(text: str) -> frozenset[str]:
    """The patterns of which the text has a cue."""
    return frozenset(cue.pattern for cue in CUES if cue.found(text))
