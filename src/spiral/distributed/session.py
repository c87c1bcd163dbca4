"""The connection to Ray: a private Ray for the duration of a run, or a cluster to join; and what every actor needs.

A private Ray serves this machine only: it listens on the loopback address, has no dashboard, sends no usage
statistics and prints nothing on standard output, which belongs to the command. Token authentication stays at Ray's
default: on, with a token file in the home directory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from spiral.core.stopping import handlers_kept
from spiral.distributed.ray_private import loopback_only, own_processes, redirect_prints
from spiral.distributed.ray_watch import watched
from spiral.games.failures import UserCodeError
from spiral.runs.cluster import ClusterConfig
from spiral.training.process_group import LOOPBACK, GroupError

logger = logging.getLogger(__name__)

CONTROL = "control"
"""Concurrency group of actor methods that answer while games or an update are under way. It has one thread, so nothing
in it may take long."""
GIB = 2**30
MIN_STORE_GIB = 75 / 1024
"""Ray refuses to start with a smaller object store."""
JOIN_SECONDS = 10.0
"""Timeout for connecting to the address of a Ray to join."""
PRIVATE_RAY = {
    # Ray replaces 127.0.0.1 by the address of a network card unless it believes itself on a desktop.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ClusterError(RuntimeError):
    """The cluster cannot continue the run; the message names the process and what failed."""


class LearnerLostError(ClusterError):
    """A learner worker died, hung, or lost its connection; the weights since the last checkpoint are lost."""


def import_ray() -> Any:
    """Returns the `ray` module.

    Raises:
        ValueError: Ray is not installed.
    """
    try:
        import ray  # an optional package
    except ImportError as error:
        raise ValueError("cluster.rollout_workers needs Ray, which is not installed: pip install ray") from error
    return ray


@contextmanager
def cluster_session(config: ClusterConfig, advice: str = "start it again") -> Iterator[None]:
    """Connects this process to Ray for the duration of the block; an existing connection is used and kept.

    Args:
        config: `address` says whether to start a private Ray, which ends with the block, or to join another one.
        advice: Ends the line that is printed on standard error if Ray dies and takes this process with it.

    Raises:
        ValueError: there is no Ray to join at the address.
    """
    if importlib.util.find_spec("ray") is None:
        import_ray()
    settings = PRIVATE_RAY if config.address == "local" else {}
    with _environment(settings):
        ray = import_ray()
    connected = ray.is_initialized()
    try:
        if not connected:  # inside the try block, since Ctrl-C may come while Ray is starting
            with _environment(settings), handlers_kept():
                try:
                    _connect(ray, config)
                except SystemExit as error:  # Ray's own handler of SIGTERM
                    raise KeyboardInterrupt from error
        with contextlib.nullcontext() if connected else watched(own_processes(ray), advice):
            yield
    finally:
        if not connected:
            ray.shutdown()


def own_address(local: bool) -> str:
    """The address at which other processes reach this one; the loopback address where all are on one machine."""
    return LOOPBACK if local else str(import_ray().util.get_node_ip_address())


def thread_stacks() -> str:
    """The Python stack of every thread of this process except the calling one."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = {ident: frame for ident, frame in sys._current_frames().items() if ident != threading.get_ident()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame)).rstrip()
        for ident, frame in frames.items()
    )


def stacks_of(actor: Any, seconds: float) -> str:
    """The stacks of an actor's threads from its method `stacks`, or why they are not available within `seconds`."""
    ray = import_ray()

    try:
        stacks: str = ray.get(actor.stacks.options(concurrency_group=CONTROL).remote(), timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {seconds:g} s: the process is stopped, or busy outside Python"
    except ray.exceptions.RayError as error:
        return f"not available: {error_reason(error)}"
    return stacks


def end_actor(actor: Any) -> None:
    """Kills an actor's process, whatever it is doing."""
    ray = import_ray()

    try:
        ray.kill(actor, no_restart=True)
    except (ray.exceptions.RayError, ValueError) as error:  # it has ended already
        logger.debug("a worker could not be ended: %s", error)


def error_reason(error: Any) -> str:
    """The cause of a Ray error in one line: the worker's own exception where there is one, without Ray's additions."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        kind = "" if isinstance(cause, ValueError | UserCodeError) else f"{type(cause).__name__}: "
        return kind + " ".join(str(cause).split())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = [line for line in lines if line.startswith("The actor is dead because")] or lines[:1]
    if not first:
        return type(error).__name__
    return f"{type(error).__name__}: {first[0].split(' Some common causes')[0].rstrip('.')}"


def learner_failure(rank: int, ref: Any, method: str) -> Exception | None:
    """The exception to raise for a learner worker's answer: its own error, or that it is lost; None for a result."""
    ray = import_ray()
    try:
        ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GroupError) or not isinstance(cause, Exception):
            return LearnerLostError(f"learner worker {rank} failed at {method}: {error_reason(error)}")
        return cause
    except ray.exceptions.RayError as error:
        return LearnerLostError(f"learner worker {rank} died at {method}: {error_reason(error)}")
    return None


def set_up_error(worker: object, error: Any) -> Exception:
    """A worker's error during its setup, as an exception of the same kind to raise in this process."""
    kind = ValueError if isinstance(getattr(error, "cause", None), ValueError) else ClusterError
    return kind(f"{worker} could not be set up: {error_reason(error)}")


def _connect(ray: Any, config: ClusterConfig) -> None:
    options: dict[str, Any] = {
        "address": config.address,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    redirect_prints(ray)
    if config.address != "local":
        try:
            _check_listening(config.address)
            ray.init(**options)
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
            raise ValueError(
                f"cluster.address is {config.address!r}, but no Ray can be joined there: {reason}. Start one with `ray"
                " start --head`, or use 'local'"
            ) from error
        return
    needed = (config.rollout_workers + config.learner_workers) * config.cpus_per_worker
    store = int(max(config.object_store_gib, MIN_STORE_GIB) * GIB) if config.object_store_gib else None
    with loopback_only(ray):
        ray.init(
            **options,
            num_cpus=max(os.cpu_count() or 1, int(needed + 1)),  # with more processes than cores, they take turns
            include_dashboard=False,
            object_store_memory=store,
        )


def _check_listening(address: str) -> None:
    """Raises `OSError` at once where nothing listens; Ray itself would retry for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=JOIN_SECONDS).close()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables inside the block, except those that are set already."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
