"""Games on Ray workers: as in one process with every schedule, although workers are killed, stuck or broken."""

import logging
import os
import re
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest

from distributed_policies import VOCABULARY, broken, coin, nano_policy, refuses, trapped, weight_of, weights
from distributed_session import GAMES, cluster, facts, one_process, small_ray, stored, versions
from spiral.distributed import pool as pooling
from spiral.distributed.collector import ClusterCollector
from spiral.games.failures import UserCodeError

pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def session():
    with small_ray():
        yield


def collector(make_policy, selfplay=GAMES, vocabulary=VOCABULARY, last_step=None, **settings):
    return ClusterCollector(make_policy, selfplay, 3, cluster(**settings), vocabulary=vocabulary, last_step=last_step)


def nano_weights(policy, version):
    """The built-in model's weights, changed a little more with every version."""
    return [(name, weight + 0.002 * version) for name, weight in policy.model.named_parameters()]


@pytest.mark.slow  # test_sampled_queue has a worker that plays as one process does
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_sync_is_one_process_bit_for_bit(workers):
    policy = nano_policy()
    published = {version: nano_weights(policy, version) for version in range(2)}
    with collector(nano_policy, vocabulary=policy.model.config.vocab_size, rollout_workers=workers) as played:
        for step in (1, 2):
            played.receive_weights(stored(published[step - 1], step - 1))
            episodes = played.collect(step)
            assert [facts(episode) for episode in episodes] == one_process(
                policy, (published[step - 1], step - 1), step
            )
            assert versions(episodes) == {step - 1}
        metrics = played.metrics()
        assert played.call_policy(parameter_bits) == parameter_bits(policy)
    size = sum(weight.nbytes for _, weight in published[0])
    assert metrics["cluster/workers"] == workers
    assert metrics["cluster/publish_bytes"] == size
    assert (metrics["cluster/staleness_max"], metrics["cluster/dropped_turns"], metrics["cluster/restarts"]) == (
        0,
        0,
        0,
    )
    assert all(metrics[f"cluster/worker{number}/tokens_per_s"] > 0 for number in range(workers))
    assert all(0 <= metrics[f"cluster/worker{number}/idle"] < 1 for number in range(workers))


def test_opponents_on_workers_play_as_in_one_process():
    mixed = GAMES.model_copy(update={"opponents": {"mirror": 1.0, "random": 1.0, "minimax(depth=2)": 1.0}})
    with collector(coin, mixed) as played:
        played.receive_weights(stored(weights(1), 1))
        episodes = played.collect(1)
    assert [facts(episode) for episode in episodes] == one_process(coin(), (weights(1), 1), 1, mixed)
    assert {seat.policy for episode in episodes for seat in episode.seats} == {"coin", "random", "minimax(depth=2)"}


@pytest.mark.slow
def test_a_game_that_fails_ends_the_run_and_is_named():
    games = GAMES.model_copy(update={"games": {"tests.broken_game:Broken(fault=apply)": 1.0}})
    with collector(coin, games) as played:
        played.receive_weights(stored(weights(0), 0))
        with pytest.raises(UserCodeError, match=r"game tests.broken_game:Broken\(fault=apply\) failed in apply"):
            played.collect(1)


@pytest.mark.slow
def test_engines_sleep_when_the_games_of_a_step_are_over():
    with ClusterCollector(coin, GAMES, 3, cluster(), vocabulary=VOCABULARY, sleep=True) as played:
        played.receive_weights(stored(weights(0), 0))
        assert not played.call_policy(is_asleep)
        for step in (1, 2):
            played.receive_weights(stored(weights(step), step))
            assert [facts(e) for e in played.collect(step)] == one_process(coin(), (weights(step), step), step)
            assert played.call_policy(is_asleep)


def is_asleep(policy):
    """A policy call that does not wake the engine."""
    return policy.asleep


def parameter_bits(policy):
    """Every bit of the weights, and their version."""
    return {name: weight.detach().numpy().tobytes() for name, weight in policy.model.named_parameters()}, policy.version


def test_async_takes_finished_games_within_its_bounds():
    with collector(partial(coin, slow=0.01), schedule="async", max_staleness=2, last_step=8) as played:
        seen, ages = [], []
        for step in range(1, 9):
            played.receive_weights(stored(weights(step - 1), step - 1))
            episodes = played.collect(step)
            assert len(episodes) == 14
            assert played._queue.unconsumed <= 2 * 14
            seen += [episode.seed for episode in episodes]
            ages += [step - 1 - version for version in versions(episodes)]
            assert played.metrics()["cluster/staleness_max"] <= 2 + played.metrics()["cluster/dropped_turns"]
            if step < 6:
                with played._changed:  # every worker that has finished a chunk has another
                    assert all(worker.assigned for worker in played._pool.ready)
    # All games of all steps, and none of them twice.
    everything = {match.seed for step in range(1, 9) for match in played._matchmaker.matches(step)}
    assert len(seen) == len(set(seen)) == 8 * 14
    assert set(seen) == everything
    assert 0 <= min(ages) <= max(ages) <= 2


@pytest.mark.slow
def test_overlap_is_one_update_behind_and_killed_stuck_and_broken_workers_change_nothing(tmp_path, caplog):
    """A trap a step; the schedule plays ahead, so that lost games may need weights that are not the newest."""
    make_policy = trapped(tmp_path, (1, "kill"), (2, "hang"), (3, "garbage"))
    with (
        caplog.at_level(logging.WARNING, logger="spiral.distributed"),
        collector(make_policy, schedule="overlap", worker_seconds=4.0) as played,
    ):
        for step in range(1, 6):
            played.receive_weights(stored(weights(step - 1), step - 1))
            begun = time.monotonic()
            episodes = played.collect(step)
            assert time.monotonic() - begun < 60
            acted = max(0, step - 2)
            assert [facts(e) for e in episodes] == one_process(coin(), (weights(acted), acted), step)
            assert versions(episodes) == {acted}
            assert played.metrics()["cluster/staleness"] == step - 1 - acted
        assert played.metrics()["cluster/restarts"] == 3
        assert played.call_policy(weight_of, "and", 2) == (4, "and", 2)
        with pytest.raises(ValueError, match="there is nothing to evaluate"):
            played.call_policy(refuses)
        assert played._pool.restarts == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["garbage", "hang", "kill"]
    said = caplog.text
    assert "never_answers" in said
    assert "is stuck; its threads:" in said
    for cause in ("its worker process has died", "gave no result of", "log-probability nan"):
        assert cause in said
    assert "It is replaced (restart 3 of at most 20)" in said


@pytest.mark.slow
def test_failing_workers_and_those_killed_between_steps_change_nothing(tmp_path, caplog):
    with (
        caplog.at_level(logging.WARNING, logger="spiral.distributed"),
        collector(trapped(tmp_path, (1, "raise"))) as played,
    ):
        for step in (1, 2, 3, 4):
            played.receive_weights(stored(weights(step - 1), step - 1))
            assert [facts(e) for e in played.collect(step)] == one_process(coin(), (weights(step - 1), step - 1), step)
            if step == 3:
                os.kill(played.statuses()[0].pid, signal.SIGKILL)
        assert played.metrics()["cluster/restarts"] == 2
    assert "RuntimeError: the engine is on fire" in caplog.text
    # Of the fourteen games all, if the first worker's successor is not there yet.
    again = r"It is replaced \(restart 2 of at most 20\); its tasks are reassigned: (7|14) games of step 4"
    assert re.search(again, caplog.text)


@pytest.mark.parametrize(
    ("doing", "lost"), [("evaluating", False), pytest.param("playing 7 games of step 1", True, marks=pytest.mark.slow)]
)
def test_games_beside_an_evaluation_are_stuck_unless_it_is_running(monkeypatch, doing, lost):
    with collector(coin, rollout_workers=1) as played:
        pool = played._pool
        (worker,) = pool.workers
        monkeypatch.setattr(pooling, "worker_statuses", lambda asked: [SimpleNamespace(doing=doing)])
        now = time.monotonic()
        with played._changed:
            worker.assigned = {
                object(): SimpleNamespace(limit=600.0, games=7),
                object(): SimpleNamespace(limit=86_400.0),
            }
            assert pool._patience(worker, 600.0, now) == (600.0 if lost else 86_400.0)
            monkeypatch.setattr(
                "spiral.distributed.pool.worker_statuses", lambda asked: 1 / 0
            )  # not asked again so soon
            assert pool._patience(worker, 600.0, now + 10) == (600.0 if lost else 86_400.0)
            worker.assigned = {}
            assert pool._patience(worker, 600.0, now) == 600.0


def test_too_many_lost_workers_end_the_run(tmp_path):
    make_policy = trapped(tmp_path, (0, "raise"))
    with collector(make_policy, rollout_workers=1, restarts=0) as played:
        with pytest.raises(RuntimeError, match="call receive_weights before the first step"):
            played.collect(1)
        played.receive_weights(stored(weights(0), 0))
        with pytest.raises(
            RuntimeError,
            match=r"1 rollout workers were lost, and cluster.restarts allows 0; the last one: rollout worker 0"
            r" \(process \d+ on .*\) failed at \d games? of step 1: RuntimeError: the engine is on fire",
        ):
            played.collect(1)


def test_the_error_of_a_worker_that_cannot_be_set_up_is_raised():
    with pytest.raises(ValueError, match=r"^rollout worker 0 \(.*\) could not be set up: there is no model 'x'$"):
        collector(partial(broken, "there is no model 'x'"), rollout_workers=1)


def test_a_worker_without_resources_ends_the_run_with_what_is_missing():
    with pytest.raises(
        RuntimeError, match=r"waited 2 s for a rollout worker: rollout worker 0 is still placing. Each needs 64 CPUs"
    ):
        collector(coin, rollout_workers=1, cpus_per_worker=64.0, learner_seconds=2.0)


def test_a_private_ray_listens_on_this_machine_only():
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert ray.cluster_resources()["object_store_memory"] == pytest.approx(0.2 * 2**30, rel=0.01)
