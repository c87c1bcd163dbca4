"""What every worker answers while it is busy with something else.

An actor's methods in the thread group `CONTROL` run beside those that play or learn: what a worker is doing, where its
threads are, and what it is to know before it is done. Nothing in there may take long, since there is one such thread.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from typing import Any

from spiral.distributed.faults import reason
from spiral.distributed.session import import_ray

logger = logging.getLogger(__name__)

CONTROL = "control"
"""The thread group of actors for what must not wait until games or an update are over."""


def thread_stacks() -> str:
    """The Python stack of every thread of this process but the one that asks."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = {ident: frame for ident, frame in sys._current_frames().items() if ident != threading.get_ident()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame)).rstrip()
        for ident, frame in frames.items()
    )


def stacks_of(actor: Any, seconds: float) -> str:
    """What an actor's method `stacks` says of its threads, if it can within so many seconds."""
    ray = import_ray()

    try:
        told: str = ray.get(actor.stacks.options(concurrency_group=CONTROL).remote(), timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        return f"it did not say within {seconds:g} s: the process is stopped, or busy outside Python"
    except ray.exceptions.RayError as error:
        return f"it could not say: {reason(error)}"
    return told


def end_actor(actor: Any) -> None:
    """Ends an actor's process, whatever it is doing."""
    ray = import_ray()

    try:
        ray.kill(actor, no_restart=True)
    except (ray.exceptions.RayError, ValueError) as error:  # gone already
        logger.debug("a worker could not be ended: %s", error)
