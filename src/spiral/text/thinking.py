r"""What a reply thinks, and what it answers.

Reasoning models wrap their thoughts in delimiters, each family in its own (`FAMILIES`); the prompt of some opens the
thought already. The answer is what follows the last thought, and a reply that breaks off inside a thought has none.
Replies without delimiters think in plain sight: their answer begins with the last box. Nothing but the answer can hold
an action.

Inside a thought only its own closing delimiter counts, and the last one of a reply ends the thinking, as in the
families' own parsers: a thought opened twice is closed once. Tags count in any case, with spaces and attributes. A
closing delimiter without an opening one ends a thought that the prompt opened. Delimiters in quotes are only spoken of,
and so is one in the midst of a sentence that comes after the answer's box and before no other.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Callable, Container, Sequence
from typing import Any

from spiral.text.boxes import last_box
from spiral.text.tokens import any_of

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
    ordered: bool = False
    """Whether the closing delimiter also stands elsewhere: then it counts only inside of a thought."""


def _tag(name: str, source: str, word: str = "", bars: str = "") -> ThinkingFamily:
    """A family of `<word>` and `</word>`, in any case, with spaces and attributes; `bars` for `<|word|>`."""
    word = word or name
    bar, spelled = re.escape(bars), re.escape(word)
    closing = rf"<\s*/\s*{spelled}\s*>"
    if bars:
        closing += rf"|<\|/{spelled}\|>|</\|{spelled}\|>|<\|end_(?:of_)?{spelled}\|>"
    return ThinkingFamily(
        name=name,
        source=source,
        delimiters=(f"<{bars}{word}{bars}>", f"<{bars}/{word}{bars}>"),
        words=(word.lower(),),
        opening=rf"(?i:<{bar}\s*{spelled}(?:\s(?:[^<>]{{0,200}}[^<>/])?)?{bar}>)",
        closing=rf"(?i:{closing})",
    )


FAMILIES = (
    _tag("think", "DeepSeek-R1, Qwen3, QwQ, GLM-4.5, SmolLM3, MiMo"),
    ThinkingFamily(
        name="magistral",
        source="Magistral, Ministral 3",
        delimiters=("[THINK]", "[/THINK]"),
        words=("think",),
        opening=r"(?i:\[\s*THINK\s*\])",
        closing=r"(?i:\[\s*/\s*THINK\s*\])",
    ),
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
        ordered=True,
    ),
    ThinkingFamily(
        name="solar",
        source="Solar Open; other messages end with the same token",
        delimiters=("<|think|>", "<|end|>"),
        words=("<|think|>", "<|end", "/think", "/|think"),
        closing=r"<\|end\|>(?:(?:<\|begin\|>)?assistant(?:<\|content\|>)?)?|<\|?/\|?think\|?>"
        r"|<\|end_(?:of_)?think\|>",
        ordered=True,
    ),
    ThinkingFamily(
        name="s1",
        source="s1",
        delimiters=("<|im_start|>think", "<|im_start|>answer"),
    ),
    ThinkingFamily(
        name="medgemma",
        source="MedGemma",
        delimiters=("<unused94>", "<unused95>"),
        opening=r"<unused94>(?:thought\b)?",
    ),
    _tag("seed", "Seed-OSS", "seed:think"),
    _tag("reasoning", "Reka Flash 3, LLaVA-CoT, GRPO recipes"),
    _tag("thinking", "Reflection, Claude's prompts"),
    _tag("reflection", "Reflection"),
    _tag("thought", "EXAONE Deep, Marco-o1, Gemini's prompts"),
    _tag("thoughts", "prompts in use"),
    _tag("scratchpad", "Claude's prompts, Hermes 3"),
    _tag("analysis", "Claude's prompts"),
    _tag("cot", "prompts in use"),
    _tag("antThinking", "Claude's prompts"),
    _tag("inner_monologue", "prompts in use"),
    _tag("inner_thoughts", "prompts in use"),
    _tag("internal_monologue", "prompts in use"),
    _tag("chain_of_thought", "prompts in use"),
    _tag("reason", "GRPO recipes"),
    _tag("rationale", "prompts in use"),
    _tag("thinking, between bars", "Trinity", "thinking", "|"),
    _tag("reasoning, between bars", "GRPO recipes", "reasoning", "|"),
    _tag("thought, between bars", "GRPO recipes", "thought", "|"),
    ThinkingFamily(
        name="openthoughts", source="Sky-T1, OpenThinker", delimiters=("<|begin_of_thought|>", "<|end_of_thought|>")
    ),
    _tag("longcat", "LongCat-Flash-Thinking", "longcat_think"),
    ThinkingFamily(
        name="cohere",
        source="Command A Reasoning",
        delimiters=("<|START_THINKING|>", "<|END_THINKING|>"),
        words=("start_thinking", "end_thinking"),
        opening=r"(?i:<\|?\s*START_THINKING\s*\|?>)",
        closing=r"(?i:<\|?\s*END_THINKING\s*\|?>)",
    ),
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
        ordered=True,
    ),
)
"""One table for moves, answers, prompts and tokens."""
_MARKS = frozenset(mark for family in FAMILIES for mark in [text[0] for text in family.delimiters] or family.words)
"""One of these is in every text with any delimiter, in lower case; most replies have none."""
_WORDS = any_of(word for family in FAMILIES if family.delimiters for word in family.words)
_MARK = re.compile(r"(?:<(?P<bar>\|?)(?P<word>[A-Za-z][\w:.-]*)(?P=bar)>|\[(?P<capitals>[A-Z][\w-]*)\])\s*\Z")
"""A tag at the end of a prompt."""
_NO_THOUGHT = re.compile(
    r"assistant|model|ai|bot|gpt|chatbot|answer|response|output|final|solution|message|content|text|reply|result|user"
    r"|human|system|role|header|start|begin|end|bos|eos|sep|turn|inst|s|box"
)
"""Parts of the names of tags that begin a turn or an answer."""
MESSAGE_END = "<|end|>"
"""Harmony's end of a thought as well as of an answer; Phi ends its turns with it."""
TURN_START = "<|im_start|>"
"""s1 begins its thought and its answer with it, as turns begin elsewhere."""
CHANNEL = "<|channel|>"
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
    family: ThinkingFamily | None = dataclasses.field(default=None, compare=False)
    """That of the thought that the prompt opened."""

    @property
    def thinking(self) -> str:
        """The head without delimiters."""
        kept, end = "", 0
        for found in _delimiters(self.head, self.family, quoted=True):
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
    given = OPEN if opened is True else opened or ""
    inside = family = opened_family(given) or unknown_family(given)
    delimited = inside is not None
    last: _Delimiter | None = None  # the answer begins after it
    for found in _delimiters(reply, family):
        if inside is not None:
            if not found.opens and found.family is inside:
                inside, last = None, found
        elif not _spoken_of(reply, found, last):
            inside, last = (found.family, last) if found.opens else (None, found)
            delimited = True
    if inside is not None:
        return Thought(head=reply, answer="", closed=False, delimited=True, family=family)
    if last is not None:
        head, answer, closing = reply[: last.end], reply[last.end :], reply[last.start : last.end]
        return Thought(head=head, answer=answer, closed=True, delimited=True, closing=closing, family=family)
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


def unknown_opening(prompt_end: str, conversation: str, known: Container[str]) -> str:
    """A tag that opens a reply and that no family has; "" where there is none.

    Args:
        prompt_end: what the prompt says after the question.
        conversation: a whole conversation with an answer in it: what stands there is no thought's.
        known: where a closing tag is looked for, since tokens such as `<|word|>` usually begin turns.
    """
    found = _MARK.search(prompt_end)
    if found is None:
        return ""
    mark = found[0].strip()
    parts = re.split(r"[_:.-]", (found["word"] or found["capitals"]).lower())
    if mark in conversation or any(map(_NO_THOUGHT.fullmatch, parts)):
        return ""
    plain = found["word"] and not found["bar"]
    return mark if plain or any(text in known for text in _closings(mark)) else ""


@functools.lru_cache(maxsize=64)
def unknown_family(opened: str) -> ThinkingFamily | None:
    """A family for a tag of `unknown_opening`."""
    if _MARK.fullmatch(opened.strip()) is None:
        return None
    mark, closings = opened.strip(), _closings(opened.strip())
    closing = "|".join(re.escape(text) for text in closings)
    return ThinkingFamily(name=mark, source="the prompt", delimiters=(mark, *closings), closing=f"(?i:{closing})")


def _closings(mark: str) -> tuple[str, ...]:
    """What may close a tag."""
    inner = mark[1:-1].strip("|")
    if mark[0] == "[":
        return (f"[/{inner}]",)
    if mark[1] != "|":
        return (f"</{inner}>",)
    return (f"<|/{inner}|>", f"</|{inner}|>", f"</{inner}>", f"<|end_{inner}|>", f"<|end_of_{inner}|>")


def thinking_tokens(tokenizer: Any) -> frozenset[str]:
    """The tokens of a tokenizer that belong to delimiters of thoughts, so that they are part of a reply's text."""
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    needed = {"harmony": CHANNEL, "solar": "<|think|>"}
    spelled = [text for text in known if _WORDS.search(text.lower()) is not None]
    found: set[str] = set()
    for family in FAMILIES:
        if needed.get(family.name) in known | {None}:
            found |= known & set(family.delimiters)
            found.update(text for text in spelled if _pattern(family).fullmatch(text) is not None)
    return frozenset(found)


def delimiter_texts() -> frozenset[str]:
    """All fixed texts that open or close a thought in some family, those of harmony's parts included."""
    return frozenset(text for family in FAMILIES for text in family.delimiters)


def delimiter_pattern() -> str:
    """A regular expression for all that opens or closes a thought in some family and is no ordinary sentence."""
    tags = [f"{family.opening}|{family.closing}" for family in FAMILIES if family.opening.startswith("(?i:")]
    return "|".join([any_of(delimiter_texts()).pattern, *tags])


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


def _delimiters(text: str, opened: ThinkingFamily | None = None, *, quoted: bool = False) -> list[_Delimiter]:
    """The delimiters of a text in order, `opened`'s among them, without those in quotes unless they are asked for."""
    lowered = text.lower()
    if not any(mark in lowered for mark in _MARKS):
        return []
    found = [
        _Delimiter(match.start(), match.end(), family, match["opening"] is not None)
        for family in (FAMILIES if opened is None or opened in FAMILIES else (*FAMILIES, opened))
        if any(word in lowered for word in family.words)
        or (not family.words and any(word in lowered for word in map(str.lower, family.delimiters)))
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
    if found.family.ordered:
        return not found.opens
    if last is None and not found.opens:
        return False
    seen = reply[0 if last is None else last.end : found.start]
    in_sentence = _MID_SENTENCE.search(seen[-2:]) is not None
    return in_sentence and last_box(seen) is not None and last_box(reply[found.end :]) is None
