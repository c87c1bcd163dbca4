"""Weights read in the learner's memory: the same bits although processes are late or killed, and no leftovers."""

import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from distributed_keeper import context, keeper, lent
from distributed_policies import VOCABULARY, Coin, coin, nano_policy, weights
from distributed_session import GAMES, cluster, facts, one_process, small_ray, versions
from spiral.distributed.collector import ClusterCollector
from spiral.distributed.session import ClusterError, LearnerLostError
from spiral.distributed.weights.ipc import IpcReceiver, Lender, open_loan
from spiral.distributed.weights.kept import flatten, refill
from tests.distributed import test_cluster_runs as runs

pytest.importorskip("ray")

SOME = {
    "matrix": torch.randn(3, 50).t(),
    "half": torch.randn(7).to(torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    "large": torch.randn(100, 30),
}
SHARED_MEMORY = Path("/dev/shm")
"""Where it has its names on Linux."""


def moved(version):
    return [(name, tensor.detach() + version) for name, tensor in SOME.items()]


def assert_same(found, expected):
    """Names, types, shapes and bits, in order."""
    found, expected = list(found), list(expected)
    assert [(name, a.dtype, a.shape) for name, a in found] == [(name, b.dtype, b.shape) for name, b in expected]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))


def lending(versions, dtype=None, on_gpu=False):
    """A sender whose memory other processes read."""
    lender = Lender(context(versions, dtype), active=True, on_gpu=on_gpu)
    lender.begin_lending()
    return lender


def read(lender, version):
    """The weights that a reader gets, and whether they were not overwritten meanwhile."""
    loan = pickle.loads(pickle.dumps(lender.lend(version)))
    return [(name, tensor.clone()) for name, tensor in open_loan(loan)], lender.holds(loan.number)


def names():
    """Files in shared memory with names of torch; Ray, vLLM and other programs have files of their own there."""
    return {file.name for file in SHARED_MEMORY.glob("torch_*")}


def test_memory_that_torch_shares_by_name_is_found():
    before, strategy = names(), torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        shared = torch.zeros(10).share_memory_()
        assert len(names() - before) == 1
        del shared
    finally:
        torch.multiprocessing.set_sharing_strategy(strategy)
    assert names() == before


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_refilled_buckets_hold_the_same_bits(dtype):
    flat = flatten(moved(1), dtype, 500)
    pointers = [bucket.data_ptr() for bucket in flat.buckets]
    assert_same(refill(flat, moved(2), dtype).tensors(), flatten(moved(2), dtype).tensors())
    assert [bucket.data_ptr() for bucket in flat.buckets] == pointers
    with pytest.raises(AssertionError):
        refill(flat, moved(2), torch.float16)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_lent_weights_are_those_kept_and_buckets_are_reused(dtype, on_gpu):
    lender, pointers = lending(2, dtype, on_gpu), set()
    for version in range(4, 10):
        size, _ = lender.send(version, moved(version))
        assert size == flatten(moved(version), dtype).num_bytes
        assert read(lender, version)[1]
        for known in range(max(4, version - 1), version + 1):
            expected = flatten(moved(known), dtype).tensors()
            if known == version or not on_gpu:
                assert_same(read(lender, known)[0], expected)
            else:
                assert lender.lend(known) is None
            assert_same(lender._kept[known].tensors(), flatten(moved(known), dtype).tensors())
        assert lender.lend(version - 2) is None
        pointers.add(lender._lent[version].flat.buckets[0].data_ptr())
    assert len(pointers) == (1 if on_gpu else 2)


def test_a_reader_detects_an_overwritten_loan():
    lender = lending(1)
    lender.send(1, moved(1))
    loan = lender.lend(1)
    assert lender.holds(loan.number)
    lender.send(2, moved(2))
    assert not lender.holds(loan.number)
    lender.send(2, moved(2))
    assert read(lender, 2)[1]
    assert list(lender._kept) == [2]


def test_a_lack_of_memory_is_an_error_with_a_remedy(monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ClusterError, match=r"do not fit into the machine's memory \(No space left on device\)"):
        lending(1).send(1, moved(1))
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ClusterError, match="only Linux has; use 'object_store'"):
        lending(1).send(1, moved(1))


class Reader(Coin):
    """Stops or ends its process in the middle of reading some version, the first time."""

    def load_weights(self, weights, version):
        ((_, weight),) = weights
        trap = self.traps.get(-version)
        if trap is not None and self.first(trap):
            os.kill(os.getpid(), signal.SIGKILL)
        super().load_weights([("weight", weight)], version)


def reader(folder, traps, slow=0.0):
    return Reader(dict(traps), folder, slow)


@pytest.fixture(scope="module")
def session():
    with small_ray():
        yield


@pytest.fixture
def shared(session):
    """An actor that lends, and where; what it leaves in shared memory is looked for afterwards."""
    import ray

    before, actor = names(), keeper()
    yield actor, ray.get(actor.lend.remote())
    ray.kill(actor)
    assert names() <= before


def collector(make_policy, vocabulary=VOCABULARY, **settings):
    return ClusterCollector(make_policy, GAMES, 3, cluster(**{"publish": "ipc", **settings}), vocabulary=vocabulary)


def bits(policy):
    """The weights' bits, and whose they are."""
    return {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}, policy.version


def copies(actor):
    """The number of copies that were asked for."""
    import ray

    return ray.get(actor.copies_made.remote())


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_model_gets_the_bits_that_were_lent(shared):
    actor, address = shared
    policy = nano_policy()
    named = [(name, weight.detach() + 0.002) for name, weight in policy.model.named_parameters()]
    found = []
    with collector(nano_policy, vocabulary=policy.model.config.vocab_size, rollout_workers=1) as played:
        played.receive_weights(lent(actor, 0, address, named=named))
        found.append(played.call_policy(bits))
    ((found, version),) = found
    assert version == 0
    assert all(torch.equal(found[name], weight) for name, weight in named)
    assert copies(actor) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "keep"), [("sync", 1), ("overlap", 2)])
def test_workers_killed_while_they_read_or_play_change_nothing(shared, schedule, keep, tmp_path):
    """Version 1 kills who reads it, version 2 who plays with it."""
    actor, address = shared
    make_policy = partial(reader, str(tmp_path), ((-1, "reading"), (2, "kill")), 0.01)
    with collector(make_policy, schedule=schedule) as played:
        for step in range(1, 5):
            played.receive_weights(lent(actor, step - 1, address, keep=keep))
            acted = max(0, step - keep)
            episodes = played.collect(step)
            assert [facts(e) for e in episodes] == one_process(coin(), (weights(acted), acted), step)
        assert played.metrics()["cluster/restarts"] == 2
        assert played.metrics()["cluster/publish_reached"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kill", "reading"]
    assert copies(actor) == 0


@pytest.mark.slow
def test_async_reads_the_newest(shared):
    actor, address = shared
    with collector(partial(coin, slow=0.01), schedule="async", max_staleness=2) as played:
        acted = set()
        for step in range(1, 7):
            played.receive_weights(lent(actor, step - 1, address, keep=3))
            episodes = played.collect(step)
            assert {step - 1 - version for version in versions(episodes)} <= {0, 1, 2}
            acted |= versions(episodes)
        assert len(acted) > 2
        assert played.metrics()["cluster/restarts"] == 0


def fetched(given, meanwhile=lambda: None):
    """Every time that weights were put into a policy; `meanwhile()` happens within the first."""
    taken = []

    def load(named, version):
        ((_, weight),) = named
        if not taken:
            meanwhile()
        taken.append((float(weight), version))

    IpcReceiver(30.0).receive(given, load)
    return taken


@pytest.mark.slow
def test_a_reader_elsewhere_or_too_late_gets_a_copy(shared):
    import ray

    actor, address = shared
    ray.get(actor.lend.remote(True))
    given = lent(actor, 3, address)
    assert fetched(given) == [(3.0, 3)]
    assert copies(actor) == 0
    assert fetched(lent(actor, 3, "another node")) == [(3.0, 3)]
    assert copies(actor) == 1
    # What is written over while it is read is read again elsewhere, and what is gone from there is there at once.
    late = fetched(given, lambda: lent(actor, 4, address))
    assert [version for _, version in late] == [3, 3]
    assert late[-1] == (3.0, 3)
    assert fetched(given) == [(3.0, 3)]
    lent(actor, 5, address)
    with pytest.raises(RuntimeError, match=r"weights of version 3 are kept no longer; kept are versions \[4, 5\]"):
        fetched(given)


@pytest.mark.slow
def test_the_death_of_a_lender_replaces_no_worker(session):
    import ray

    actor = keeper()
    address = ray.get(actor.lend.remote())
    with collector(coin, rollout_workers=1) as played:
        played.receive_weights(lent(actor, 0, address))
        ray.kill(actor)
        with pytest.raises(LearnerLostError, match="died before it could give weights of version 0 from the learner's"):
            played.collect(1)


LENDS = """
import pickle, sys, time, torch
from spiral.distributed.weights.ipc import Lender
from spiral.distributed.weights.base import TransportContext
from spiral.runs.cluster import ClusterConfig
lender = Lender(TransportContext(config=ClusterConfig()), active=True, on_gpu=False)
lender.begin_lending()
lender.send(1, [("weight", torch.arange(1000.0))])
print(pickle.dumps(lender.lend(1)).hex(), flush=True)
time.sleep(60)
"""


def test_a_reader_keeps_the_memory_of_a_killed_lender_and_no_other_can_open_it():
    process = subprocess.Popen([sys.executable, "-c", LENDS], stdout=subprocess.PIPE, text=True)
    loan = pickle.loads(bytes.fromhex(process.stdout.readline()))
    ((_, weight),) = open_loan(loan)
    process.kill()
    process.communicate()
    assert torch.equal(weight, torch.arange(1000.0))
    weight += 1  # private: no other process sees it
    with pytest.raises(FileNotFoundError):
        open_loan(loan)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA IPC is for processes on one GPU")
def test_weights_on_a_gpu_are_read_by_another_process():
    script = LENDS.replace("on_gpu=False", "on_gpu=True").replace("arange(1000.0)", 'arange(1000.0, device="cuda")')
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        loan = pickle.loads(bytes.fromhex(process.stdout.readline()))
        ((_, weight),) = open_loan(loan)
        assert weight.is_cuda
        assert torch.equal(weight.cpu(), torch.arange(1000.0))
        process.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("session", "one_thread")
@pytest.mark.parametrize("learners", [1, 2])
def test_a_run_is_that_of_one_process_and_leaves_no_shared_memory(tmp_path, learners):
    """Whole processes: two workers, of which one is killed, and one or two learners, which are killed at the end."""
    before = names()
    alone = runs.ran(tmp_path / "alone", runs.recipe(4, 2, learners, "cluster.publish=object_store"))

    def kill(run, step):
        if step == 2:
            os.kill(run.collector.statuses()[0].pid, signal.SIGKILL)

    read = runs.ran(tmp_path / "read", runs.recipe(4, 2, learners, "cluster.publish=ipc"), kill)
    assert runs.played(read) == runs.played(alone)
    assert runs.compared_metrics(read) == runs.compared_metrics(alone)
    assert runs.same_bits(runs.weights(read, 4), runs.weights(alone, 4))
    assert names() <= before
