"""A cluster of several nodes, simulated on one machine: one leaves while games are under way, another one joins."""

import os
import time
from functools import partial

import pytest

from distributed_policies import VOCABULARY, coin, weights
from distributed_session import GAMES, WORKER_PATH, cluster, end_small_ray, facts, one_process, stored
from spiral.distributed.collector import ClusterCollector
from spiral.distributed.session import cluster_session

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_other_ray():
    end_small_ray()


@pytest.fixture
def nodes():
    """A head with no room for workers and one node with room for one of them."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = WORKER_PATH
    store = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    simulated.node_settings = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    yield simulated
    simulated.shutdown()


def wait_for(condition, seconds=90.0):
    """Waits until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_node_that_leaves_is_survived_and_one_that_joins_is_used(nodes):
    leaving = nodes.add_node(**nodes.node_settings)
    nodes.add_node(**nodes.node_settings)
    config = cluster(cpus_per_worker=1.0, address=nodes.address)
    make_policy = partial(coin, slow=0.1)
    with (
        cluster_session(config),
        ClusterCollector(make_policy, GAMES, 3, config, vocabulary=VOCABULARY) as played,
    ):
        assert len(played.statuses()) == 2
        for step in range(1, 7):
            played.receive_weights(stored(weights(step - 1), step - 1))
            if step == 2:
                with played._changed:
                    played._queue_steps(step)
                nodes.remove_node(leaving, allow_graceful=False)
            if step == 5:
                nodes.add_node(**nodes.node_settings)
                wait_for(lambda: len(played.statuses()) == 2)
            expected = one_process(coin(), (weights(step - 1), step - 1), step)
            assert [facts(episode) for episode in played.collect(step)] == expected
            workers = {1: 2, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2}
            assert played.metrics()["cluster/workers"] == workers[step]
        # Ray may put the new worker on the node that is gone, until it has noticed.
        assert played.metrics()["cluster/restarts"] >= 1


def test_joining_where_there_is_no_ray_is_an_error_at_once():
    begun = time.monotonic()
    with pytest.raises(
        ValueError, match=r"cluster.address is '127\.0\.0\.1:1', but no Ray can be joined there: .*refused"
    ):
        cluster_session(cluster(address="127.0.0.1:1")).__enter__()
    assert time.monotonic() - begun < 30
