r"""Where a reply states its answer: its last `\boxed{}`, or else a plain statement at its very end.

The protocol asks for a box, so a reply with a box is judged by its last box and nothing else. A reply without one is
judged by its last line, when that line is a statement of the answer and nothing follows: "#### 18" (the form of GSM8K)
or "... answer is 18." or "Answer: C". Whether there was a box is kept, so that the share without one can be seen.
Numbers merely mentioned on the way are never taken for the answer. Thoughts between thinking tags are not read.
"""

from __future__ import annotations

import re

from spiral.text.boxes import last_box, last_boxed
from spiral.text.thinking import split_reply

LONGEST_STATEMENT = 500
_STATEMENT = re.compile(
    r"(?:\banswer\b(?:\s+to\s+the\s+(?:question|problem))?\s*(?:\*\*)?\s*(?:is|=|:)\s*:?\s*(?:\*\*)?)\s*(?P<answer>\S.*)$",
    re.IGNORECASE,
)
_MARK = re.compile(r"^\s*####\s*(?P<answer>\S.*)$")
_NEXT_SENTENCE = re.compile(r"(?<!\\)[.!?]\s+\S|\bwait\b", re.IGNORECASE)


def find_answer(reply: str) -> tuple[str | None, bool]:
    """The answer as the reply states it, or None, and whether it stands in a box."""
    thought = split_reply(reply)
    boxed = last_boxed(thought.answer)
    if boxed is not None:
        return boxed.strip(), True
    visible = thought.answer if thought.delimited else reply
    return (None, False) if last_box(visible) is not None else (_final_statement(visible), False)


def _final_statement(text: str) -> str | None:
    """What the last line that is not empty states, if it states an answer and nothing after it."""
    line = text.rstrip().rpartition("\n")[2]
    if not line or len(line) > LONGEST_STATEMENT:
        return None
    match = _MARK.match(line) or _last_match(line)
    if match is None:
        return None
    answer = match["answer"].strip().removesuffix(".").strip("* ")
    return None if not answer or _NEXT_SENTENCE.search(answer) else answer


def _last_match(line: str) -> re.Match[str] | None:
    """The last statement in a line, where one sentence corrects another."""
    found = None
    start = 0
    while (match := _STATEMENT.search(line, start)) is not None:
        found, start = match, match.start() + 1
    return found
