r"""What a reply thinks, and what it answers.

Reasoning models wrap their thoughts in delimiters, each family in its own (`FAMILIES`); the prompt of some opens the
thought already. The answer is what follows the last thought, and a reply that breaks off inside a thought has none.
Replies without delimiters think in plain sight: their answer begins with the last box. Nothing but the answer can hold
an action.

Inside a thought only its own closing delimiter counts, and the last one of a reply ends the thinking, as in the
families' own parsers: a thought opened twice is closed once. A closing delimiter without an opening one ends a thought
that the prompt opened. Delimiters in quotes are only spoken of, and so is one in the midst of a sentence that comes
after the answer's box and before no other.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from spiral.text.boxes import last_box

OPEN, CLOSE = "<think>", "</think>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThinkingFamily:
    """How some models mark their thoughts."""

    name: str
    source: str
    """Models that do, or whose prompts ask for it."""
    delimiters: tuple[str, ...]
    """Where they are fixed texts: the opening and the closing one. Otherwise the tokens that they are made of."""
    opening: str = ""
    """A regular expression, where it is not the first of `delimiters`."""
    closing: str = ""
    words: tuple[str, ...] = ()
    """One of these is in every text with a delimiter, where it need not be one of `delimiters`."""
    sentences: bool = False
    """Whether the delimiters are ordinary words: then they count only in their order, and a player may say them."""


FAMILIES = (
    ThinkingFamily(name="think", source="DeepSeek-R1, Qwen3, QwQ, GLM-4.5, SmolLM3, MiMo", delimiters=(OPEN, CLOSE)),
    ThinkingFamily(name="magistral", source="Magistral, Ministral 3", delimiters=("[THINK]", "[/THINK]")),
    ThinkingFamily(
        name="harmony",
        source="gpt-oss; all channels but `final` are thoughts",
        delimiters=("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>"),
        opening=r"(?:<\|start\|>assistant)?<\|channel\|>(?!\s*final\b)"
        r"(?:[\w.=: -]{0,80}(?:<\|constrain\|>\w{0,20})?\s*<\|message\|>)?",
        closing=r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>\s*final\b"
        r"(?:\s*<\|constrain\|>\w{0,20})?(?:\s*<\|message\|>)?",
    ),
    ThinkingFamily(
        name="harmony, special tokens left out",
        source="gpt-oss as servers without a reasoning parser give it",
        delimiters=(),
        words=("analysis", "assistantfinal"),
        opening=r"\Aanalysis(?=[A-Z])",
        closing=r"assistantfinal",
        sentences=True,
    ),
    ThinkingFamily(name="seed", source="Seed-OSS", delimiters=("<seed:think>", "</seed:think>")),
    ThinkingFamily(name="reasoning", source="Reka Flash 3, GRPO recipes", delimiters=("<reasoning>", "</reasoning>")),
    ThinkingFamily(name="REASONING", source="LLaVA-CoT", delimiters=("<REASONING>", "</REASONING>")),
    ThinkingFamily(name="thinking", source="Reflection, Claude's prompts", delimiters=("<thinking>", "</thinking>")),
    ThinkingFamily(name="reflection", source="Reflection", delimiters=("<reflection>", "</reflection>")),
    ThinkingFamily(name="thought", source="EXAONE Deep, Gemini's prompts", delimiters=("<thought>", "</thought>")),
    ThinkingFamily(name="Thought", source="Marco-o1", delimiters=("<Thought>", "</Thought>")),
    ThinkingFamily(name="scratchpad", source="Claude's prompts", delimiters=("<scratchpad>", "</scratchpad>")),
    ThinkingFamily(name="SCRATCHPAD", source="Hermes 3", delimiters=("<SCRATCHPAD>", "</SCRATCHPAD>")),
    ThinkingFamily(
        name="openthoughts", source="Sky-T1, OpenThinker", delimiters=("<|begin_of_thought|>", "<|end_of_thought|>")
    ),
    ThinkingFamily(name="longcat", source="LongCat-Flash-Thinking", delimiters=("<longcat_think>", "</longcat_think>")),
    ThinkingFamily(name="cohere", source="Command A Reasoning", delimiters=("<|START_THINKING|>", "<|END_THINKING|>")),
    ThinkingFamily(name="kimi", source="Kimi-VL-Thinking", delimiters=("◁think▷", "◁/think▷")),
    ThinkingFamily(name="apertus", source="Apertus", delimiters=("<|inner_prefix|>", "<|inner_suffix|>")),
    ThinkingFamily(
        name="gemma", source="Gemma 4", delimiters=("<|channel>", "<channel|>"), opening=r"<\|channel>(?:thought\b)?"
    ),
    ThinkingFamily(
        name="granite",
        source="Granite 3.2",
        delimiters=(),
        words=("my thought process:", "my response:"),
        opening=r"(?m:^)\s*(?:Here is|Here's) my thought process:",
        closing=r"(?:Here is|Here's) my response:",
        sentences=True,
    ),
)
"""One table for moves, answers, prompts and tokens."""
_MARKS = frozenset(mark for family in FAMILIES for mark in family.words or (text[0] for text in family.delimiters))
"""One of these is in every text with any delimiter; most replies have none."""
MESSAGE_END = "<|end|>"
"""Harmony's end of a thought as well as of an answer; Phi ends its turns with it."""
_CHANNEL = "<|channel|>"
"""Without this token a tokenizer's `<|end|>` and its like are none of harmony's."""
QUOTES = ("``", '""', "''", "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}")
_MID_SENTENCE = re.compile(r"(?:[\w,] |\()\Z")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thought:
    """A reply in two parts: `head + answer` is the whole reply."""

    head: str
    """All that comes before the answer, delimiters included."""
    answer: str
    closed: bool
    """Whether an answer was reached, if only an empty one: the thinking is closed, or there are only boxes."""
    delimited: bool = dataclasses.field(default=False, compare=False)
    """Whether delimiters tell thinking and answer apart."""
    closing: str = dataclasses.field(default="", compare=False)
    """The delimiter that ended the thinking, where there is one."""

    @property
    def thinking(self) -> str:
        """The head without delimiters."""
        kept, end = "", 0
        for found in _delimiters(self.head, quoted=True):
            kept, end = kept + self.head[end : found.start], found.end
        return kept + self.head[end:]


@dataclasses.dataclass(frozen=True)
class _Delimiter:
    start: int
    end: int
    family: ThinkingFamily
    opens: bool


def split_reply(reply: str, opened: str | bool = "") -> Thought:
    """Tells thinking and answer apart.

    Args:
        reply: what the model wrote.
        opened: the opening delimiter that the prompt ends with, where it opens the thought already; True for `OPEN`.
    """
    inside = opened_family(OPEN if opened is True else opened or "")
    delimited = inside is not None
    last: _Delimiter | None = None  # the answer begins after it
    for found in _delimiters(reply):
        if inside is not None:
            if not found.opens and found.family is inside:
                inside, last = None, found
        elif not _spoken_of(reply, found, last):
            inside, last = (found.family, last) if found.opens else (None, found)
            delimited = True
    if inside is not None:
        return Thought(head=reply, answer="", closed=False, delimited=True)
    if last is not None:
        head, answer = reply[: last.end], reply[last.end :]
        return Thought(head=head, answer=answer, closed=True, delimited=True, closing=reply[last.start : last.end])
    box = last_box(reply)
    if box is None:
        return Thought(head=reply, answer="", closed=False, delimited=delimited)
    return Thought(head=reply[: box.start], answer=reply[box.start :], closed=True, delimited=delimited)


def opened_family(text: str) -> ThinkingFamily | None:
    """The family of the thought that is open at the end of a text, such as that of a prompt."""
    inside: ThinkingFamily | None = None
    for found in _delimiters(text):
        if inside is None:
            inside = found.family if found.opens else None
        elif not found.opens and found.family is inside:
            inside = None
    return inside


def opened_delimiter(text: str) -> str:
    """The opening delimiter of the thought that is open at the end of a text; "" where none is."""
    family = opened_family(text)
    if family is None:
        return ""
    opening = [found for found in _delimiters(text) if found.opens and found.family is family][-1]
    return text[opening.start : opening.end]


def thinking_tokens(tokenizer: Any) -> frozenset[str]:
    """The tokens of a tokenizer that belong to delimiters of thoughts, so that they are part of a reply's text."""
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return frozenset(
        text
        for family in FAMILIES
        if family.name != "harmony" or _CHANNEL in known
        for text in family.delimiters
        if text in known
    )


def delimiter_texts() -> frozenset[str]:
    """All fixed texts that open or close a thought in some family, those of harmony's parts included."""
    return frozenset(text for family in FAMILIES for text in family.delimiters)


def count_thinking_tokens(token_ids: Sequence[int], thought: Thought, decode: Callable[[Sequence[int]], str]) -> int:
    """How many of a reply's T tokens come before its answer; the token in which the thinking ends is one of them.

    The shortest prefix of tokens that spells the whole head, found by bisection: `decode` is called log2 T times.
    """
    if not thought.closed:
        return len(token_ids)
    if not thought.head:
        return 0
    counts = range(len(token_ids) + 1)
    return bisect.bisect_left(counts, True, key=lambda count: decode(token_ids[:count]).startswith(thought.head))


@functools.cache
def _pattern(family: ThinkingFamily) -> re.Pattern[str]:
    """Both delimiters of a family; the opening one is a group."""
    opening = family.opening or re.escape(family.delimiters[0])
    closing = family.closing or re.escape(family.delimiters[1])
    return re.compile(f"(?P<opening>{opening})|{closing}")


def _delimiters(text: str, *, quoted: bool = False) -> list[_Delimiter]:
    """The delimiters of a text in order, without those in quotes unless they are asked for."""
    if not any(mark in text for mark in _MARKS):
        return []
    found = [
        _Delimiter(match.start(), match.end(), family, match["opening"] is not None)
        for family in FAMILIES
        if any(word in text for word in family.words or family.delimiters)
        for match in _pattern(family).finditer(text)
        if quoted or not _quoted(text, match.start(), match.end())
    ]
    return sorted(found, key=lambda delimiter: delimiter.start)


def _quoted(text: str, start: int, end: int) -> bool:
    """Whether quotes stand around a delimiter that is only spoken of: "close it with `</think>`"."""
    before = text[max(0, start - 2) : start - 1] if start else ""
    quotes = text[start - 1 : start] + text[end : end + 1] if start else ""
    return quotes in QUOTES and not (before.isalnum() or before in tuple(".,;:!?)"))


def _spoken_of(reply: str, found: _Delimiter, last: _Delimiter | None) -> bool:
    r"""Whether a delimiter outside of a thought is part of a sentence about it: "\boxed{4}, without <think> tags".

    Only after a box that stands in plain sight and where no other box follows; a closing one only after a thought that
    was closed, since otherwise it may end one that the prompt opened.
    """
    if found.family.sentences:
        return not found.opens
    if last is None and not found.opens:
        return False
    seen = reply[0 if last is None else last.end : found.start]
    in_sentence = _MID_SENTENCE.search(seen[-2:]) is not None
    return in_sentence and last_box(seen) is not None and last_box(reply[found.end :]) is None
