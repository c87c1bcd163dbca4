"""How a rollout worker gets weights into its policy, from wherever they are.

First from what a broadcast has brought, then from the memory of a learner worker at its place, and else from the object
store, where their keeper puts a copy when asked.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from spiral.distributed.session import ClusterError, LearnerLostError, error_reason, import_ray
from spiral.distributed.weights.base import PackedWeights, WeightsHandle, unpack
from spiral.distributed.weights.ipc import Load, borrowed, own_places
from spiral.distributed.weights.sync import WEIGHTS, Receiver

logger = logging.getLogger(__name__)


def fetch(weights: WeightsHandle, receiver: Receiver, seconds: float, load: Load) -> None:
    """Calls `load(named, version)`, a second time where what it read was written over meanwhile.

    Raises `RuntimeError` when the weights do not come within `seconds` or are no more, and `LearnerLostError` when who
    keeps them is gone.
    """
    received = receiver.take(weights.version)
    if received is not None:
        load(received.tensors(), weights.version)
    elif not _borrow(weights, seconds, load):
        load(unpack(_copy(weights, seconds)), weights.version)


def _borrow(weights: WeightsHandle, seconds: float, load: Load) -> bool:
    """Reads in a learner worker's memory; False when none lends at this place, or no longer this version."""
    lenders = weights.source.lenders if weights.source is not None else {}
    lender = next((lenders[place] for place in own_places() if place in lenders), None) if lenders else None
    if lender is None:
        return False

    def ask(method: Any, argument: int) -> Any:
        what = f"weights of version {weights.version} from the learner's memory"
        return _answer(method.options(concurrency_group=WEIGHTS).remote(argument), seconds, what, "a learner worker")

    loan = ask(lender.lend_weights, weights.version)
    if loan is None:
        return False
    try:
        named = borrowed(loan)
    except (OSError, RuntimeError) as error:  # the lender is gone, or the system allows for no such thing
        logger.warning("weights of version %d could not be read in the learner's memory: %s", weights.version, error)
        return False
    load(named, weights.version)
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the last of it has been read
    return bool(ask(lender.holds_weights, loan.number))


def _copy(weights: WeightsHandle, seconds: float) -> PackedWeights:
    """Weights out of the object store, where their keeper puts them now if they are not there yet."""
    what, keeper = f"weights of version {weights.version} from the object store", None
    ref = weights.ref
    if ref is None:
        assert weights.source is not None
        keeper = "learner worker 0"
        asked = weights.source.actor.copy_weights.options(concurrency_group=WEIGHTS).remote(weights.version)
        (ref,) = _answer(asked, seconds, what, keeper)
    packed: PackedWeights = _answer(ref, seconds, what, keeper)
    return packed


def _answer(ref: Any, seconds: float, what: str, keeper: str | None) -> Any:
    """What a reference stands for, with errors in words."""
    ray = import_ray()

    try:
        return ray.get(ref, timeout=seconds)
    except ray.exceptions.GetTimeoutError as error:
        raise RuntimeError(f"waited {seconds:g} s for {what}") from error
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, ClusterError) else RuntimeError(error_reason(error)) from error
    except ray.exceptions.RayError as error:
        if keeper is None:
            raise
        raise LearnerLostError(f"{keeper} died before it could give {what}: {error_reason(error)}") from error
