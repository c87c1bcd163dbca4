"""What a server says is wrong: from any body to words for people, and to what kind of refusal it is.

Servers say no in many shapes: OpenAI's error object, FastAPI's list of places, a bare string, a list around either, an
error of an upstream provider quoted as text, an HTML page. All of them come down to a `Refusal`.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import json
import re
from collections.abc import Iterator
from typing import Any

from spiral.core.printable import one_line

MAX_REASON = 240
"""Characters of a reason, which may quote a server's own words."""
MAX_TEXT = 4096
"""Characters of an error body that are read for what kind of refusal it is."""
MAX_DEPTH = 8
MAX_PARTS = 200
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""All but tab and line ends; a terminal obeys some of them."""
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
"""Under which keys servers put words for people, the likeliest first."""
CODES = ("code", "type", "status", "error_code", "error_type")
PLACES = ("param", "params", "parameter", "field", "loc")
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
"""Words of a limit that passes by itself, though it may speak of a quota or a plan."""
OF_ONE_PROMPT = re.compile(r"flagged|moderation|safety|content.?(?:filter|policy|management)|harmful", re.IGNORECASE)
"""Words of a refusal that is about one prompt, not about who asks."""
KEY = re.compile(
    r"(?:invalid|incorrect|missing|expired|wrong|revoked|no|valid)[ _-](?:\w+ )?(?:api|access)?[ _-]?(?:key|credential)"
    r"|(?:key|credentials?)\b.{0,40}(?:invalid|not valid|incorrect|missing|expired|revoked|not found|wrong)"
    r"|authenticat|unauthori[sz]ed|permission|country|region",
    re.IGNORECASE,
)
"""Words of a refusal that is about who asks."""
TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a server said when it gave no reply."""

    text: str = ""
    """Its words for people on one line; empty where it said nothing that can be read."""
    evidence: str = ""
    """All that it said, for looking things up in."""
    codes: frozenset[str] = frozenset()
    """Codes and types of errors, in lower case."""
    places: frozenset[str] = frozenset()
    """Names of what it takes offence at."""

    @property
    def is_money(self) -> bool:
        """Whether an account has no money left; waiting does not help."""
        if self.codes & set(MONEY_CODES):
            return True
        return bool(MONEY.search(self.evidence)) and not PASSES.search(self.evidence)

    @property
    def is_key(self) -> bool:
        """Whether it is about who asks: a key, a right, a place."""
        return bool(KEY.search(self.evidence))

    @property
    def is_of_one_prompt(self) -> bool:
        """Whether it is about what was asked, not about who asks."""
        return bool(OF_ONE_PROMPT.search(self.evidence))


def read_refusal(body: bytes) -> Refusal:
    """What the body of an error says, whatever it is; it may be cut short."""
    text = body.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    try:
        values: object = json.loads(text)
    except (ValueError, RecursionError):
        values = text
    return refusal_of(values)


def refusal_of(values: object) -> Refusal:
    """The same of a body that was read as JSON."""
    parts = list(_parts(values))
    return Refusal(
        text=one_line(_words(values)[: 4 * MAX_REASON]),
        evidence=" ".join(f"{key}: {value}." if key else value for key, value in parts)[:MAX_TEXT],
        codes=frozenset(value.lower() for key, value in parts if key in CODES),
        places=frozenset(value for key, value in parts if key in PLACES),
    )


def clean(text: str) -> str:
    """Text without control characters and without the halves of surrogate pairs, which no file can hold."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.encode(errors="replace").decode())


def shorten(reason: str) -> str:
    """A reason of bearable length."""
    return reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 3]}..."


def _words(values: object, depth: int = 0) -> str:
    """The words for people in an error."""
    if depth > MAX_DEPTH:
        return ""
    if isinstance(values, str):
        return _of_text(values, depth)
    if isinstance(values, list):
        found = [_words(value, depth + 1) for value in values[:MAX_DEPTH]]
        return "; ".join(dict.fromkeys(filter(None, found)))
    if not isinstance(values, dict):
        return ""
    if isinstance(values.get("msg"), str):  # FastAPI and pydantic
        place = values.get("loc")
        named = ".".join(map(str, place[:MAX_DEPTH])) if isinstance(place, list | tuple) else ""
        return f"{named}: {values['msg']}" if named else str(values["msg"])
    found = [_words(values[key], depth + 1) for key in WORDS if values.get(key)]
    metadata = values.get("metadata")
    if isinstance(metadata, dict):  # OpenRouter quotes the provider's own error
        found.append(_words(metadata.get("raw"), depth + 1))
    told = list(dict.fromkeys(filter(None, found)))
    if not told:
        told = [values[key] for key in CODES if isinstance(values.get(key), str)][:1]
    if not told:  # by field, as Django does
        fields = [(key, _words(value, depth + 1)) for key, value in list(values.items())[:MAX_DEPTH]]
        told = [f"{key}: {value}" for key, value in fields if value]
    return ": ".join(told)


def _of_text(text: str, depth: int) -> str:
    """The words in a text, which may be an error page or the JSON of another error."""
    stripped = text.lstrip()
    if stripped.startswith("<"):
        found = TITLE.search(stripped[: 16 * MAX_TEXT])
        return html.unescape(re.sub(r"<[^>]*>", " ", found[2][:MAX_TEXT])) if found else ""
    inner = _inner(stripped)
    return text if inner is None else _words(inner, depth + 1) or text


def _inner(text: str) -> object:
    """The error that a text spells, in JSON or as Python prints it; None when it spells none."""
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
    """Every text in an error with the key that it stands under."""
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
            yield "", f"{_words(values)}."
        for name, value in list(values.items())[:MAX_PARTS]:
            yield from _parts(value, str(name)[:MAX_REASON], depth + 1)
    elif isinstance(values, list | tuple):
        for value in values[:MAX_PARTS]:
            yield from _parts(value, key, depth + 1)


def status_of(error: Any) -> int | None:
    """The HTTP status that an error object names."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code[:4])
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else None
