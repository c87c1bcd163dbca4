"""The status file of a run on a cluster: RUN/cluster.json, for `spiral cluster status`.

A thread writes the file every few seconds, even during a step that takes an hour. An old file means that the run is
dead or suspended, also to readers on other machines, for whom its process id means nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spiral.core.files import write_text_atomically

logger = logging.getLogger(__name__)

STATUS_FILE = "cluster.json"
STATUS_SECONDS = 5.0
"""Time between two writes."""
RETRY_SECONDS = 0.5
"""Time until the next try after a write that failed."""


@contextlib.contextmanager
def status_written(file: Path, ask: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Writes the result of `ask()` to `file` every few seconds during the block, and once more at its end.

    Errors are only logged: the run does not depend on its status.
    """
    ended = threading.Event()

    def work() -> None:
        last = False
        while True:
            pause = STATUS_SECONDS
            try:
                write_status(file, {**ask(), "state": "ended" if last else "running"})
            except Exception as error:
                logger.debug("no status could be written to %s: %s", file, error)
                pause = RETRY_SECONDS  # a new run has no directory yet
            if last:
                return
            last = ended.wait(pause)

    thread = threading.Thread(target=work, name="cluster status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_status(file: Path, status: dict[str, Any]) -> None:
    """Writes a status with the time and the process that wrote it."""
    about = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "driver": {"pid": os.getpid(), "host": socket.gethostname()},
    }
    text = json.dumps({**about, **status}, indent=2)
    write_text_atomically(file, text)
