"""Reads the body of a response: a reply, or an error and its reason. Nothing in a body is trusted.

The server belongs to another party. Its body may be an error page, an error with status 200, or endless; it may have
wrong types or control characters. A well-formed reply that is empty, cut off or without a legal move is the player's
own illegal move; anything else is a fault of the server.

Servers report errors in many forms: OpenAI's error object, FastAPI's list of fields, a bare string, a list around
either, an upstream provider's error quoted as text, an HTML page. Each of them is read into a `Refusal`.

Streamed bodies, tool calls (they carry no text) and more than one choice are not supported.
"""

from __future__ import annotations

import ast
import dataclasses
import email.utils
import html
import json
import math
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from spiral.core.printable import one_line
from spiral.text.prompts import Message
from spiral.text.thinking import CLOSE, OPEN, delimiter_pattern

MAX_TOKENS = 10**9
"""Larger counts of tokens or costs are not believed."""
MAX_PAGE = 2**16
"""Bytes of an HTML page that are searched for its title."""
CUT_OFF = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
"""Values of `finish_reason` for a reply that used up its budget."""
FILTERED = frozenset({"content_filter", "safety", "prohibited_content"})
TEMPLATE_TOKEN = re.compile(rf"<\|[^|\s]{{1,60}}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|{delimiter_pattern()}")
"""Ends of turns in the usual chat templates, and delimiters of thoughts."""
MAX_REASON = 240
"""Characters of a reason, which may quote the server."""
MAX_TEXT = 4096
"""Characters of an error that are searched for its kind."""
MAX_DEPTH = 8
"""Levels of nesting that are read."""
MAX_PARTS = 200
"""Entries of an object or list that are read."""
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters except tab and line ends; terminals obey some of them."""
WORDS = (
    "error",
    "errors",
    "message",
    "detail",
    "details",
    "msg",
    "description",
    "error_description",
    "title",
    "reason",
)
"""Keys under which servers write the message of an error, the likeliest first."""
CODES = ("code", "type", "status", "error_code", "error_type")
FIELDS = ("param", "params", "parameter", "field", "loc")
MONEY_CODES = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "insufficient_balance",
    "insufficient_funds",
    "insufficient_credits",
    "account_deactivated",
    "arrearage",
)
MONEY = re.compile(
    r"insufficient[ _](?:quota|balance|funds?|credits?)|billing|credit balance|payment required|out of credits?"
    r"|no credits|more credits|spend(?:ing)? limit|prepa(?:y|id)|top[- ]?up|recharge|arrear|account is (?:not active"
    r"|suspended|deactivated)|exceeded your current quota",
    re.IGNORECASE,
)
PASSES = re.compile(
    r"retry_?delay|(?:try|retry) (?:again )?in|per (?:minute|second|hour|day)|rate.?limit", re.IGNORECASE
)
"""Words of a limit that expires by itself, even if the message mentions a quota or a plan."""
OF_ONE_PROMPT = re.compile(r"flagged|moderation|safety|content.?(?:filter|policy|management)|harmful", re.IGNORECASE)
"""Words of an error about one prompt."""
KEY = re.compile(
    r"(?:invalid|incorrect|missing|expired|wrong|revoked|no|valid)[ _-](?:\w+ )?(?:api|access)?[ _-]?(?:key|credential)"
    r"|(?:key|credentials?)\b.{0,40}(?:invalid|not valid|incorrect|missing|expired|revoked|not found|wrong)"
    r"|authenticat|unauthori[sz]ed|permission|country|region",
    re.IGNORECASE,
)
"""Words of an error about the key or the account."""
TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bill:
    """Tokens and cost of a request as the server states them; None for what it does not state."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: Decimal | None = None
    """In dollars."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """A well-formed reply."""

    thinking: str
    """The thinking, if the server returns it separately from the content."""
    content: str
    bill: Bill
    truncated: bool = False
    """Whether the reply used up its budget."""
    thinking_tokens: int = 0
    """0 if the server does not count them."""

    @property
    def text(self) -> str:
        """The whole reply as a local model would write it: thinking in tags, then the content."""
        return f"{OPEN}\n{self.thinking}\n{CLOSE}\n\n{self.content}" if self.thinking else self.content


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """An error that the server returned in place of a reply."""

    text: str = ""
    """The message on one line; "" when there is none that can be read."""
    evidence: str = ""
    """All texts of the error, for searching."""
    codes: frozenset[str] = frozenset()
    """Codes and types of the error, in lower case."""
    fields: frozenset[str] = frozenset()
    """Names of the parameters that the error is about."""

    @property
    def is_out_of_money(self) -> bool:
        """Whether the account has no money left, so that waiting does not help."""
        if self.codes & set(MONEY_CODES):
            return True
        return bool(MONEY.search(self.evidence)) and not PASSES.search(self.evidence)

    @property
    def is_about_key(self) -> bool:
        """Whether the error is about the key or the account: a wrong key, a missing right, a blocked country."""
        return bool(KEY.search(self.evidence))

    @property
    def is_about_prompt(self) -> bool:
        """Whether the error is about the content of this prompt, so that other prompts may succeed."""
        return bool(OF_ONE_PROMPT.search(self.evidence))


class BadBodyError(Exception):
    """A body without a reply. `refusal` and `status` hold the error that it reports, if any."""

    def __init__(self, reason: str, bill: Bill, status: int | None = None, refusal: Refusal | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.bill = bill
        self.status = status
        self.refusal = refusal or Refusal()


class FilteredError(BadBodyError):
    """The server's content filter removed the reply."""


def read_body(body: bytes) -> Answer:
    """Reads the reply in a body. Raises `BadBodyError` when there is none."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        page = read_refusal(body[:MAX_PAGE]).text if body.lstrip()[:1] == b"<" else ""
        raise BadBodyError(f"the reply is not JSON{f' but an HTML page: {page}' if page else ''}", Bill()) from None
    if not isinstance(values, dict):
        raise BadBodyError("the reply is not a JSON object", Bill())
    bill = _read_bill(values.get("usage"))
    choices = values.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = values.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    if error:
        refusal = refusal_of(error)
        raise BadBodyError(refusal.text or "the server reports an error", bill, _status_of(error), refusal)
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise BadBodyError("the reply has no message", bill)
    ended = choice.get("finish_reason")
    if isinstance(ended, str) and ended.lower() in FILTERED:
        raise FilteredError("the server's content filter removed the reply", bill)
    return _answer(message, ended=ended, bill=bill, thinking_tokens=_thinking_tokens(values.get("usage")))


def _answer(message: dict[str, Any], *, ended: object, bill: Bill, thinking_tokens: int) -> Answer:
    content = _text(message.get("content"))
    thinking = _thoughts(message)
    if content is None:
        raise BadBodyError("the message's content is not text", bill)
    content = content or _text(message.get("refusal")) or ""
    if not content and ended is None:
        raise BadBodyError("the reply is empty and has no finish_reason", bill)
    if (content or thinking) and not bill.completion_tokens:
        bill = dataclasses.replace(bill, completion_tokens=None)  # a count of 0 tokens for a reply is wrong
    return Answer(
        thinking=thinking,
        content=content,
        bill=bill,
        truncated=isinstance(ended, str) and ended.lower() in CUT_OFF,
        thinking_tokens=min(thinking_tokens, bill.completion_tokens or 0),
    )


def _text(value: object) -> str | None:
    """The text of a string or a list of parts, safe to print and encode; None for anything else."""
    if value is None:
        return ""
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, dict)]
        return "".join(clean(part) for part in parts if isinstance(part, str))
    return clean(value) if isinstance(value, str) else None


def _thoughts(message: dict[str, Any]) -> str:
    """The thinking that the server returns separately: in another field, or as parts of the content."""
    for field in ("reasoning_content", "reasoning", "thinking"):
        if found := _text(message.get(field)):
            return found
    parts = message.get("content")
    shown = [part.get("thinking") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "".join(_text(part) or "" for part in shown)


def without_template_tokens(messages: list[Message]) -> list[Message]:
    """The messages with a space for each token that the server's template might read as the end of a turn."""
    return [{**message, "content": TEMPLATE_TOKEN.sub(" ", clean(message["content"]))} for message in messages]


def retry_after(headers: Any) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (a number or a date); None without such a header."""
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
    known = isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < MAX_TOKENS
    return Bill(
        prompt_tokens=_count(prompt) or None,  # 0 is wrong for a prompt, too
        completion_tokens=_count(completion),
        cost=Decimal(str(cost)) if known else None,
    )


def _count(value: object) -> int | None:
    """A number of tokens; None for what is negative, absurdly large or not a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_TOKENS else None


def _thinking_tokens(usage: object) -> int:
    """Thinking tokens; 0 if the server does not count them."""
    details = usage.get("completion_tokens_details", usage) if isinstance(usage, dict) else None
    return (_count(details.get("reasoning_tokens")) or 0) if isinstance(details, dict) else 0


def read_refusal(body: bytes) -> Refusal:
    """Reads the body of an error in any format; it may be incomplete."""
    text = body.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    try:
        values: object = json.loads(text)
    except (ValueError, RecursionError):
        values = text
    return refusal_of(values)


def refusal_of(values: object) -> Refusal:
    """The error in a parsed JSON value."""
    parts = list(_parts(values))
    return Refusal(
        text=one_line(_message(values)[: 4 * MAX_REASON]),
        evidence=" ".join(f"{key}: {value}." if key else value for key, value in parts)[:MAX_TEXT],
        codes=frozenset(value.lower() for key, value in parts if key in CODES),
        fields=frozenset(value for key, value in parts if key in FIELDS),
    )


def clean(text: str) -> str:
    """The text without control characters and lone surrogates, which cannot be encoded."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.encode(errors="replace").decode())


def shorten(reason: str) -> str:
    """A reason, cut off at `MAX_REASON` characters."""
    return reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 3]}..."


def _message(values: object, depth: int = 0) -> str:
    """The message of an error."""
    if depth > MAX_DEPTH:
        return ""
    if isinstance(values, str):
        return _message_in(values, depth)
    if isinstance(values, list):
        found = [_message(value, depth + 1) for value in values[:MAX_DEPTH]]
        return "; ".join(dict.fromkeys(filter(None, found)))
    if not isinstance(values, dict):
        return ""
    if isinstance(values.get("msg"), str):  # FastAPI and pydantic
        location = values.get("loc")
        field = ".".join(map(str, location[:MAX_DEPTH])) if isinstance(location, list | tuple) else ""
        return f"{field}: {values['msg']}" if field else str(values["msg"])
    found = [_message(values[key], depth + 1) for key in WORDS if values.get(key)]
    metadata = values.get("metadata")
    if isinstance(metadata, dict):  # OpenRouter quotes the provider's own error
        found.append(_message(metadata.get("raw"), depth + 1))
    texts = list(dict.fromkeys(filter(None, found)))
    if not texts:
        texts = [values[key] for key in CODES if isinstance(values.get(key), str)][:1]
    if not texts:  # one message for each field, as in Django
        fields = [(key, _message(value, depth + 1)) for key, value in list(values.items())[:MAX_DEPTH]]
        texts = [f"{key}: {value}" for key, value in fields if value]
    return ": ".join(texts)


def _message_in(text: str, depth: int) -> str:
    """The message in a text, which may be an HTML page or the JSON of another error."""
    stripped = text.lstrip()
    if stripped.startswith("<"):
        found = TITLE.search(stripped[: 16 * MAX_TEXT])
        return html.unescape(re.sub(r"<[^>]*>", " ", found[2][:MAX_TEXT])) if found else ""
    inner = _inner(stripped)
    return text if inner is None else _message(inner, depth + 1) or text


def _inner(text: str) -> object:
    """The error that a text holds as JSON or as Python prints it; None when it holds none."""
    if not text.startswith(("{", "[")) or len(text) > MAX_TEXT:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found: object = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, dict | list) else None
    return None


def _parts(values: object, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every text in an error, with its key."""
    if depth > MAX_DEPTH:
        return
    if isinstance(values, str):
        inner = _inner(values.lstrip())
        if inner is None:
            yield key, values[:MAX_TEXT]
        else:
            yield from _parts(inner, key, depth + 1)
    elif isinstance(values, dict):
        if isinstance(values.get("msg"), str):
            yield "", f"{_message(values)}."
        for name, value in list(values.items())[:MAX_PARTS]:
            yield from _parts(value, str(name)[:MAX_REASON], depth + 1)
    elif isinstance(values, list | tuple):
        for value in values[:MAX_PARTS]:
            yield from _parts(value, key, depth + 1)


def _status_of(error: Any) -> int | None:
    """The HTTP status in an error object; None when there is none."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code[:4])
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else None
