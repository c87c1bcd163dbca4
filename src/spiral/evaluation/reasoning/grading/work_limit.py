"""A limit on the work of grading one reply, counted in operations and not in seconds.

A count gives the same grade on a busy machine and on an idle one. Code that computes reports its work to `spend`;
beyond the limit, `TooMuchWorkError` ends the grading of the reply, which is then wrong.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

MAX_WORK = 300_000
"""Per reply, in operations on small numbers; about a second."""
MAX_WORK_OF_EXPRESSION = 40_000
"""Per evaluation of one expression."""

_spent: contextvars.ContextVar[int | None] = contextvars.ContextVar("spent", default=None)


class TooMuchWorkError(Exception):
    """Grading a reply would take too long."""


@contextlib.contextmanager
def bounded_work() -> Iterator[None]:
    """Counts the work within a `with` block, in this thread, from zero."""
    token = _spent.set(0)
    try:
        yield
    finally:
        _spent.reset(token)


def spend(work: int) -> None:
    """Counts `work`; raises `TooMuchWorkError` beyond `MAX_WORK`. Outside `bounded_work` nothing is counted."""
    spent = _spent.get()
    if spent is None:
        return
    _spent.set(spent + work)
    if spent + work > MAX_WORK:
        raise TooMuchWorkError(f"more than {MAX_WORK} operations")
