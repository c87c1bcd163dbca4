"""A Ray to work in: one of our own for as long as it is needed, or somebody's cluster to join.

A Ray of our own serves this machine only: it listens on the loopback address, has no dashboard, sends no usage
statistics and says nothing on standard output, which belongs to the command. Token authentication stays as Ray has
it: on, with a token file in the home directory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from spiral.core.stopping import handlers_kept
from spiral.distributed.ray_watch import watched
from spiral.runs.cluster import ClusterConfig

logger = logging.getLogger(__name__)

GIB = 2**30
LEAST_STORE_GIB = 75 / 1024
"""Ray starts with no less."""
JOIN_SECONDS = 10.0
"""How long a Ray that is to be joined has for taking a connection."""
OWN_RAY = {
    # Ray resolves 127.0.0.1 to the address of a network card, except where it believes itself on a desktop.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def import_ray() -> Any:
    """The `ray` module. Raises `ValueError` where it is not installed."""
    try:
        import ray  # an optional package
    except ImportError as error:
        raise ValueError(
            'cluster.rollout_workers needs Ray, which is not installed: pip install "spiral-selfplay[cluster]"'
        ) from error
    return ray


@contextmanager
def cluster_session(config: ClusterConfig, advice: str = "start it again") -> Iterator[None]:
    """Connects this process to a Ray; leaves it, and ends it if it is our own, on the way out.

    A connection that exists already is used and kept. Should Ray die and take this process with it, a line says so that
    ends in `advice`. Raises `ValueError` when there is no Ray to join.
    """
    if importlib.util.find_spec("ray") is None:
        import_ray()
    settings = OWN_RAY if config.address == "local" else {}
    with _environment(settings):
        ray = import_ray()
    connected = ray.is_initialized()
    try:
        if not connected:  # in here, since Ctrl-C may come while Ray is starting
            with _environment(settings), handlers_kept():
                try:
                    _connect(ray, config)
                except SystemExit as error:  # Ray's own answer to SIGTERM
                    raise KeyboardInterrupt from error
        with contextlib.nullcontext() if connected else watched(_processes(ray), advice):
            yield
    finally:
        if not connected:
            ray.shutdown()


def _connect(ray: Any, config: ClusterConfig) -> None:
    options: dict[str, Any] = {
        "address": config.address,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    _keep_standard_output_clean(ray)
    if config.address != "local":
        try:
            _knock(config.address)
            ray.init(**options)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"cluster.address is {config.address!r}, but no Ray can be joined there:"
                f" {str(error).strip().splitlines()[0]} Start one with `ray start --head`, or use 'local'"
            ) from error
        return
    needed = (config.rollout_workers + config.learner_workers) * config.cpus_per_worker
    store = int(max(config.object_store_gib, LEAST_STORE_GIB) * GIB) if config.object_store_gib else None
    with _loopback(ray):
        ray.init(
            **options,
            num_cpus=max(os.cpu_count() or 1, int(needed + 1)),  # more processes than cores only take turns
            include_dashboard=False,
            object_store_memory=store,
        )


def _processes(ray: Any) -> dict[int, str]:
    """Ray's own processes by id; none of a Ray that was joined."""
    node = ray._private.worker._global_node
    groups = node.all_processes if node is not None else {}
    vital = ("gcs_server", "raylet")
    return {info.process.pid: name for name in vital for info in groups.get(name, ())}


def _knock(address: str) -> None:
    """Raises `OSError` where nobody listens; Ray itself would go on trying for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=JOIN_SECONDS).close()


@contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """Ray may have been imported before the environment was set: this is what it read there."""
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _keep_standard_output_clean(ray: Any) -> None:
    """Sends what Ray prints about lost workers to the log; whoever lost one says so in our own words."""
    worker = ray._private.worker

    def keep(data: Mapping[str, Any], **_how: Any) -> None:
        for line in data.get("lines", ()):
            logger.debug("Ray: %s", line)

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = keep
    if hasattr(worker, "_unhandled_error_handler"):  # of answers that nobody took, since another one told enough
        worker._unhandled_error_handler = lambda error: logger.debug("Ray: %s", error)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while; those that are set already stay as they are."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
