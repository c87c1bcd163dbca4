r"""Splits a reply into thinking and answer.

Reasoning models put their thoughts between delimiters, which differ by family (`FAMILIES`); some prompts already open
the thought. The answer is the text after the last thought; a reply that breaks off inside a thought has none. A reply
without delimiters thinks in the open, and its answer begins with its last box. Only the answer can hold an action.

The rules follow the families' own parsers:

- Inside a thought only its own closing delimiter counts. A thought that is opened twice is closed once.
- The last closing delimiter of a reply ends the thinking. Without an opening one it ends a thought of the prompt.
- Tags match in any case, with spaces and attributes.
- A delimiter in quotes is a mention and does not count. Nor does one inside a sentence after the answer's box, when no
  other box follows.
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
    """The delimiters of thoughts in a family of models."""

    name: str
    source: str
    """Models that write these delimiters, or prompts that ask for them."""
    delimiters: tuple[str, ...]
    """The opening and the closing delimiter, or the tokens that they are made of when they are not fixed texts."""
    opening: str = ""
    """A regular expression for the opening delimiter; "" when it is the first of `delimiters`."""
    closing: str = ""
    """The same for the closing delimiter, the second of `delimiters`."""
    words: tuple[str, ...] = ()
    """Every text with a delimiter contains one of these in lower case. Empty means `delimiters` itself."""
    ordered: bool = False
    """Whether the closing delimiter counts only inside a thought, because it also occurs elsewhere."""


def _tag(name: str, source: str, word: str = "", bars: str = "") -> ThinkingFamily:
    """The family of `<word>` and `</word>` in any case, with spaces and attributes; with `bars`, `<|word|>`."""
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
        source="gpt-oss; every channel except `final` is a thought",
        delimiters=("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>"),
        opening=r"(?:<\|start\|>assistant)?<\|channel\|>(?!\s*final\b)"
        r"(?:[\w.=: -]{0,80}(?:<\|constrain\|>\w{0,20})?\s*<\|message\|>)?",
        closing=r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>\s*final\b"
        r"(?:\s*<\|constrain\|>\w{0,20})?(?:\s*<\|message\|>)?",
    ),
    ThinkingFamily(
        name="harmony, special tokens left out",
        source="gpt-oss behind servers without a reasoning parser",
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
"""The only list of thinking delimiters; moves, answers, prompts and tokens all use it."""
_MARKS = frozenset(mark for family in FAMILIES for mark in [text[0] for text in family.delimiters] or family.words)
"""Every text with a delimiter contains one of these in lower case; most replies contain none."""
_WORDS = any_of(word for family in FAMILIES if family.delimiters for word in family.words)
_MARK = re.compile(r"(?:<(?P<bar>\|?)(?P<word>[A-Za-z][\w:.-]*)(?P=bar)>|\[(?P<capitals>[A-Z][\w-]*)\])\s*\Z")
"""A tag at the end of a text."""
_NO_THOUGHT = re.compile(
    r"assistant|model|ai|bot|gpt|chatbot|answer|response|output|final|solution|message|content|text|reply|result|user"
    r"|human|system|role|header|start|begin|end|bos|eos|sep|turn|inst|s|box"
)
"""Parts of the names of tags that begin a turn or an answer, not a thought."""
MESSAGE_END = "<|end|>"
"""Ends a thought and an answer in harmony, and a turn in Phi."""
TURN_START = "<|im_start|>"
"""Begins a thought and an answer in s1, and a turn in other models."""
CHANNEL = "<|channel|>"
"""Only in a tokenizer with this token do `<|end|>` and similar tokens belong to harmony."""
QUOTES = ("``", '""', "''", "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}")
_MID_SENTENCE = re.compile(r"(?:[\w,] |\()\Z")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thought:
    """A reply in two parts; `head + answer` is the whole reply."""

    head: str
    """The text before the answer, with delimiters."""
    answer: str
    closed: bool
    """Whether the reply has an answer, possibly empty: its thinking is closed, or it has a box and no thought."""
    delimited: bool = dataclasses.field(default=False, compare=False)
    """Whether delimiters separate thinking and answer."""
    closing: str = dataclasses.field(default="", compare=False)
    """The delimiter that ended the thinking; "" for none."""
    family: ThinkingFamily | None = dataclasses.field(default=None, compare=False)
    """The family of the thought that the prompt opened; None when it opened none."""

    @property
    def thinking(self) -> str:
        """`head` without delimiters."""
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
    """Splits a reply into thinking and answer.

    Args:
        reply: The model's text.
        opened: The delimiter with which the prompt opens a thought, or "" when it opens none; True means `OPEN`.
    """
    given = OPEN if opened is True else opened or ""
    inside = family = opened_family(given) or unknown_family(given)
    delimited = inside is not None
    last: _Delimiter | None = None  # the answer begins after this delimiter
    for found in _delimiters(reply, family):
        if inside is not None:
            if not found.opens and found.family is inside:
                inside, last = None, found
        elif not _is_mention(reply, found, last):
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
    """The family of the thought that is open at the end of a text, such as a prompt; None when none is open."""
    inside: ThinkingFamily | None = None
    for found in _delimiters(text):
        if inside is None:
            inside = found.family if found.opens else None
        elif not found.opens and found.family is inside:
            inside = None
    return inside


def opened_delimiter(text: str) -> str:
    """The opening delimiter of the thought that is open at the end of a text; "" when none is open."""
    family = opened_family(text)
    if family is None:
        return ""
    opening = [found for found in _delimiters(text) if found.opens and found.family is family][-1]
    return text[opening.start : opening.end]


def unknown_opening(prompt_end: str, conversation: str, known: Container[str]) -> str:
    """A tag at the end of the prompt that opens a thought but belongs to no family; "" when there is none.

    Args:
        prompt_end: The prompt after the question.
        conversation: A conversation with an answer. A tag that occurs in it does not open a thought.
        known: Tokens of the tokenizer. A tag such as `<|word|>`, which usually begins a turn, counts only if its
            closing tag is one of them.
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
    """A family made for a tag that `unknown_opening` found; None for other texts."""
    if _MARK.fullmatch(opened.strip()) is None:
        return None
    mark, closings = opened.strip(), _closings(opened.strip())
    closing = "|".join(re.escape(text) for text in closings)
    return ThinkingFamily(name=mark, source="the prompt", delimiters=(mark, *closings), closing=f"(?i:{closing})")


def _closings(mark: str) -> tuple[str, ...]:
    """Texts that may close the tag `mark`."""
    inner = mark[1:-1].strip("|")
    if mark[0] == "[":
        return (f"[/{inner}]",)
    if mark[1] != "|":
        return (f"</{inner}>",)
    return (f"<|/{inner}|>", f"</|{inner}|>", f"</{inner}>", f"<|end_{inner}|>", f"<|end_of_{inner}|>")


def thinking_tokens(tokenizer: Any) -> frozenset[str]:
    """The added tokens of a tokenizer that are part of thinking delimiters, and so of the text of a reply."""
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
    """The fixed delimiters of all families, including the parts of harmony's."""
    return frozenset(text for family in FAMILIES for text in family.delimiters)


def delimiter_pattern() -> str:
    """A regular expression for the delimiters of all families, except those that are ordinary sentences."""
    tags = [f"{family.opening}|{family.closing}" for family in FAMILIES if family.opening.startswith("(?i:")]
    return "|".join([any_of(delimiter_texts()).pattern, *tags])


def count_thinking_tokens(token_ids: Sequence[int], thought: Thought, decode: Callable[[Sequence[int]], str]) -> int:
    """Number of a reply's T tokens before its answer, including the token in which the thinking ends.

    Finds the shortest prefix of tokens that decodes to the whole head by bisection, with log2 T calls of `decode`.
    """
    if not thought.closed:
        return len(token_ids)
    if not thought.head:
        return 0
    counts = range(len(token_ids) + 1)
    return bisect.bisect_left(counts, True, key=lambda count: decode(token_ids[:count]).startswith(thought.head))


@functools.cache
def _pattern(family: ThinkingFamily) -> re.Pattern[str]:
    """A pattern for both delimiters of a family; the opening one is a named group."""
    opening = family.opening or re.escape(family.delimiters[0])
    closing = family.closing or re.escape(family.delimiters[1])
    return re.compile(f"(?P<opening>{opening})|{closing}")


def _delimiters(text: str, opened: ThinkingFamily | None = None, *, quoted: bool = False) -> list[_Delimiter]:
    """The delimiters in a text, in order, also those of the family `opened`; with `quoted`, also those in quotes."""
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
    """Whether a delimiter stands in quotes and is only a mention: "close it with `</think>`"."""
    before = text[max(0, start - 2) : start - 1] if start else ""
    quotes = text[start - 1 : start] + text[end : end + 1] if start else ""
    return quotes in QUOTES and not (before.isalnum() or before in tuple(".,;:!?)"))


def _is_mention(reply: str, found: _Delimiter, last: _Delimiter | None) -> bool:
    r"""Whether a delimiter outside a thought is only mentioned in a sentence: "\boxed{4}, without <think> tags".

    A mention comes after a box outside all thoughts and before no other box. A closing delimiter is a mention only
    after a closed thought, since otherwise it may end a thought that the prompt opened.
    """
    if found.family.ordered:
        return not found.opens
    if last is None and not found.opens:
        return False
    before = reply[0 if last is None else last.end : found.start]
    in_sentence = _MID_SENTENCE.search(before[-2:]) is not None
    return in_sentence and last_box(before) is not None and last_box(reply[found.end :]) is None
