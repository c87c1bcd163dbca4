r"""Extracts the answer from a reply: its last `\boxed{}`, or else a plain statement at its very end.

The protocol asks for a box, so a reply with a box is graded by its last box alone. A reply without one is graded by its
end, if that states the answer and is followed by nothing but a courtesy:

- "... the answer is 18.", "Answer: C", "the correct option is D" in the last line; "#### 18" (the form of GSM8K);
- a heading such as "**Final Answer**" and below it the answer alone;
- `<answer>18</answer>`.

Whether there was a box is reported. Numbers merely mentioned in the text are never taken for the answer. Thoughts are
ignored.
"""

from __future__ import annotations

import re

from spiral.text.boxes import last_box
from spiral.text.thinking import split_reply

MAX_STATEMENT = 500
_STATEMENT = re.compile(
    r"(?:\banswer\b(?:\s+to\s+the\s+(?:question|problem))?|\b(?:correct|right|best)\s+(?:option|choice)\b)"
    r"\s*(?:\*\*)?\s*(?:is|=|:)\s*:?\s*(?:\*\*)?(?:\s*(?:therefore|thus|then|simply|just)\b,?)?\s*(?P<answer>\S.*)$",
    re.IGNORECASE,
)
_MARK = re.compile(r"^\s*####\s*(?P<answer>\S.*)$")
_NEXT_SENTENCE = re.compile(r"(?<!\\)[.!?]\s+\S|\bwait\b", re.IGNORECASE)
_HEADING = re.compile(r"[#*_\s>]*(?:(?:the|my)\s+)?(?:final\s+)?answer\s*[:*_\s]*(?:is)?\s*[:*_\s]*", re.IGNORECASE)
_TAGGED = re.compile(r"<(answer|final_answer|ans)>((?:(?!<\1>).)*)</\1>\s*$", re.DOTALL | re.IGNORECASE)
_COURTESY = re.compile(
    r"(?:(?:i\s+)?hope\s+(?:it|this|that)\s*(?:is|was)?\s*(?:correct|right|helps?|helpful|useful)"
    r"|let\s+me\s+know\s+if\s+[\w\s,']{1,80}?)\s*[.!]*\s*$",
    re.IGNORECASE,
)
_END_OF_PROOF = re.compile(
    r"\s*(?:\$\s*)?(?:\\(?:blacksquare|square|Box|qed(?:symbol)?)(?![A-Za-z])|[\u220e\u25a0\u25a1])(?:\s*\$)?\s*$"
)
_BRACKETS = re.compile(r"\\\[(.*)\\\]|\\\((.*)\\\)|\$\$(.*)\$\$|\$(.*)\$", re.DOTALL)
MAX_TAIL = 2_000
"""Characters at the end of a reply without a box that are searched for a statement."""


def find_answer(reply: str) -> tuple[str | None, bool]:
    """The answer as the reply states it, or None, and whether it is boxed."""
    thought = split_reply(reply)
    box = last_box(thought.answer)
    if box is not None:
        return (None, False) if box.content is None else (box.content.strip(), True)
    return _final_statement(thought.answer if thought.delimited else reply), False


def _final_statement(text: str) -> str | None:
    """The answer stated at the very end of the text, if any."""
    text = _without_courtesy(text.rstrip()[-MAX_TAIL:])
    tagged = _TAGGED.search(text)
    if tagged is not None:
        return tagged[2].strip() or None
    line = text.rpartition("\n")[2]
    if not line or len(line) > MAX_STATEMENT:
        return None
    match = _MARK.match(line) or _last_match(line)
    if match is None:
        return _below_heading(text)
    answer = match["answer"].strip().removesuffix(".").strip("* ")
    return None if not answer or _NEXT_SENTENCE.search(answer) else answer


def _without_courtesy(text: str) -> str:
    """The text without a closing courtesy such as "I hope it is correct.", and without the sign that ends a proof."""
    match = _COURTESY.search(text)
    text = text if match is None else text[: match.start()].rstrip()
    return _END_OF_PROOF.sub("", text)


def _below_heading(text: str) -> str | None:
    """An answer that stands alone under a heading: one line, or one piece of displayed mathematics."""
    blocks = [line.strip() for line in text.split("\n") if line.strip()][-6:]
    headings = [index for index, line in enumerate(blocks[:-1]) if _HEADING.fullmatch(line)]
    if not headings:
        return None
    answer = " ".join(blocks[headings[-1] + 1 :]).strip("* ").removesuffix(".").strip("* ")
    is_alone = len(blocks) == headings[-1] + 2 or _BRACKETS.fullmatch(answer) is not None
    return (
        answer if is_alone and answer and len(answer) <= MAX_STATEMENT and not _NEXT_SENTENCE.search(answer) else None
    )


def _last_match(line: str) -> re.Match[str] | None:
    """The last statement in a line, since a later sentence may correct an earlier one."""
    found = None
    start = 0
    while (match := _STATEMENT.search(line, start)) is not None:
        found, start = match, match.start() + 1
    return found
