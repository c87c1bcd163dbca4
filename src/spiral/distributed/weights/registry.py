"""From the name in `cluster.publish` to a weight transport, whose errors name it where it is a user's own."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import torch

from spiral.core.plugins import check_options, resolve
from spiral.core.settings import shown
from spiral.distributed.placement import pairs
from spiral.distributed.session import ClusterError
from spiral.distributed.weights.base import (
    Delivery,
    DestinationT,
    LearnerRanks,
    NamedTensors,
    TransportContext,
    WeightReceiver,
    WeightSender,
    WeightsHandle,
    WeightTransport,
)
from spiral.distributed.weights.broadcast import BroadcastTransport, broadcast_device
from spiral.distributed.weights.ipc import IpcTransport
from spiral.distributed.weights.object_store import ObjectStoreTransport
from spiral.games.failures import UserCodeError, describe_error
from spiral.runs.cluster import ClusterConfig
from spiral.training.process_group import GroupError

TRANSPORTS: Mapping[str, type[WeightTransport]] = {
    "object_store": ObjectStoreTransport,
    "broadcast": BroadcastTransport,
    "ipc": IpcTransport,
}
EXPECTED = "expected a subclass of spiral.distributed.weights.base.WeightTransport that defines sender and receiver"


def transport_name(context: TransportContext) -> str:
    """Resolves 'auto': 'ipc' on shared GPUs, 'broadcast' between other GPUs, 'object_store' on CPUs."""
    config = context.config
    if config.publish != "auto":
        return config.publish
    if pairs(config, context.rank_gpus):
        return "ipc"
    return "broadcast" if broadcast_device(context) == "cuda" else "object_store"


def check_transport(config: ClusterConfig) -> None:
    """Checks the transport that a recipe names, before anything is started.

    Raises:
        ValueError: there is no such transport, or it does not take its options.
    """
    if config.publish != "auto":
        _find(config.publish, config)


def make_transport(context: TransportContext) -> WeightTransport:
    """Makes the transport that the recipe names.

    Raises:
        ValueError: there is no such transport, or it does not take its options.
        UserCodeError: a transport of the user's own raised an error.
    """
    name = transport_name(context)
    make = _find(name, context.config)
    try:
        transport = make(context, **context.config.publish_options)
    except (Exception, SystemExit) as error:
        if name in TRANSPORTS:
            raise
        kind = ValueError if isinstance(error, ValueError) else UserCodeError
        raise kind(f"the weight transport {name!r} cannot be made: {describe_error(error)}") from error
    if not isinstance(transport, WeightTransport):
        raise ValueError(f"cluster.publish is {name!r}, which gives a {type(transport).__name__}; {EXPECTED}")
    return transport


def make_sender(context: TransportContext, rank: int) -> WeightSender:
    """Makes the side of learner rank `rank`; raises as `make_transport` does."""
    transport = make_transport(context)
    with _named(context.config, "sender"):
        sender = transport.sender(rank)
        _check_kind(sender, WeightSender)
        return sender


def make_receiver(context: TransportContext) -> WeightReceiver:
    """Makes the side of a rollout worker; raises as `make_transport` does."""
    transport = make_transport(context)
    with _named(context.config, "receiver"):
        receiver = transport.receiver()
        _check_kind(receiver, WeightReceiver)
        return receiver


def connect(config: ClusterConfig, transport: WeightTransport, ranks: LearnerRanks) -> Any:
    """Calls `transport.connect`. Raises `UserCodeError` where a transport of the user's own fails."""
    with _named(config, "connect"):
        return transport.connect(ranks)


def deliver(
    config: ClusterConfig, transport: WeightTransport, handle: WeightsHandle, workers: Sequence[DestinationT]
) -> Delivery[DestinationT]:
    """Calls `transport.deliver`. Raises `UserCodeError` where a transport of the user's own fails."""
    with _named(config, "deliver"):
        delivery = transport.deliver(handle, workers)
        _check_kind(delivery, Delivery)
        return delivery


def send(config: ClusterConfig, sender: WeightSender, version: int, weights: NamedTensors) -> tuple[int, Any]:
    """Calls `sender.send`. Raises `UserCodeError` where a transport of the user's own fails."""
    with _named(config, "send"):
        sent = sender.send(version, weights)
        if not (isinstance(sent, tuple | list) and len(sent) == 2 and isinstance(sent[0], Real)):
            raise _UnexpectedError(f"gave {shown(sent)}; expected the size in bytes and a payload")
        return int(sent[0]), sent[1]


class _UnexpectedError(Exception):
    """A method of a transport gave something else than it should."""


def _check_kind(given: object, kind: type[Any]) -> None:
    if not isinstance(given, kind):
        raise _UnexpectedError(f"gave {shown(given)}; expected a {kind.__module__}.{kind.__name__}")


@contextlib.contextmanager
def _named(config: ClusterConfig, method: str) -> Iterator[None]:
    """Turns errors of a user's transport into `UserCodeError`, but not those of lost processes or of full memory."""
    try:
        yield
    except (ClusterError, GroupError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        if config.publish in ("auto", *TRANSPORTS):
            raise
        reason = str(error) if isinstance(error, _UnexpectedError) else f"raised {describe_error(error)}"
        raise UserCodeError(f"the weight transport {config.publish!r} failed: {method} {reason}") from error


def _find(name: str, config: ClusterConfig) -> Callable[..., WeightTransport]:
    make: Callable[..., WeightTransport] = resolve("weight_transports", name, TRANSPORTS)
    if isinstance(make, type):
        if not issubclass(make, WeightTransport):
            raise ValueError(f"cluster.publish is {name!r}, which gives a {make.__name__}; {EXPECTED}")
        if missing := sorted(getattr(make, "__abstractmethods__", ())):
            raise ValueError(f"cluster.publish is {name!r}, which does not define {' and '.join(missing)}; {EXPECTED}")
    check_options(name, make, config.publish_options, positional=1)
    try:
        signature = inspect.signature(make)
    except ValueError:  # written in C, without a signature
        return make
    try:
        signature.bind(None, **config.publish_options)
    except TypeError as error:
        raise ValueError(
            f"cluster.publish is {name!r}, which cannot be called with a TransportContext and then"
            f" cluster.publish_options by name: {error}; let it take `context` first"
        ) from error
    return make
