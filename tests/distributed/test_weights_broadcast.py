"""Weights by broadcast: the bits that were sent, although processes are late, stopped, killed or replaced."""

import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from distributed_keeper import context, gloo_threads, handle, keeper
from distributed_policies import VOCABULARY, coin, nano_policy, trapped, weights
from distributed_session import GAMES, cluster, facts, one_process, small_ray, versions
from spiral.distributed.collector import ClusterCollector
from spiral.distributed.session import LearnerLostError
from spiral.distributed.weights.base import TransportContext
from spiral.distributed.weights.broadcast import (
    MAX_FAILED_BROADCASTS,
    BroadcastReceiver,
    BroadcastSender,
    Rendezvous,
    broadcast_device,
)
from spiral.distributed.weights.kept import flatten
from spiral.distributed.weights.object_store import pack, unpack
from spiral.distributed.weights.registry import transport_name
from spiral.runs.cluster import ClusterConfig
from spiral.runs.directory import read_metrics
from tests.distributed import test_cluster_runs as runs

pytest.importorskip("ray")

SOME = {
    "matrix": torch.randn(3, 50).t(),
    "half": torch.randn(7).to(torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    "empty": torch.empty(0, 4),
    "large": torch.randn(100, 30),
}


def same(found, expected):
    """Names, types, shapes and bits, in order."""
    found, expected = list(found), list(expected)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, a), (_, b) in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("bucket_bytes", [1, 500, 2**20])
def test_flat_weights_are_the_same_bits_and_a_copy(dtype, bucket_bytes):
    source = {name: tensor.detach().clone() for name, tensor in SOME.items()}
    flat = flatten(source.items(), dtype, bucket_bytes)
    expected = [(name, tensor.to(dtype or tensor.dtype)) for name, tensor in SOME.items()]
    for tensor in source.values():
        tensor.zero_()
    same(flat.tensors(), expected)
    same(unpack(pack(flat.tensors())), expected)
    assert len(flat.buckets) == {1: 5, 500: 1 if dtype else 2, 2**20: 1}[bucket_bytes]


def rendezvous_of(size, address, generation=1, seconds=20.0):
    return [
        Rendezvous(
            generation=generation, rank=rank, size=size, address=address[0], port=address[1], local=True, device="cpu",
            seconds=seconds,
        )
        for rank in range(size)
    ]  # fmt: skip


@pytest.fixture
def party():
    """A sender, three receivers, and a function that lets them meet, each in its own thread."""
    sender, receivers = BroadcastSender(context(2)), [BroadcastReceiver(20.0) for _ in range(3)]
    address = sender.open_store(True, 20.0)
    with ThreadPoolExecutor(4) as threads:

        def meet(version, present=(0, 1, 2), size=None, **options):
            invitations = rendezvous_of(size or len(present) + 1, address, **options)
            calls = [threads.submit(sender.broadcast, version, invitations[0])]
            calls += [threads.submit(receivers[n].stage, version, invitations[i]) for i, n in enumerate(present, 1)]
            return calls

        yield sender, receivers, meet
    for one in (sender, *receivers):
        one.close()


def answers(calls):
    return [call.result(timeout=60) for call in calls]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_received_is_what_was_sent(party, dtype):
    sender, receivers, meet = party
    group = torch.distributed.is_initialized()  # a learner of before may have made one
    for version in (4, 5, 6):
        sender._dtype = dtype
        sender.send(version, [(name, tensor + version) for name, tensor in SOME.items()])
        assert answers(meet(version)) == [None] * 4
    for receiver in receivers:
        assert receiver.take(4) is None  # two are kept
        for version in (5, 6):
            taken = receiver.take(version)
            same(taken.tensors(), flatten([(n, t + version) for n, t in SOME.items()], dtype).tensors())
            assert receiver.take(version) is None
    assert torch.distributed.is_initialized() == group


def test_groups_come_and_go_and_leave_no_threads(party):
    sender, _, meet = party
    sender.send(0, SOME.items())
    answers(meet(0))
    before = gloo_threads()
    for generation in range(2, 8):
        present = [(0, 1, 2), (0, 2), (1,)][generation % 3]
        assert answers(meet(0, present, generation=generation)) == [None] * (len(present) + 1)
    answers(meet(0, generation=9))
    assert gloo_threads() == before


def test_a_process_that_does_not_come_is_named_after_the_timeout(party):
    sender, receivers, meet = party
    sender.send(0, SOME.items())
    begun = time.monotonic()
    assert answers(meet(0, (0,), size=3, seconds=1.0)) == ["rank 2 did not join the broadcast within 1 s"] * 2
    assert 1 <= time.monotonic() - begun < 5
    # A receiver that expects another version says so, and no one waits.
    calls = meet(0, (0,), size=3, generation=2, seconds=60.0)
    sender.abandon(2)
    assert answers(calls) == ["another process could not join the broadcast"] * 2
    assert receivers[0].take(0) is None
    assert answers(meet(0, generation=3)) == [None] * 4


def test_a_process_that_leaves_is_noticed_at_once(party):
    sender, receivers, meet = party
    sender.send(0, SOME.items())
    assert answers(meet(0)) == [None] * 4
    receivers[1].close()
    sender.send(1, SOME.items())
    begun = time.monotonic()
    calls = meet(1, (0, 2), size=4, seconds=60.0)
    assert any("peer" in fault for fault in answers(calls) if fault)
    assert time.monotonic() - begun < 10
    sender.send(2, SOME.items())
    assert answers(meet(2, generation=2)) == [None] * 4


def test_an_unexpected_version_is_refused(party):
    sender, receivers, _ = party
    sender.send(3, SOME.items())
    invitations = rendezvous_of(2, sender.open_store(True, 20.0))
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(sender.broadcast, 3, invitations[0])
        assert receivers[0].stage(4, invitations[1]) == "got weights of version 3; expected version 4"
        sending.result(timeout=60)
    assert receivers[0].take(3) is receivers[0].take(4) is None


def test_auto_is_ipc_on_a_shared_gpu_and_broadcast_between_others():
    def found(config, rank_gpus):
        return transport_name(TransportContext(config=config, rank_gpus=rank_gpus))

    names = ("object_store", "broadcast", "ipc")
    auto = {gpus: ClusterConfig(gpus_per_worker=gpus, rollout_workers=2) for gpus in (0, 0.5, 1)}
    assert [found(config, 1.0) for config in auto.values()] == ["object_store", "ipc", "broadcast"]
    assert [found(config, 0.5) for config in auto.values()] == ["object_store", "ipc", "object_store"]
    assert [found(config, 0.0) for config in auto.values()] == ["object_store"] * 3
    chosen = [config.model_copy(update={"publish": name}) for config in auto.values() for name in names]
    assert [found(config, gpus) for gpus in (0.0, 1.0) for config in chosen] == list(names) * 6
    for gpus, devices in ((1.0, ["cpu", "cpu", "cuda"]), (0.0, ["cpu"] * 3)):
        contexts = [TransportContext(config=config, rank_gpus=gpus) for config in auto.values()]
        assert [broadcast_device(each) for each in contexts] == devices


GPU_RECEIVER = """
import dataclasses, pickle, sys, torch
from spiral.distributed.weights.broadcast import BroadcastReceiver
torch.cuda.set_device(1)
receiver = BroadcastReceiver(60.0)
assert receiver.stage(1, pickle.loads(bytes.fromhex(sys.argv[1]))) is None
((_, weight),) = receiver.take(1).tensors()
assert torch.equal(weight, torch.arange(1000.0))
"""


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs a GPU for each process")
def test_weights_are_broadcast_between_gpus():
    sender = BroadcastSender(context(1))
    address, port = sender.open_store(True, 60.0)
    rendezvous = Rendezvous(
        generation=1, rank=0, size=2, address=address, port=port, local=True, device="cuda", seconds=60.0
    )  # fmt: skip
    pickled = pickle.dumps(dataclasses.replace(rendezvous, rank=1)).hex()
    sender.send(1, [("weight", torch.arange(1000.0, device="cuda"))])
    with subprocess.Popen([sys.executable, "-c", GPU_RECEIVER, pickled]) as receiver:
        assert sender.broadcast(1, rendezvous) is None
        assert receiver.wait(60) == 0
    sender.close()


@pytest.fixture(scope="module")
def session():
    with small_ray():
        yield


def collector(make_policy, vocabulary=VOCABULARY, **settings):
    return ClusterCollector(
        make_policy, GAMES, 3, cluster(**{"publish": "broadcast", **settings}), vocabulary=vocabulary
    )


def bits(policy):
    """The weights' bits, whose they are, and whether torch.distributed thinks itself at work."""
    named = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    return named, policy.version, torch.distributed.is_initialized()


@pytest.mark.slow
@pytest.mark.usefixtures("session", "one_thread")
def test_a_model_gets_the_bits_that_were_broadcast():
    policy = nano_policy()
    named = [(name, weight.detach() + 0.002) for name, weight in policy.model.named_parameters()]
    actor = keeper()
    with collector(nano_policy, vocabulary=policy.model.config.vocab_size, rollout_workers=1) as played:
        for version, dtype in enumerate((None, torch.bfloat16)):
            played.receive_weights(handle(actor, version, named=named, dtype=dtype))
            found, acted, distributed = played.call_policy(bits)
            assert (acted, distributed) == (version, False)
            assert found.keys() == dict(named).keys()
            assert all(torch.equal(found[name], weight.to(dtype or weight.dtype)) for name, weight in named)
    assert asked(actor) == 0


def asked(actor):
    """The number of copies that were asked for."""
    import ray

    return ray.get(actor.copies_made.remote())


def both_ready(played):
    """The processes of two workers that have nothing to do."""
    end = time.monotonic() + 90
    while len(statuses := played.statuses()) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    return [status.pid for status in statuses]


def one_step(played, step, given):
    """Publishes and plays a step like one process; returns how many workers the broadcast has reached."""
    played.receive_weights(given)
    episodes = played.collect(step)
    assert versions(episodes) == {step - 1}
    assert [facts(e) for e in episodes] == one_process(coin(), (weights(step - 1), step - 1), step)
    return played.metrics()["cluster/publish_reached"]


def reported_failures(caplog):
    """Failed broadcasts, and replaced workers."""
    said = [record.getMessage() for record in caplog.records]
    return [line for line in said if "by broadcast (" in line], [line for line in said if "It is replaced" in line]


@pytest.mark.slow
@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("when", ["during", "before"])
def test_a_worker_killed_in_a_broadcast_changes_nothing(caplog, when):
    import ray

    actor = keeper()
    with caplog.at_level(logging.WARNING, logger="spiral.distributed"), collector(coin) as played:
        pids = both_ready(played)
        assert one_step(played, 1, handle(actor, 0, keep=1)) == 2
        assert asked(actor) == 0
        threads = ray.get(actor.threads.remote())
        begun = time.monotonic()
        if when == "before":
            os.kill(pids[0], signal.SIGKILL)
        else:
            ray.get(actor.harm.remote(pids[0], signal.SIGKILL))
        assert one_step(played, 2, handle(actor, 1, keep=1)) < 2
        both_ready(played)
        assert one_step(played, 3, handle(actor, 2, keep=1)) == 2
        assert time.monotonic() - begun < 100  # and not cluster.worker_seconds, which is 600
        assert ray.get(actor.threads.remote()) == threads
        assert played.metrics()["cluster/restarts"] == 1
        failed, replaced = reported_failures(caplog)
    assert len(failed) == len(replaced) == 1
    assert "the others get them through the object store" in failed[0]
    assert "died while weights were sent: ActorDiedError" in replaced[0]


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_a_stopped_worker_is_replaced_after_the_timeout(caplog):
    import ray

    actor = keeper()
    with (
        caplog.at_level(logging.WARNING, logger="spiral.distributed"),
        collector(coin, worker_seconds=5.0) as played,
    ):
        pids = both_ready(played)
        assert one_step(played, 1, handle(actor, 0, keep=1)) == 2
        ray.get(actor.harm.remote(pids[0], signal.SIGSTOP))
        begun = time.monotonic()
        assert one_step(played, 2, handle(actor, 1, keep=1)) < 2
        assert 15 <= time.monotonic() - begun < 60
        both_ready(played)
        assert one_step(played, 3, handle(actor, 2, keep=1)) == 2
        failed, replaced = reported_failures(caplog)
        assert not alive(pids[0])
    assert len(failed) == len(replaced) == 1
    assert "did not confirm new weights within 5 s" in failed[0]
    assert "did not confirm new weights within 5 s. It is replaced" in replaced[0]


def alive(pid):
    """Whether there is such a process that has not ended, for some seconds."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return False
        except FileNotFoundError:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_games_under_way_keep_their_weights(tmp_path):
    """The schedule plays ahead, and lost games need weights that are not the newest."""
    actor = keeper()
    make_policy = trapped(tmp_path, (1, "kill"), (3, "raise"), slow=0.02)
    with collector(make_policy, schedule="overlap") as played:
        for step in range(1, 7):
            played.receive_weights(handle(actor, step - 1))
            acted = max(0, step - 2)
            assert [facts(e) for e in played.collect(step)] == one_process(coin(), (weights(acted), acted), step)
        assert played.metrics()["cluster/restarts"] == 2
    assert asked(actor) >= 2


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_async_takes_new_weights_between_games():
    actor = keeper()
    with collector(partial(coin, slow=0.02), schedule="async", max_staleness=2) as played:
        both_ready(played)
        acted = set()
        for step in range(1, 9):
            played.receive_weights(handle(actor, step - 1, keep=3))
            episodes = played.collect(step)
            assert played.metrics()["cluster/publish_reached"] == 2
            assert {step - 1 - version for version in versions(episodes)} <= {0, 1, 2}
            acted |= versions(episodes)
        assert len(acted) > 3
    assert asked(actor) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_the_death_of_the_learner_replaces_no_worker():
    import ray

    actor = keeper()
    with collector(coin, rollout_workers=1) as played:
        given = handle(actor, 0)
        played._transport._failed_broadcasts = 99  # nothing is sent
        played.receive_weights(given)
        ray.kill(actor)
        with pytest.raises(LearnerLostError, match="learner worker 0 died before it could give weights of version 0"):
            played.collect(1)
        assert len(played.statuses()) == 1
        played._transport._failed_broadcasts = 0
        with pytest.raises(LearnerLostError, match="learner worker 0 died at open_store"):
            played.receive_weights(given)


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_broadcasts_end_after_three_that_reach_no_worker(caplog):
    import ray

    actor = keeper()
    ray.get(actor.fail.remote("the network is down"))
    with caplog.at_level(logging.WARNING, logger="spiral.distributed"), collector(coin, rollout_workers=1) as played:
        for step in range(1, 6):
            assert one_step(played, step, handle(actor, step - 1)) == 0
        failed, replaced = reported_failures(caplog)
    assert replaced == []
    assert len(failed) == MAX_FAILED_BROADCASTS == 3
    assert "another process could not join the broadcast; learner worker 0: the network is down" in failed[0]
    assert failed[-1].endswith("as all will from now on, after 3 failed broadcasts")
    assert asked(actor) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("session", "one_thread")
def test_a_run_with_killed_processes_is_that_of_one_process(tmp_path):
    """The broadcast between whole processes: a learner, two workers; one of each is killed."""
    victims = {1: lambda run: run.collector.statuses()[0].pid, 3: lambda run: run.learner.processes()[0]}

    def kill(run, step):
        if step in victims:
            os.kill(victims.pop(step)(run), signal.SIGKILL)

    alone = runs.ran(tmp_path / "alone", runs.recipe(4, 0, 1, "run.checkpoint_every=2"))
    recipe = runs.recipe(4, 2, 1, "run.checkpoint_every=2", "cluster.publish=broadcast")
    spread = runs.ran(tmp_path / "spread", recipe, kill)
    assert victims == {}
    assert runs.played(spread) == runs.played(alone)
    assert runs.compared_metrics(spread) == runs.compared_metrics(alone)
    assert runs.same_bits(runs.weights(spread, 4), runs.weights(alone, 4))
    assert max(row["cluster/publish_reached"] for row in read_metrics(spread)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("session", "one_thread")
def test_two_learner_workers_in_bfloat16_publish_by_broadcast(tmp_path):
    path = runs.ran(tmp_path / "run", runs.recipe(2, 1, 2, "model.compute=bfloat16", "cluster.publish=broadcast"))
    rows = read_metrics(path)
    size = sum(weight.numel() for weight in runs.weights(path, 2).values())
    assert [row["cluster/publish_reached"] for row in rows] == [1, 1]
    assert all(2 * size <= row["cluster/publish_bytes"] < 2.1 * size for row in rows)
    assert all(row["cluster/staleness_max"] == 0 for row in rows)
