"""What our own code logs while a command runs, as lines on standard error, where progress goes as well.

A live display takes the place of standard error for as long as it is there, and prints such lines above itself; so it
is looked up anew for every line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spiral.core.printable import printable

OURS = "spiral"
KINDS = {logging.INFO: "note", logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}


class _Teller(logging.Handler):
    """Each message once: "warning: " or "note: " and what there is to say; further lines of it indented."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a message. One that cannot be written is lost, and the run goes on."""
        first, *more = printable(f"{KINDS[record.levelno]}: {record.getMessage()}").splitlines()
        with suppress(OSError, ValueError):
            sys.stderr.write("\n  ".join([first, *more]) + "\n")


@contextmanager
def warnings_told() -> Iterator[None]:
    """Prints log messages from INFO up, and keeps them from other handlers; nested calls print once."""
    logger, teller = logging.getLogger(OURS), _Teller(logging.INFO)
    if any(isinstance(handler, _Teller) for handler in logger.handlers):
        yield
        return
    before, logger.propagate = (logger.propagate, logger.level), False
    logger.addHandler(teller)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.propagate = before[0]
        logger.setLevel(before[1])
