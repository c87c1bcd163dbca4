"""A model's own chat template: rendering it within a time limit, and refusing one that loses what it is given.

A template is a program that comes with a model. Whatever goes wrong in it is reported as a `ValueError` that says what
it does and which setting gets round it.

A template is stopped between two operations of Python; `template_limits` is for what a single one may do.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import re
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from spiral.text.prompts import Message
from spiral.text.template_limits import ADDRESS, MAX_BYTES, MAX_CHARACTERS, forbidden_operation, limited_memory

DATE = datetime.date(2024, 7, 26)
"""For templates that tell the date (Llama 3, whose own default this is): today's would change prompts every day."""
MAX_SECONDS = 5.0
"""A template takes milliseconds; one that takes longer is in a loop."""
WAY_OUT = "set prompt.template to 'qwen3', 'llama' or 'r1', which are plain text, or give the model another template"
QUESTION = (
    "You are player 0 of <two>.\n  Board & history:\n\n| 1 | X |\n| 2 | O |\n\n"
    + "".join(f"Turn {turn}: the other side said 'offer {turn} wood' and \"nothing\".\n" for turn in range(60))
    + "Write your action inside \\boxed{}. This is the last line, 5e1f7a"
)
"""What a template is tried with: several lines, quotes, markup, and some thousand characters."""
REPLY = "I take it: \\boxed{4b7d}"
SYSTEM = "You are player 9c2e."
AGAIN = "b8a2f4"
_rendered: set[Any] = set()
"""Templates, roles and options that were rendered within the limits."""


def render_chat(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> str:
    """The text that the tokenizer's own template makes of an exchange, the same on every day.

    Raises `ValueError` when the template fails or does not come to an end.
    """
    day = {"date_string": DATE.strftime("%d %b %Y"), "strftime_now": DATE.strftime}
    template = str(tokenizer.get_chat_template())
    if forbidden := forbidden_operation(template):
        raise ValueError(f"the model's chat template {forbidden}; {WAY_OUT}")
    kind = (template, tuple(message["role"] for message in exchange), tuple(sorted(options.items())))
    memory = contextlib.nullcontext() if kind in _rendered else limited_memory()
    try:
        with memory, _Watchdog(MAX_SECONDS):
            text = str(tokenizer.apply_chat_template(list(exchange), tokenize=False, **day, **options))
    except _TooSlowError:
        raise ValueError(
            f"the model's chat template was still running after {MAX_SECONDS:.0f} seconds; is it in a loop? {WAY_OUT}"
        ) from None
    except MemoryError:
        raise ValueError(
            f"the model's chat template takes more than {MAX_BYTES >> 30} GiB of memory for one prompt; {WAY_OUT}"
        ) from None
    except Exception as error:  # the template is the model's own program and may raise anything
        reason = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__
        roles = ", ".join(message["role"] for message in exchange)
        raise ValueError(f"the model's chat template fails when given the roles {roles}: {said}") from error
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the model's chat template writes a prompt of {len(text):,} characters; {WAY_OUT}")
    _rendered.add(kind)
    return text


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
        if WAY_OUT in str(error):
            raise
        raise ValueError(f"{error}; {_advice(tokenizer, exchange, **options)}") from error
    *before, last = exchange
    check_kept(last["content"], text)
    for message in before:
        check_kept(message["content"], text, "system" if message["role"] == "system" else "assistant")
    if ADDRESS.search(text) is not None:
        raise ValueError(f"the model's chat template writes an address in memory, another one every time; {WAY_OUT}")
    _check_turn_opened(tokenizer, exchange, text, **options)
    _check_turn_opened_once(tokenizer, exchange, text, **options)


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


def _check_turn_opened_once(tokenizer: Any, exchange: Sequence[Message], text: str, **options: Any) -> None:
    """The generation prompt opens the model's turn and not the user's, and does so once."""
    mark, answer = exchange[-1]["content"][-20:].strip(), {"role": "assistant", "content": REPLY}
    try:
        without = render_chat(tokenizer, exchange, add_generation_prompt=False, **options)
    except ValueError:
        return
    before, _, end = text.rpartition(mark)
    plain = without.rpartition(mark)[2]
    opening = end.removeprefix(plain).strip()[:200]
    again = plain.rstrip().endswith(opening) or re.fullmatch(r"(.+?)(?:\s*\1)+", opening, re.DOTALL) is not None
    if again and len(re.findall(r"\w", opening)) > 1:
        raise ValueError(
            f"the model's chat template opens the model's turn twice: a prompt ends with {end.strip()[-80:]!r};"
            f" {WAY_OUT}"
        )
    try:
        conversation = render_chat(tokenizer, [*exchange, answer, {"role": "user", "content": AGAIN}], **options)
    except ValueError:
        return
    answering, _, following = conversation.rpartition(REPLY)
    question = exchange[-1]["content"]
    start = before.rfind(question[:20].strip())
    user = (
        common_end(before[:start], following.partition(AGAIN)[0]).strip() if start >= 0 and AGAIN in following else ""
    )
    if re.search(r"\w", user) and end.rstrip().endswith(user) and not answering.rstrip().endswith(user):
        raise ValueError(
            f"the model's chat template opens the user's turn where the model is to speak: a prompt ends with {user!r};"
            f" {WAY_OUT}"
        )


def common_end(one: str, other: str) -> str:
    """The longest end of both texts."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    count = next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    return one[len(one) - count :]


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
