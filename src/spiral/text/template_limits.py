"""What a chat template may not do: take for ever or fill the memory in one operation, or say something else every time.

A template is a program that comes with a model. A single operation cannot be stopped from outside: powers and products
of large numbers are refused before, and the first rendering of each kind has a limited memory.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import threading
from collections.abc import Iterator

import jinja2

MAX_BYTES = 1 << 30
"""What a rendering may take; templates take some kilobytes."""
MAX_CHARACTERS = 10_000_000
MAX_FACTOR = 1_000_000
"""The constants of a product; templates repeat a text a few times, if at all."""
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}>")
"""What Python writes of an object that has no text, and what is another one in every process."""
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A tag of transformers' own, around what an assistant says."""
_lock = threading.Lock()


def parse_template(template: str) -> jinja2.nodes.Template:
    """A chat template as a tree. Raises `jinja2.TemplateError` for one that is none."""
    return jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))


@functools.lru_cache(maxsize=8)
def forbidden_operation(template: str) -> str:
    """What a template does that it may not; "" where there is no such thing."""
    try:
        parsed = parse_template(template)
    except jinja2.TemplateError:
        return ""  # rendering says what is wrong
    products = list(parsed.find_all(jinja2.nodes.Mul))
    if any(parsed.find_all(jinja2.nodes.Pow)):
        return "computes a power, which may never end"
    if any(_factor(product) > MAX_FACTOR for product in products):
        return f"computes a product of more than {MAX_FACTOR:,}, which may never end"
    if any(product.left == product.right and isinstance(product.left, jinja2.nodes.Expr) for product in products):
        return "computes a square, which may never end"
    drawn = [node.name for node in parsed.find_all(jinja2.nodes.Filter) if node.name == "random"]
    drawn += [node.name for node in parsed.find_all(jinja2.nodes.Name) if node.name == "lipsum"]
    return f"draws at random ({drawn[0]!r}), so that equal questions would have different prompts" if drawn else ""


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """No more than `MAX_BYTES` beyond what the process has; `MemoryError` otherwise. No limit where Linux is not."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    with _lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + MAX_BYTES
        if any(known != resource.RLIM_INFINITY and known <= limit for known in (soft, hard)):
            limit = soft
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _factor(product: jinja2.nodes.Mul) -> int:
    """The product of a product's whole constants."""
    sides = (product.left, product.right)
    constants = [side.value for side in sides if isinstance(side, jinja2.nodes.Const)]
    inner = [_factor(side) for side in sides if isinstance(side, jinja2.nodes.Mul)]
    return math.prod([abs(value) for value in constants if isinstance(value, int)] + inner)
