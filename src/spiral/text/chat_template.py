"""A model's own chat template: rendering it within a time limit, and refusing one that loses what it is given.

A template is a program that comes with a model. Whatever goes wrong in it is reported as a `ValueError` that says what
it does and which setting gets round it.

A template is stopped between two operations of Python. Powers and products of large numbers, of which a single one may
take for ever or fill the memory, are refused before.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
import math
import re
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import jinja2

from spiral.text.prompts import Message

DATE = datetime.date(2024, 7, 26)
"""For templates that tell the date (Llama 3, whose own default this is): today's would change prompts every day."""
MAX_SECONDS = 5.0
"""A template takes milliseconds; one that takes longer is in a loop."""
WAY_OUT = "set prompt.template to 'qwen3', 'llama' or 'r1', which are plain text, or give the model another template"
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A tag of transformers' own, around what an assistant says."""
QUESTION = (
    "You are player 0 of <two>.\n  Board & history:\n\n| 1 | X |\n| 2 | O |\n\n"
    + "".join(f"Turn {turn}: the other side said 'offer {turn} wood' and \"nothing\".\n" for turn in range(60))
    + "Write your action inside \\boxed{}. This is the last line, 5e1f7a"
)
"""What a template is tried with: several lines, quotes, markup, and some thousand characters."""
MAX_FACTOR = 1_000_000
"""The constants of a product; templates repeat a text a few times, if at all."""
REPLY = "I take it: \\boxed{4b7d}"
SYSTEM = "You are player 9c2e."


def render_chat(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> str:
    """The text that the tokenizer's own template makes of an exchange, the same on every day.

    Raises `ValueError` when the template fails or does not come to an end.
    """
    day = {"date_string": DATE.strftime("%d %b %Y"), "strftime_now": DATE.strftime}
    _check_arithmetic(str(tokenizer.get_chat_template()))
    try:
        with _Watchdog(MAX_SECONDS):
            return str(tokenizer.apply_chat_template(list(exchange), tokenize=False, **day, **options))
    except _TooSlowError:
        raise ValueError(
            f"the model's chat template was still running after {MAX_SECONDS:.0f} seconds; is it in a loop? {WAY_OUT}"
        ) from None
    except Exception as error:  # the template is the model's own program and may raise anything
        reason = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__
        roles = ", ".join(message["role"] for message in exchange)
        raise ValueError(f"the model's chat template fails when given the roles {roles}: {said}") from error


def can_render(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> bool:
    """Whether the template takes an exchange."""
    try:
        render_chat(tokenizer, exchange, **options)
    except ValueError:
        return False
    return True


def takes_system(tokenizer: Any) -> bool:
    """Whether the template has a place for a system message."""
    exchange = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "-"}]
    try:
        return SYSTEM in render_chat(tokenizer, exchange, add_generation_prompt=True)
    except ValueError:
        return False


def check_chat_template(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> None:
    """Tries the template with an exchange of the kind that it will be given, `QUESTION` at its end.

    Raises `ValueError` when it fails, loses part of the exchange, or does not open the model's turn.
    """
    try:
        text = render_chat(tokenizer, exchange, add_generation_prompt=True, **options)
    except ValueError as error:
        if "still running" in str(error):
            raise
        raise ValueError(f"{error}; {_advice(tokenizer, exchange, **options)}") from error
    *before, last = exchange
    check_kept(last["content"], text)
    for message in before:
        check_kept(message["content"], text, "system" if message["role"] == "system" else "assistant")
    _check_turn_opened(tokenizer, exchange, text, **options)


def check_kept(content: str, text: str, role: str = "user") -> None:
    """Raises `ValueError` when a prompt lacks words of a message that it is to hold; white space may change."""
    if content.strip() in text or _words(content) in _words(text):
        return
    what = {"user": "question", "assistant": "worked example", "system": "system prompt"}[role]
    advice = {"assistant": "set prompt.example to false, or ", "system": "leave prompt.system out, or "}.get(role, "")
    given, kept = _words(content).split(), set(_words(text).split())
    lost = [word for word in given if word not in kept]
    raise ValueError(
        f"the model's chat template loses the {what}: the prompt lacks {len(lost) or 'some'} of its {len(given)} words"
        f"{f', such as {lost[0][:40]!r}' if lost else ''}; {advice}{WAY_OUT}"
    )


def _advice(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> str:
    """How to get round a template that fails on an exchange."""
    system = {"role": "system", "content": SYSTEM}
    roles = [message["role"] for message in exchange]
    if "system" not in roles and can_render(tokenizer, [system, *exchange], add_generation_prompt=True, **options):
        return f"it wants a system message: set prompt.system, or {WAY_OUT}"
    if "assistant" in roles and can_render(tokenizer, exchange[-1:], add_generation_prompt=True, **options):
        return f"it does not take a worked example: set prompt.example to false, or {WAY_OUT}"
    return WAY_OUT


def _check_turn_opened(tokenizer: Any, exchange: Sequence[Message], text: str, **options: Any) -> None:
    """A template without a generation prompt is right only where a reply follows the question directly (Llama 2)."""
    try:
        without = render_chat(tokenizer, exchange, add_generation_prompt=False, **options)
        answered = render_chat(tokenizer, [*exchange, {"role": "assistant", "content": REPLY}], **options)
    except ValueError:
        return  # what comes before an answer cannot be seen
    before, found, _ = answered.rpartition(REPLY)
    if not found or text != without or not before.startswith(text.rstrip()):
        return
    missing = before[len(text.rstrip()) :].strip()
    if missing:
        raise ValueError(
            "the model's chat template ignores add_generation_prompt: a prompt does not open the model's turn with"
            f" {missing[:60]!r}, as the template itself does before an answer, so the model would go on as the user;"
            f" {WAY_OUT}"
        )


def parse_template(template: str) -> jinja2.nodes.Template:
    """A chat template as a tree. Raises `jinja2.TemplateError` for one that is none."""
    return jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))


@functools.lru_cache(maxsize=8)
def _check_arithmetic(template: str) -> None:
    """Raises `ValueError` for a template with a power or with a product of large constants."""
    try:
        parsed = parse_template(template)
    except jinja2.TemplateError:
        return  # rendering says what is wrong
    powers = list(parsed.find_all(jinja2.nodes.Pow))
    if powers or any(_factor(product) > MAX_FACTOR for product in parsed.find_all(jinja2.nodes.Mul)):
        what = "a power" if powers else f"a product of more than {MAX_FACTOR:,}"
        raise ValueError(f"the model's chat template computes {what}, which may never end; {WAY_OUT}")


def _factor(product: jinja2.nodes.Mul) -> int:
    """The product of a product's whole constants."""
    sides = (product.left, product.right)
    constants = [side.value for side in sides if isinstance(side, jinja2.nodes.Const)]
    inner = [_factor(side) for side in sides if isinstance(side, jinja2.nodes.Mul)]
    return math.prod([abs(value) for value in constants if isinstance(value, int)] + inner)


def _words(text: str) -> str:
    """The text with one space for all that is no letter, digit or underscore."""
    return " ".join(re.findall(r"\w+", text))


class _TooSlowError(BaseException):
    """Raised in the midst of a template; no `Exception`, which templates and Jinja may catch."""


class _Watchdog:
    """Raises `_TooSlowError` in this thread, whichever it is, when what it does takes longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._finished = self._fired = False
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._finished = True
        self._timer.cancel()
        while self._fired and kind is not _TooSlowError:  # it is on its way, and must not arrive any later
            time.sleep(0.001)

    def _fire(self) -> None:
        with self._lock:
            if not self._finished:
                self._fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_TooSlowError)
                )
