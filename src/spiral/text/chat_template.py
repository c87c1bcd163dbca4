"""Renders a model's own chat template safely and checks what it does.

A chat template is a program that comes with the model. Every failure inside it is reported as a `ValueError` that says
what the template does and which setting avoids it. Rendering has a time limit, which takes effect between two Python
operations. What a single operation can do is limited otherwise: powers and products of large numbers are refused before
the first rendering, and the first rendering of each kind has a memory limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar

import jinja2

from spiral.text.prompts import Message

DATE = datetime.date(2024, 7, 26)
"""The date that templates write, Llama 3's own default. Today's date would change the prompts every day."""
MAX_SECONDS = 5.0
"""Time limit of one rendering. A template takes milliseconds; one that takes seconds is in a loop."""
TICK = 0.1
"""Seconds between two looks at the renderings that are running."""
MAX_BYTES = 1 << 30
"""Memory limit of one rendering. A template takes kilobytes."""
MAX_CHARACTERS = 10_000_000
"""Length limit of one prompt."""
MAX_FACTOR = 1_000_000
"""Limit on the constants of a product. Templates repeat a text a few times at most."""
FIX = "set prompt.template to 'qwen3', 'llama' or 'r1', which are plain text, or give the model another template"
QUESTION = (
    "You are player 0 of <two>.\n  Board & history:\n\n| 1 | X |\n| 2 | O |\n\n"
    + "".join(f"Turn {turn}: the other side said 'offer {turn} wood' and \"nothing\".\n" for turn in range(60))
    + "Write your action inside \\boxed{}. This is the last line, 5e1f7a"
)
"""The question that templates are tried with: several lines, quotes, markup and some thousand characters."""
REPLY = "I take it: \\boxed{4b7d}"
SYSTEM = "You are player 9c2e."
AGAIN = "b8a2f4"
_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}>")
"""A memory address as Python prints it for objects without a text form; it differs in every process."""
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A tag that transformers adds to Jinja; it marks the assistant's words."""
_memory_lock = threading.Lock()
_rendered: set[Any] = set()
"""Templates, roles and options that have been rendered within the limits."""


def render_chat(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> str:
    """The prompt that the tokenizer's own template makes of an exchange; it does not depend on the date.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        exchange: Chat messages.
        options: Variables of the template and options of `apply_chat_template`.

    Raises:
        ValueError: The template fails, does not finish, or goes beyond a limit.
    """
    day = {"date_string": DATE.strftime("%d %b %Y"), "strftime_now": DATE.strftime}
    template = str(tokenizer.get_chat_template())
    if forbidden := _forbidden_operation(template):
        raise ValueError(f"the model's chat template {forbidden}; {FIX}")
    kind = (template, tuple(message["role"] for message in exchange), tuple(sorted(options.items())))
    memory = contextlib.nullcontext() if kind in _rendered else _limited_memory()
    try:
        with memory, _Watchdog(MAX_SECONDS):
            text = str(tokenizer.apply_chat_template(list(exchange), tokenize=False, **day, **options))
    except _TooSlowError:
        raise ValueError(
            f"the model's chat template was still running after {MAX_SECONDS:.0f} seconds; is it in a loop? {FIX}"
        ) from None
    except MemoryError:
        raise ValueError(
            f"the model's chat template takes more than {MAX_BYTES >> 30} GiB of memory for one prompt; {FIX}"
        ) from None
    except Exception as error:  # a template is a foreign program and may raise anything
        reason = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__
        roles = ", ".join(message["role"] for message in exchange)
        raise ValueError(f"the model's chat template fails when given the roles {roles}: {said}") from error
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the model's chat template writes a prompt of {len(text):,} characters; {FIX}")
    _rendered.add(kind)
    return text


def parse_template(template: str) -> jinja2.nodes.Template:
    """The syntax tree of a chat template. Raises `jinja2.TemplateError` when it has a syntax error."""
    return jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))


def can_render(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> bool:
    """Whether the template renders an exchange without an error."""
    try:
        render_chat(tokenizer, exchange, **options)
    except ValueError:
        return False
    return True


def takes_system(tokenizer: Any) -> bool:
    """Whether the template writes the system message into the prompt."""
    exchange = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "-"}]
    try:
        return SYSTEM in render_chat(tokenizer, exchange, add_generation_prompt=True)
    except ValueError:
        return False


def check_chat_template(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> None:
    """Tries a template with an exchange like those of a run.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        exchange: Chat messages; the last one is `QUESTION`.
        options: Variables of the template.

    Raises:
        ValueError: The template fails, loses part of the exchange, or does not open the model's turn.
    """
    try:
        text = render_chat(tokenizer, exchange, add_generation_prompt=True, **options)
    except ValueError as error:
        if FIX in str(error):
            raise
        raise ValueError(f"{error}; {_advice(tokenizer, exchange, **options)}") from error
    *before, last = exchange
    check_kept(last["content"], text)
    for message in before:
        check_kept(message["content"], text, "system" if message["role"] == "system" else "assistant")
    if _ADDRESS.search(text) is not None:
        raise ValueError(f"the model's chat template writes a memory address, which differs in every process; {FIX}")
    _check_turn_opened(tokenizer, exchange, text, **options)
    _check_turn_opened_once(tokenizer, exchange, text, **options)


def check_history(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> None:
    """Tries a template with a conversation of several turns, as `prompt.history = "chat"` has them.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        exchange: Messages that all differ; the last one is the user's.
        options: Variables of the template.

    Raises:
        ValueError: The template fails, loses a message, or changes their order.
    """
    fix = "set prompt.history to 'observation', or give the model another template"
    try:
        text = render_chat(tokenizer, exchange, add_generation_prompt=True, **options)
    except ValueError as error:
        raise ValueError(f"{error}; it takes no conversation of several turns: {fix}") from error
    places = [text.find(message["content"].strip()) for message in exchange]
    if -1 in places:
        role = exchange[places.index(-1)]["role"]
        raise ValueError(f"the model's chat template loses {'an' if role[0] == 'a' else 'a'} {role} message of a"
                         f" conversation of several turns; {fix}")  # fmt: skip
    turns = [place for place, message in zip(places, exchange, strict=True) if message["role"] != "system"]
    if turns != sorted(turns):  # some templates put the system prompt into the last question
        raise ValueError(f"the model's chat template changes the order of a conversation's messages; {fix}")


def continuation(tokenizer: Any, asked: Sequence[Message], user_text: str, **options: Any) -> str:
    """What the template writes between a reply and the next one: the end of the reply, and a further question.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        asked: Messages before the reply, the last one the user's.
        user_text: The further question.
        options: Variables of the template.

    Raises:
        ValueError: The template fails, or loses a message.
    """
    exchange = [*asked, {"role": "assistant", "content": REPLY}, {"role": "user", "content": user_text}]
    text = render_chat(tokenizer, exchange, add_generation_prompt=True, **options)
    _, found, following = text.partition(REPLY)
    if not found:
        raise ValueError(f"the model's chat template loses the earlier replies of a conversation; {FIX}")
    check_kept(user_text, following)
    return following


def check_kept(content: str, text: str, role: str = "user") -> None:
    """Raises `ValueError` when the prompt `text` lacks words of the message `content`; white space may differ."""
    if content.strip() in text or _words(content) in _words(text):
        return
    what = {"user": "question", "assistant": "worked example", "system": "system prompt", "reply": "earlier reply"}[
        role
    ]
    advice = {
        "assistant": "set prompt.example to false, or ",
        "system": "leave prompt.system out, or ",
        "reply": "set prompt.history to 'observation', or ",
    }.get(role, "")
    given, kept = _words(content).split(), set(_words(text).split())
    lost = [word for word in given if word not in kept]
    raise ValueError(
        f"the model's chat template loses the {what}: the prompt lacks {len(lost) or 'some'} of its {len(given)} words"
        f"{f', such as {lost[0][:40]!r}' if lost else ''}; {advice}{FIX}"
    )


def _advice(tokenizer: Any, exchange: Sequence[Message], **options: Any) -> str:
    """Which setting avoids the failure of a template on an exchange."""
    system = {"role": "system", "content": SYSTEM}
    roles = [message["role"] for message in exchange]
    if "system" not in roles and can_render(tokenizer, [system, *exchange], add_generation_prompt=True, **options):
        return f"it wants a system message: set prompt.system, or {FIX}"
    if "assistant" in roles and can_render(tokenizer, exchange[-1:], add_generation_prompt=True, **options):
        return f"it does not take a worked example: set prompt.example to false, or {FIX}"
    return FIX


def _check_turn_opened(tokenizer: Any, exchange: Sequence[Message], text: str, **options: Any) -> None:
    """Refuses a template that ignores `add_generation_prompt` although it writes something before an answer.

    A template without a generation prompt is right only where the reply directly follows the question (Llama 2).
    """
    try:
        without = render_chat(tokenizer, exchange, add_generation_prompt=False, **options)
        answered = render_chat(tokenizer, [*exchange, {"role": "assistant", "content": REPLY}], **options)
    except ValueError:
        return  # the template does not show what it writes before an answer
    before, found, _ = answered.rpartition(REPLY)
    if not found or text != without or not before.startswith(text.rstrip()):
        return
    missing = before[len(text.rstrip()) :].strip()
    if missing:
        raise ValueError(
            "the model's chat template ignores add_generation_prompt: a prompt does not open the model's turn with"
            f" {missing[:60]!r}, which the template itself writes before an answer, so the model would continue the"
            f" user's turn; {FIX}"
        )


def _check_turn_opened_once(tokenizer: Any, exchange: Sequence[Message], text: str, **options: Any) -> None:
    """Refuses a template whose generation prompt opens the user's turn, or opens the model's turn twice."""
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
            f"the model's chat template opens the model's turn twice: a prompt ends with {end.strip()[-80:]!r}; {FIX}"
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
            f"the model's chat template opens the user's turn where the model should reply: a prompt ends with"
            f" {user!r}; {FIX}"
        )


def common_end(one: str, other: str) -> str:
    """The longest common suffix of two texts."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    count = next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    return one[len(one) - count :]


def _words(text: str) -> str:
    """The words of a text, separated by single spaces."""
    return " ".join(re.findall(r"\w+", text))


@functools.lru_cache(maxsize=8)
def _forbidden_operation(template: str) -> str:
    """The forbidden operation of a template, such as "computes a power"; "" for none."""
    try:
        parsed = parse_template(template)
    except jinja2.TemplateError:
        return ""  # rendering reports the syntax error
    products = list(parsed.find_all(jinja2.nodes.Mul))
    if any(parsed.find_all(jinja2.nodes.Pow)):
        return "computes a power, which may never end"
    if any(_factor(product) > MAX_FACTOR for product in products):
        return f"computes a product of more than {MAX_FACTOR:,}, which may never end"
    if any(product.left == product.right and isinstance(product.left, jinja2.nodes.Expr) for product in products):
        return "computes a square, which may never end"
    drawn = [node.name for node in parsed.find_all(jinja2.nodes.Filter) if node.name == "random"]
    drawn += [node.name for node in parsed.find_all(jinja2.nodes.Name) if node.name == "lipsum"]
    return f"draws at random ({drawn[0]!r}), so equal questions would get different prompts" if drawn else ""


def _factor(product: jinja2.nodes.Mul) -> int:
    """The product of the integer constants in a product."""
    sides = (product.left, product.right)
    constants = [side.value for side in sides if isinstance(side, jinja2.nodes.Const)]
    inner = [_factor(side) for side in sides if isinstance(side, jinja2.nodes.Mul)]
    return math.prod([abs(value) for value in constants if isinstance(value, int)] + inner)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Lets the process allocate `MAX_BYTES` more; beyond that Python raises `MemoryError`. Without effect off Linux."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    with _memory_lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + MAX_BYTES
        if any(known != resource.RLIM_INFINITY and known <= limit for known in (soft, hard)):
            limit = soft
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _TooSlowError(BaseException):
    """Raised inside a running template. Not an `Exception`, because templates and Jinja may catch those."""


class _Watchdog:
    """Context manager that raises `_TooSlowError` in the current thread after `seconds`, or a little later.

    One thread watches all of them: to start one for every prompt takes longer than most prompts.
    """

    _running: ClassVar[set[_Watchdog]] = set()
    _watcher: ClassVar[threading.Thread | None] = None

    def __init__(self, seconds: float) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._seconds = seconds
        self._deadline = 0.0
        self._finished = self._fired = False

    def __enter__(self) -> None:
        self._deadline = time.monotonic() + self._seconds
        self._running.add(self)
        if _Watchdog._watcher is None or not _Watchdog._watcher.is_alive():  # the first, or a forked process
            _Watchdog._watcher = threading.Thread(target=self._watch, name="chat templates", daemon=True)
            _Watchdog._watcher.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._finished = True
        self._running.discard(self)
        while self._fired and kind is not _TooSlowError:  # it is on its way and must not arrive after this block
            time.sleep(0.001)

    @classmethod
    def _watch(cls) -> None:
        while True:
            time.sleep(TICK)
            for watchdog in tuple(cls._running):
                if time.monotonic() > watchdog._deadline:
                    watchdog._fire()

    def _fire(self) -> None:
        with self._lock:
            if not self._finished and not self._fired:
                self._fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_TooSlowError)
                )
