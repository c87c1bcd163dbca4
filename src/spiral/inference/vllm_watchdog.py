"""Ends a process whose vLLM hangs, with what it was doing."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import threading
from collections.abc import Iterator

TICKS = 20
"""Number of intervals in which the watchdog checks a call before it counts as stalled."""


class Watchdog:
    """Ends the process when one call takes too long, even where native code never returns."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._call = 0
        self._calls = 1
        self._doing = ""
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="vllm-watchdog", daemon=True).start()

    @contextlib.contextmanager
    def watching(self, doing: str, *, calls: int = 1) -> Iterator[None]:
        """Context manager that allows `calls` times the usual timeout; `doing` follows "while" in the message."""
        self._call, self._calls, self._doing = self._call + 1, calls, doing
        try:
            yield
        finally:
            self._doing = ""

    def stop(self) -> None:
        """Stops the watchdog."""
        self._stopped.set()

    def _run(self) -> None:
        """Counts intervals instead of reading a clock, so that a suspended process does not count as stalled."""
        seen, ticks = 0, 0
        while not self._stopped.wait(self._seconds / TICKS):
            ticks = ticks + 1 if self._doing and self._call == seen else 0
            seen = self._call
            if ticks >= TICKS * self._calls:
                self._end()

    def _end(self) -> None:
        message = (
            f"vLLM has stalled while {self._doing}: one call has taken more than {self._seconds * self._calls:g} s."
            " If it was only slow, raise engine.stall_seconds. Where every thread is:\n"
        )
        os.write(2, message.encode())
        faulthandler.dump_traceback(2, all_threads=True)
        for process in multiprocessing.active_children():  # an engine's over several devices, which may hang too
            process.kill()
        os._exit(1)
