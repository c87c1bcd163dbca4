"""The socket of weight transports: a user's own by its name, and what is refused."""

import re

import pytest
from pydantic import ValidationError

from distributed_policies import VOCABULARY, coin, weights
from distributed_session import GAMES, cluster, facts, one_process, small_ray
from distributed_transports import FaultySender
from spiral.distributed.collector import ClusterCollector
from spiral.distributed.run import assemble_cluster
from spiral.distributed.session import LearnerLostError
from spiral.distributed.weights.base import TransportContext, WeightsHandle
from spiral.distributed.weights.registry import connect, deliver, make_receiver, make_sender, make_transport, send
from spiral.games.failures import UserCodeError
from spiral.runs.cluster import ClusterConfig
from spiral.runs.recipe import load_recipe
from spiral.training.process_group import GroupError

pytest.importorskip("ray")

OWN = "distributed_transports:FileTransport"


@pytest.mark.slow
def test_a_users_transport_publishes_to_workers(tmp_path):
    import ray

    context = TransportContext(config=cluster(publish=OWN, publish_options={"folder": str(tmp_path)}))
    sender = make_transport(context).sender(rank=0)
    with (
        small_ray(),
        ClusterCollector(coin, GAMES, 3, context.config, vocabulary=VOCABULARY, transport=context) as collector,
    ):
        for version in (0, 1):
            size, file = sender.send(version, weights(version))
            collector.receive_weights(WeightsHandle(version=version, payload=ray.put(file), num_bytes=size))
            episodes = collector.collect(version + 1)
            assert [facts(e) for e in episodes] == one_process(coin(), (weights(version), version), version + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"publish": OWN}, "needs the option 'folder'"),
        ({"publish": OWN, "publish_options": {"folder": "x", "size": 3}}, "has no option 'size'"),
        ({"publish_options": {"size": 3}}, "publish is 'auto', which takes no options; remove them"),
        ({"publish": "distributed_transports:Missing"}, "cannot be imported"),
        ({"publish": "distributed_transports:NoTransport"}, "which gives a NoTransport; expected a subclass of"),
    ],
)
def test_a_wrong_transport_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_transport(TransportContext(config=ClusterConfig(**settings)))


def test_a_run_checks_its_transport_before_it_starts_ray(tmp_path):
    recipe = load_recipe("nano", ["cluster.rollout_workers=1", f"cluster.publish={OWN}"])
    with pytest.raises(ValueError, match="needs the option 'folder'"):
        assemble_cluster(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoTransport", "which gives a NoTransport; expected a subclass of spiral.distributed.weights.base.Weight"),
        ("Nothing", "which gives a Nothing; expected a subclass of"),
        ("Half", "which does not define receiver; expected a subclass of"),
        ("NoContext", "cannot be called with a TransportContext .*; let it take `context` first"),
    ],
)
def test_what_is_no_transport_is_refused_before_ray_is_started(name, message, tmp_path):
    recipe = load_recipe("nano", ["cluster.rollout_workers=1", f"cluster.publish=distributed_transports:{name}"])
    with pytest.raises(ValueError, match=f"cluster.publish is 'distributed_transports:{name}', .*{message}"):
        assemble_cluster(recipe, tmp_path / "run")


def test_a_transport_that_raises_is_named():
    config = ClusterConfig(publish="distributed_transports:Fails")
    with pytest.raises(
        UserCodeError, match=r"transport 'distributed_transports:Fails' cannot be made: OSError: no such"
    ):
        make_transport(TransportContext(config=config))
    config = ClusterConfig(publish="distributed_transports:Refuses", publish_options={"port": 0})
    with pytest.raises(
        ValueError, match=r"transport 'distributed_transports:Refuses' cannot be made: ValueError: port 0"
    ):
        make_transport(TransportContext(config=config))


CALLS = {
    "sender": lambda context: make_sender(context, 0),
    "receiver": make_receiver,
    "deliver": lambda context: deliver(context.config, make_transport(context), None, []),
    "send": lambda context: send(context.config, FaultySender(context.config.publish_options["fault"]), 1, []),
    "connect": lambda context: connect(context.config, make_transport(context), None),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("fault", [KeyError("boom"), ValueError("boom"), SystemExit("boom"), None, 3, ("size", None)])
def test_a_failing_method_of_a_transport_is_named(method, fault):
    if method == "connect" and not isinstance(fault, BaseException):
        return  # any value is a peer
    name = "distributed_transports:Faulty"
    context = TransportContext(config=ClusterConfig(publish=name, publish_options={"fault": fault}))
    did = f"raised {type(fault).__name__}: " if isinstance(fault, BaseException) else f"gave {fault!r}; expected "
    with pytest.raises(UserCodeError, match=re.escape(f"the weight transport {name!r} failed: {method} {did}")):
        CALLS[method](context)


@pytest.mark.parametrize("lost", [LearnerLostError("rank 0"), GroupError("rank 1"), MemoryError()])
def test_a_lost_process_is_no_fault_of_the_transport(lost):
    config = ClusterConfig(publish="distributed_transports:Faulty", publish_options={"fault": lost})
    for call in CALLS.values():
        with pytest.raises(type(lost)):
            call(TransportContext(config=config))


def test_a_transport_that_cannot_be_imported_is_refused_when_the_recipe_is_read():
    with pytest.raises(
        ValueError, match=r"nano: cluster\.publish: 'distributed_transports:Missing', .* cannot be impo"
    ):
        load_recipe("nano", ["cluster.publish=distributed_transports:Missing"])


def test_an_unknown_name_is_refused_when_the_recipe_is_read():
    with pytest.raises(ValidationError, match="got 'pigeon'; expected one of auto, object_store, broadcast, ipc, or"):
        ClusterConfig(publish="pigeon")


def test_ranks_that_do_not_send_gather_the_weights_all_the_same():
    for name in ("object_store", "broadcast", "ipc"):
        sender = make_transport(TransportContext(config=ClusterConfig(publish=name))).sender(rank=1)
        gathered = iter(weights(3))
        assert sender.send(3, gathered) == (0, None)
        assert list(gathered) == []
