"""Where the processes of a run are placed: Ray's placement groups, and an error at once where they do not fit.

The learner's ranks are placed together or not at all, near one another (Ray's "PACK"), since they need each other.
Rollout workers are spread over the remaining resources, each for itself: a run continues without one, and uses a node
that joins.

Where a rollout worker needs less than a GPU (`cluster.gpus_per_worker`), rollout worker i shares the GPU of rank i:
one bundle of the group holds both, the worker takes its share of the GPU and the rank the rest. A worker that is
replaced returns to its bundle. Ray counts shares of a GPU and does not enforce them; the memory of the GPU is divided
by the settings of engine and learner.

Not supported: topology beyond the node, such as racks and switches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spiral.distributed.session import ClusterError, import_ray
from spiral.runs.cluster import ClusterConfig

logger = logging.getLogger(__name__)

SPREAD = "SPREAD"
POLL_SECONDS = 1
JOIN_SECONDS = 10.0
"""Time that nodes of a Ray that was joined have to appear before a lack of resources is an error."""

Resources = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Ray's scheduling strategies of ranks and rollout workers, and the GPUs of each rank."""

    ranks: tuple[Any, ...]
    rank_gpus: tuple[float, ...]
    workers: tuple[Any, ...]


def gpus_per_rank(device: str) -> float:
    """GPUs of a learner rank: 1 where the recipe's device and the cluster have GPUs, else 0."""
    if device.startswith("cuda"):
        return 1.0
    return 1.0 if device == "auto" and import_ray().cluster_resources().get("GPU", 0) else 0.0


def pairs(config: ClusterConfig, rank_gpus: float) -> int:
    """Number of ranks that share their GPU with the rollout worker of the same number."""
    return min(config.learner_workers, config.rollout_workers) if config.shares_gpus and rank_gpus > 0 else 0


def learner_bundles(config: ClusterConfig, rank_gpus: float) -> list[dict[str, float]]:
    """Resources of each rank, together with the rollout worker that shares its GPU."""
    paired = pairs(config, rank_gpus)
    return [
        _bundle(config.cpus_per_worker * (2 if rank < paired else 1), rank_gpus)
        for rank in range(config.learner_workers)
    ]


def fits(bundles: Sequence[Resources], nodes: Sequence[Resources]) -> bool:
    """Whether all bundles fit on idle nodes, each on one node; tries the largest first."""
    free = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)), reverse=True):
        room = (node for node in free if all(node.get(name, 0) >= amount for name, amount in bundle.items()))
        node = next(room, None)
        if node is None:
            return False
        for name, amount in bundle.items():
            node[name] -= amount
    return True


@contextlib.contextmanager
def placed(config: ClusterConfig, rank_gpus: float) -> Iterator[Placement]:
    """Reserves the resources of the learner's ranks for the duration of the block; Ray must be connected.

    Raises:
        ValueError: the cluster is too small, or the recipe does not say which GPUs rollout workers use.
        ClusterError: the resources are not free within `cluster.learner_seconds`.
    """
    if rank_gpus > 0:
        config.check_gpus()
    ray = import_ray()

    bundles = learner_bundles(config, rank_gpus)
    if config.address == "local":  # no node will join
        _refuse_what_never_fits(config, bundles)
    group = ray.util.placement_group(bundles, strategy="PACK")
    try:
        _wait(group, config, bundles)
        yield _placement(group, config, rank_gpus)
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # it has ended with its Ray
            ray.util.remove_placement_group(group)


def _placement(group: Any, config: ClusterConfig, rank_gpus: float) -> Placement:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # an optional package

    bundles = [
        PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
        for rank in range(config.learner_workers)
    ]
    paired = pairs(config, rank_gpus)
    left = [rank_gpus - (config.gpus_per_worker if rank < paired else 0.0) for rank in range(config.learner_workers)]
    alone: list[Any] = [SPREAD] * (config.rollout_workers - paired)
    return Placement(ranks=tuple(bundles), rank_gpus=tuple(left), workers=(*bundles[:paired], *alone))


def _wait(group: Any, config: ClusterConfig, bundles: Sequence[Resources]) -> None:
    """Waits until the group has its resources."""
    begun, warned = time.monotonic(), False
    while not group.wait(POLL_SECONDS):
        waited = time.monotonic() - begun
        if waited < JOIN_SECONDS:
            continue
        _refuse_what_never_fits(config, bundles)
        if waited > config.learner_seconds:
            raise ClusterError(
                f"this process waited {config.learner_seconds:g} s (cluster.learner_seconds) for the resources"
                f" of the learner: {_needs(bundles)}; Ray has {_has(_nodes())}, but other processes use them"
            )
        if not warned:
            logger.warning("the learner waits for resources that other processes use: %s", _needs(bundles))
            warned = True


def _refuse_what_never_fits(config: ClusterConfig, bundles: Sequence[Resources]) -> None:
    nodes = _nodes()
    worker = [_bundle(config.cpus_per_worker, config.gpus_per_worker)]
    if not fits(bundles, nodes):
        what, remedy = f"the learner needs {_needs(bundles)}", "cluster.learner_workers or cluster.cpus_per_worker"
    elif not fits(worker, nodes):
        what, remedy = f"a rollout worker needs {_needs(worker)}", "cluster.cpus_per_worker or cluster.gpus_per_worker"
    else:
        return
    raise ValueError(f"{what}; Ray has {_has(nodes)}; lower {remedy}, or start more nodes and join them")


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


def _nodes() -> list[Resources]:
    return [node["Resources"] for node in import_ray().nodes() if node["Alive"]]


def _needs(bundles: Sequence[Resources]) -> str:
    texts = [_amounts(bundle) for bundle in bundles]
    return " and ".join(f"{texts.count(text)} x ({text} on one node)" for text in dict.fromkeys(texts))


def _has(nodes: Sequence[Resources]) -> str:
    texts = [_amounts({"CPU": node.get("CPU", 0), "GPU": node.get("GPU", 0)}) for node in nodes]
    listed = ", ".join(f"{texts.count(text)} x ({text})" for text in dict.fromkeys(texts))
    return f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}: {listed}"


def _amounts(resources: Resources) -> str:
    return " and ".join(f"{amount:g} {name}{'s' if amount != 1 else ''}" for name, amount in resources.items())
