"""The private names of Ray that this package reads or replaces, all in one place. Last checked with Ray 2.60.0.

- `ray_constants.ENABLE_RAY_CLUSTER`: without it, Ray turns 127.0.0.1 into the address of a network card
  (https://github.com/ray-project/ray/issues/26293).
- `worker.print_to_stdstream` and `worker._unhandled_error_handler`: `log_to_driver=False` does not silence either
  (https://github.com/ray-project/ray/issues/28216).
- `worker._global_node.all_processes`: Ray has no public way to list its own processes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

VITAL_PROCESSES = ("gcs_server", "raylet")
"""Ray's name for the processes without which a local Ray fails."""


def own_processes(ray: Any) -> dict[int, str]:
    """Process ids and names of the vital processes that this process started; empty after joining another Ray."""
    node = ray._private.worker._global_node
    groups = node.all_processes if node is not None else {}
    return {info.process.pid: name for name in VITAL_PROCESSES for info in groups.get(name, ())}


@contextmanager
def loopback_only(ray: Any) -> Iterator[None]:
    """Keeps a Ray that is started inside the block on 127.0.0.1."""
    constants = ray._private.ray_constants  # has read the environment when Ray was imported
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def redirect_prints(ray: Any) -> None:
    """Sends Ray's messages about lost workers to the log at level DEBUG: standard output belongs to the command."""
    worker = ray._private.worker

    def log_lines(data: Mapping[str, Any], **_options: Any) -> None:
        for line in data.get("lines", ()):
            logger.debug("Ray: %s", line)

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = log_lines
    if hasattr(worker, "_unhandled_error_handler"):  # for results that are not fetched after another one has failed
        worker._unhandled_error_handler = lambda error: logger.debug("Ray: %s", error)
