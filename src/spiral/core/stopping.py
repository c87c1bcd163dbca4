"""Signals that ask a process to stop: Ctrl-C, those of schedulers, and those of terminals that close.

Slurm, Kubernetes and `docker stop` send SIGTERM before they kill; a terminal that closes sends SIGHUP. Both are treated
like Ctrl-C. A signal that the process was started to ignore (`nohup`) stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

OTHERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def stops_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `KeyboardInterrupt`, as Ctrl-C does."""

    def handle(number: int, _frame: FrameType | None) -> None:
        _leave_terminal(number)
        raise KeyboardInterrupt

    with _handled(OTHERS, handle):
        yield


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a stop was requested; a second request raises `KeyboardInterrupt`."""
    requested = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal requested
        _leave_terminal(number)
        if requested:
            raise KeyboardInterrupt
        requested = True

    with _handled((signal.SIGINT, *OTHERS), handle):
        yield lambda: requested


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the handlers that a library replaces inside the block."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *OTHERS)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


@contextmanager
def _handled(numbers: tuple[int, ...], handle: Handler) -> Iterator[None]:
    """Handle signals during the block. Only the main thread can; other threads change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = [number for number in numbers if number in OTHERS and signal.getsignal(number) is signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers if number not in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _leave_terminal(number: int) -> None:
    """After a hang-up, send output to /dev/null, so that printing does not end the run."""
    if number != getattr(signal, "SIGHUP", None):
        return
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None and stream.isatty():
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
