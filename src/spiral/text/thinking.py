r"""What a reply thinks, and what it answers.

Reasoning models (Qwen3, the R1 distills) wrap their thoughts in `<think>` and `</think>`; the prompt of some opens the
tag already. There the answer is what follows the last closing tag, and a reply that breaks off inside its thoughts has
none. Replies without tags think in plain sight: their answer begins with the last box. Nothing but the answer
can hold an action.

Left out: other models' tags, and the difference between thoughts that were interrupted and thoughts that just stopped.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Sequence

from spiral.text.boxes import last_box

OPEN, CLOSE = "<think>", "</think>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thought:
    """A reply in two parts: `head + answer` is the whole reply."""

    head: str
    """All that comes before the answer, tags included."""
    answer: str
    closed: bool
    """Whether an answer was reached, if only an empty one: the last tag closes, or without tags there is a box."""

    @property
    def thinking(self) -> str:
        """The head without its tags."""
        return self.head.replace(OPEN, "").replace(CLOSE, "")


def split_reply(reply: str, opened: bool = False) -> Thought:
    """Tells thinking and answer apart; `opened` says that the prompt had opened the tag already."""
    closing = reply.rfind(CLOSE)
    if reply.rfind(OPEN) > closing:
        return Thought(head=reply, answer="", closed=False)
    if closing >= 0:
        return _cut(reply, closing + len(CLOSE))
    box = None if opened else last_box(reply)
    return Thought(head=reply, answer="", closed=False) if box is None else _cut(reply, box.start)


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


def _cut(reply: str, place: int) -> Thought:
    return Thought(head=reply[:place], answer=reply[place:], closed=True)
