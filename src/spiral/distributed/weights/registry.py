"""From the name in `cluster.publish` to a weight transport."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from spiral.core.plugins import check_options, resolve
from spiral.distributed.placement import pairs
from spiral.distributed.weights.base import TransportContext, WeightTransport
from spiral.distributed.weights.broadcast import BroadcastTransport, broadcast_device
from spiral.distributed.weights.ipc import IpcTransport
from spiral.distributed.weights.object_store import ObjectStoreTransport
from spiral.games.failures import UserCodeError, describe_error
from spiral.runs.cluster import ClusterConfig

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
