"""Placement of processes on a Ray with simulated GPUs: pairs on one GPU, and errors for what does not fit."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from distributed_session import end_small_ray
from spiral.distributed import placement
from spiral.distributed.placement import fits, gpus_per_rank, learner_bundles, pairs, placed
from spiral.distributed.session import ClusterError
from spiral.models.shapes import model_config
from spiral.plan import describe, make_plan
from spiral.runs.cluster import ClusterConfig
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe
from tests.distributed import test_cluster_runs as runs

ray = pytest.importorskip("ray")


def config(**settings):
    return ClusterConfig(
        **{"rollout_workers": 2, "learner_workers": 2, "gpus_per_worker": 0.4, "cpus_per_worker": 0.5, **settings}
    )


@pytest.mark.parametrize(
    ("workers", "learners", "gpus", "rank_gpus", "expected"),
    [
        (2, 2, 0.4, 1.0, 2),
        (3, 2, 0.4, 1.0, 2),
        (1, 2, 0.4, 1.0, 1),
        (2, 2, 1, 1.0, 0),
        (2, 2, 0.4, 0.0, 0),
        (2, 2, 0, 1.0, 0),
    ],
)
def test_pairs_share_a_gpu(workers, learners, gpus, rank_gpus, expected):
    assert pairs(config(rollout_workers=workers, learner_workers=learners, gpus_per_worker=gpus), rank_gpus) == expected


@pytest.mark.parametrize(
    ("settings", "together"),
    [
        ({"cluster.gpus_per_worker": 0.4, "cluster.schedule": "overlap"}, True),
        ({"cluster.gpus_per_worker": 0.4}, False),
        ({"cluster.gpus_per_worker": 1, "cluster.schedule": "overlap"}, False),
    ],
)
def test_the_plan_adds_up_what_plays_and_learns_at_once_on_one_gpu(settings, together):
    given = [f"{key}={value}" for key, value in settings.items()]
    recipe = load_recipe("nano", ["cluster.rollout_workers=1", "hardware.memory_gib=8", *given])
    plan = make_plan(recipe, model_config("nano"))
    phases = plan.phase_gib("playing"), plan.phase_gib("updating")
    always = sum(item.gib for item in plan.items if item.phase == "always")
    assert plan.need_gib == pytest.approx(sum(phases) - always if together else max(phases))
    assert any("both at once on a shared GPU" in line for line in describe(plan)) is together


def test_resources_of_the_learner():
    assert learner_bundles(config(rollout_workers=1), 1.0) == [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 0.5, "GPU": 1.0}]
    assert learner_bundles(config(gpus_per_worker=0), 0.0) == [{"CPU": 0.5}] * 2


@pytest.mark.parametrize(
    ("bundles", "nodes", "fit"),
    [
        ([{"CPU": 2, "GPU": 1}] * 2, [{"CPU": 4, "GPU": 2}], True),
        ([{"CPU": 2, "GPU": 1}] * 2, [{"CPU": 2, "GPU": 2}, {"CPU": 2}], False),
        ([{"CPU": 2, "GPU": 1}] * 2, [{"CPU": 2, "GPU": 1}, {"CPU": 2, "GPU": 1}], True),
        ([{"CPU": 1}, {"CPU": 1, "GPU": 1}], [{"CPU": 1, "GPU": 1}, {"CPU": 1}], True),
        ([{"CPU": 1}], [], False),
    ],
)
def test_bundles_fit_on_nodes(bundles, nodes, fit):
    assert fits(bundles, nodes) is fit


@pytest.fixture(scope="module")
def two_gpus():
    """A Ray with two simulated GPUs."""
    end_small_ray()
    ray.init(
        num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    yield
    ray.shutdown()


def begun(cpus, gpus, strategy):
    """Some actor, whose class travels with it: its process imports nothing of ours."""

    class Process:
        def gpus(self):
            return __import__("ray").get_gpu_ids()

    return ray.remote(num_cpus=cpus, num_gpus=gpus)(Process).options(scheduling_strategy=strategy).remote()


def gpus_of(actors):
    return ray.get([actor.gpus.remote() for actor in actors], timeout=60)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.slow
def test_a_replaced_worker_gets_the_gpu_of_its_rank_again():
    settings = config()
    assert (gpus_per_rank("auto"), gpus_per_rank("cuda"), gpus_per_rank("cpu")) == (1.0, 1.0, 0.0)
    with placed(settings, 1.0) as where:
        assert where.rank_gpus == (0.6, 0.6)
        ranks = [begun(0.5, where.rank_gpus[n], where.ranks[n]) for n in range(2)]
        workers = [begun(0.5, 0.4, where.workers[n]) for n in range(2)]
        shared = gpus_of(ranks)
        assert sorted(shared) == [[0], [1]]
        assert gpus_of(workers) == shared
        ray.kill(workers[1])
        workers[1] = begun(0.5, 0.4, where.workers[1])
        assert gpus_of(workers) == shared
    # All is free again, for whole GPUs and for a worker without a rank.
    with placed(config(gpus_per_worker=1, learner_workers=1, rollout_workers=1), 1.0) as where:
        assert (where.rank_gpus, where.workers) == ((1.0,), ("SPREAD",))
        actors = [begun(0.5, 1, where.ranks[0]), begun(0.5, 1, where.workers[0])]
        assert sorted(gpus_of(actors)) == [[0], [1]]


@pytest.mark.slow
@pytest.mark.usefixtures("two_gpus")
def test_workers_without_a_rank_get_another_gpu():
    with placed(config(rollout_workers=3, learner_workers=1), 1.0) as where:
        assert where.workers[0] is where.ranks[0]
        actors = [begun(0.5, 0.6, where.ranks[0])]
        actors += [begun(0.5, 0.4, where.workers[n]) for n in range(3)]
        rank, first, *others = gpus_of(actors)
        assert rank == first
        assert others[0] == others[1] != rank


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"learner_workers": 3},
            r"the learner needs 2 x \(1 CPU and 1 GPU on one node\) and 1 x \(0.5 CPUs and 1 GPU on one node\); Ray has"
            r" 1 node: 1 x \(4 CPUs and 2 GPUs\); lower cluster.learner_workers or cluster.cpus_per_worker, or start",
            marks=pytest.mark.slow,
        ),
        (
            {"cpus_per_worker": 4.0, "learner_workers": 1},
            r"the learner needs 1 x \(8 CPUs and 1 GPU on one node\); Ray has 1 node: 1 x \(4 CPUs and 2 GPUs\)",
        ),
        pytest.param(
            {"gpus_per_worker": 4.0},
            r"a rollout worker needs 1 x \(0.5 CPUs and 4 GPUs on one node\); Ray has .*; lower cluster.cpus_per",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_cluster_that_is_too_small_is_refused_at_once(settings, message):
    start = time.monotonic()
    with pytest.raises(ValueError, match=message), placed(config(**settings), 1.0):
        pass
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("two_gpus")
def test_nodes_of_a_joined_ray_have_time_to_appear(monkeypatch):
    monkeypatch.setattr(placement, "JOIN_SECONDS", 1.5)
    start = time.monotonic()
    with pytest.raises(ValueError, match="the learner needs"), placed(config(address="auto", learner_workers=3), 1.0):
        pass
    assert 1.5 <= time.monotonic() - start < 20


@pytest.mark.usefixtures("two_gpus")
def test_waiting_for_used_resources_has_a_timeout(monkeypatch, caplog):
    monkeypatch.setattr(placement, "JOIN_SECONDS", 0.5)
    settings = config(learner_seconds=2.0)
    with placed(settings, 1.0):
        start = time.monotonic()
        with (
            pytest.raises(ClusterError, match=r"waited 2 s .* for the resources of the learner: 2 x"),
            placed(settings, 1.0),
        ):
            pass
        assert 2 <= time.monotonic() - start < 20
    warning = "the learner waits for resources that other processes use: 2 x (1 CPU and 1 GPU on one node)"
    assert warning in caplog.text
    with placed(settings, 1.0) as where:
        assert len(where.ranks) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("two_gpus", "one_thread")
def test_a_run_on_shared_gpus_is_that_of_one_process(tmp_path):
    """Two pairs, which read weights in each other's memory; a worker that is killed comes back to its rank."""
    seen, lent = [], []

    def look(run, step):
        ranks, workers = run.learner._workers, run.collector._pool.ready
        actors = [*ranks, *(worker.actor for worker in workers)]
        asked = [actor.__ray_call__.remote(lambda self: __import__("ray").get_gpu_ids()) for actor in actors]
        gpus = ray.get(asked, timeout=120)
        seen.append((gpus[:2], {worker.number: gpu for worker, gpu in zip(workers, gpus[2:], strict=True)}))
        lent.append(len(run.learner._peers.by_location))
        if step == 1:
            os.kill(run.collector.statuses()[1].pid, signal.SIGKILL)

    path = runs.ran(tmp_path / "spread", runs.recipe(3, 2, 2, "cluster.gpus_per_worker=0.4"), look)
    ranks = seen[0][0]
    assert sorted(ranks) == [[0], [1]]
    assert sorted(seen[0][1]) == [0, 1]
    for same, workers in seen:  # one that was killed may still be starting
        assert same == ranks
        assert workers == {number: ranks[number] for number in workers}
    assert lent == [1] * 3  # on a CPU all share one device
    rows = read_metrics(path)
    assert rows[-1]["cluster/restarts"] == 1
    alone = read_metrics(runs.ran(tmp_path / "alone", runs.recipe(3)))
    assert [row["loss/policy"] for row in rows] == pytest.approx([row["loss/policy"] for row in alone], abs=1e-5)


def test_a_dead_node_is_not_counted(monkeypatch):
    nodes = [{"Alive": alive, "Resources": {"CPU": 1.0}} for alive in (True, False)]
    monkeypatch.setattr(placement, "import_ray", lambda: SimpleNamespace(nodes=lambda: nodes))
    assert placement._nodes() == [{"CPU": 1.0}]
