"""From the body of a chat completion to a reply, trusting nothing in it.

The server is another party's: its body may be an error page, an error in the clothes of a success, of the wrong types,
endless, or made to confuse whoever prints it. What is well formed is the player's own doing, be it empty, cut off or
without a legal move; what is not is a fault of the server.

Left out: streamed bodies, tool calls (they say nothing), and more than one choice.
"""

from __future__ import annotations

import dataclasses
import email.utils
import json
import math
import re
import time
from decimal import Decimal
from typing import Any

from spiral.policies.endpoint.refusal import Refusal, clean, read_refusal, refusal_of, status_of
from spiral.text.prompts import Message
from spiral.text.thinking import CLOSE, OPEN, delimiter_pattern

NO_REFUSAL = Refusal()
MOST_TOKENS = 10**9
MAX_PAGE = 2**16
"""Bytes of a page that are searched for its title."""
CUT_OFF = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
"""Why a reply ended, as servers say that it ran into its budget."""
FILTERED = frozenset({"content_filter", "safety", "prohibited_content"})
TEMPLATE_TOKEN = re.compile(rf"<\|[^|\s]{{1,60}}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|{delimiter_pattern()}")
"""How the usual chat templates spell the ends of turns, and the delimiters of thoughts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bill:
    """What a server says that a request took; None for what it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: Decimal | None = None
    """Dollars."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """A well-formed reply."""

    thinking: str
    """Where the server gave it apart from the content."""
    content: str
    bill: Bill
    truncated: bool = False
    """Whether it ran into its budget."""
    thinking_tokens: int = 0
    """As far as the server counts them."""

    @property
    def text(self) -> str:
        """All of it, as models write it that tell nothing apart: thinking in tags, then the content."""
        return f"{OPEN}\n{self.thinking}\n{CLOSE}\n\n{self.content}" if self.thinking else self.content


class BadBodyError(Exception):
    """A body that is no reply; `refusal` and `status` say what error it stands for, where it says so."""

    def __init__(self, reason: str, bill: Bill, status: int | None = None, refusal: Refusal = NO_REFUSAL) -> None:
        super().__init__(reason)
        self.reason = reason
        self.bill = bill
        self.status = status
        self.refusal = refusal


class FilteredError(BadBodyError):
    """The server's filter took the reply away."""


def read_body(body: bytes) -> Answer:
    """The reply in a body. Raises `BadBodyError` when there is none."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        page = read_refusal(body[:MAX_PAGE]).text if body.lstrip()[:1] == b"<" else ""
        raise BadBodyError(f"the reply is not JSON{f' but a page: {page}' if page else ''}", Bill()) from None
    if not isinstance(values, dict):
        raise BadBodyError("the reply is not a JSON object", Bill())
    bill = _read_bill(values.get("usage"))
    choices = values.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = values.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    if error:
        refusal = refusal_of(error)
        raise BadBodyError(refusal.text or "the server reports an error", bill, status_of(error), refusal)
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise BadBodyError("the reply holds no message", bill)
    ended = choice.get("finish_reason")
    if isinstance(ended, str) and ended.lower() in FILTERED:
        raise FilteredError("the server's content filter took the reply away", bill)
    return _answer(message, ended=ended, bill=bill, thinking_tokens=_thinking_tokens(values.get("usage")))


def _answer(message: dict[str, Any], *, ended: object, bill: Bill, thinking_tokens: int) -> Answer:
    content = _text(message.get("content"))
    thinking = _thoughts(message)
    if content is None:
        raise BadBodyError("the message's content is not text", bill)
    content = content or _text(message.get("refusal")) or ""
    if not content and ended is None:
        raise BadBodyError("the reply is empty and does not say why it ended", bill)
    if (content or thinking) and not bill.completion_tokens:
        bill = dataclasses.replace(bill, completion_tokens=None)  # no reply takes no tokens
    return Answer(
        thinking=thinking,
        content=content,
        bill=bill,
        truncated=isinstance(ended, str) and ended.lower() in CUT_OFF,
        thinking_tokens=min(thinking_tokens, bill.completion_tokens or 0),
    )


def _text(value: object) -> str | None:
    """Text, or the text among a list of parts; None for what is neither. Printable and encodable whatever it is."""
    if value is None:
        return ""
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, dict)]
        return "".join(clean(part) for part in parts if isinstance(part, str))
    return clean(value) if isinstance(value, str) else None


def _thoughts(message: dict[str, Any]) -> str:
    """The thinking, where the server gives it apart from the content: a field of its own, or parts of the content."""
    for field in ("reasoning_content", "reasoning", "thinking"):
        if found := _text(message.get(field)):
            return found
    parts = message.get("content")
    shown = [part.get("thinking") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "".join(_text(part) or "" for part in shown)


def without_template_tokens(messages: list[Message]) -> list[Message]:
    """The messages with spaces for whatever the server's template might take for the end of a turn."""
    return [{**message, "content": TEMPLATE_TOKEN.sub(" ", clean(message["content"]))} for message in messages]


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, or a number or a date in `Retry-After`; None for none."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _read_bill(usage: object) -> Bill:
    if not isinstance(usage, dict):
        return Bill()
    prompt, completion, cost = (usage.get(key) for key in ("prompt_tokens", "completion_tokens", "cost"))
    known = isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < MOST_TOKENS
    return Bill(
        prompt_tokens=_count(prompt) or None,  # nor does any prompt
        completion_tokens=_count(completion),
        cost=Decimal(str(cost)) if known else None,
    )


def _count(value: object) -> int | None:
    """A number of tokens, or None: what is negative, absurd or no whole number is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS else None


def _thinking_tokens(usage: object) -> int:
    """Tokens of thinking, where the server counts them."""
    details = usage.get("completion_tokens_details", usage) if isinstance(usage, dict) else None
    return (_count(details.get("reasoning_tokens")) or 0) if isinstance(details, dict) else 0
