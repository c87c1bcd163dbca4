"""Steps that are counted in turns, on a cluster: the queue by itself, and workers against one process."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_policies import VOCABULARY, coin, nano_policy, weights
from distributed_session import cluster, facts, one_process, small_ray, stored, versions
from made_up import new_episode, new_turn
from spiral.core.policy import NotPlayedError
from spiral.distributed.collector import ClusterCollector
from spiral.distributed.sampled_queue import SampledQueue
from spiral.rollout.matchmaking import Matchmaker, SelfPlayConfig

SAMPLES = SelfPlayConfig(
    games={"tictactoe": 1.0, "kuhn_poker(hands=2)": 1.0},
    samples_per_step=128,
    opponents={"mirror": 3.0, "random": 1.0},
)


def game_of(turns, seed=0):
    return new_episode((0.0, 0.0), [new_turn(index % 2) for index in range(turns)], seed=seed)


@given(data=st.data(), lengths=st.lists(st.integers(0, 9), min_size=60, max_size=60), attempts=st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_steps_in_order_are_the_beginnings_of_their_games(data, lengths, attempts):
    """Two steps under way at once; workers finish, lose and repeat chunks in any order."""
    config = SelfPlayConfig(samples_per_step=15, attempts=attempts)
    queue, held = SampledQueue(config, 2, in_order=True), []
    lengths = [*lengths, *[5] * 6]
    for step in (1, 2):
        queue.add_step(step, [None] * 60, None)
    for step in (1, 2):
        expected = next(n for n in range(attempts, 67, attempts) if sum(lengths[:n]) >= 15)
        if expected > 60:
            return
        while (taken := queue.take_step(step)) is None:
            while (chunk := queue.next_chunk()) is not None:
                held.append(chunk)
            chunk = held.pop(data.draw(st.integers(0, len(held) - 1)))
            if data.draw(st.integers(0, 3)) == 0:
                queue.return_chunk(chunk)
                continue
            episodes = [game_of(lengths[index], seed=100 * chunk.step + index) for index in chunk.indices]
            assert queue.finish(chunk, episodes) == (chunk.step >= step)
        assert [episode.seed for episode in taken] == [100 * step + index for index in range(expected)]
    for chunk in held:
        queue.return_chunk(chunk)
    assert queue.next_chunk() is None
    assert queue.unconsumed == 0


def test_oldest_games_are_taken_until_they_have_the_turns_and_none_is_dropped():
    queue, seen = SampledQueue(SelfPlayConfig(samples_per_step=10), 1, in_order=False), []
    for step in range(1, 9):
        queue.add_step(step, [None] * 40, None)
        while (taken := queue.take_oldest()) is None:
            chunk = queue.next_chunk()
            queue.finish(chunk, [game_of(3, seed=100 * chunk.step + index) for index in chunk.indices])
        assert len(taken) == 4
        assert queue.unconsumed <= 8
        seen += [episode.seed for episode in taken]
        queue.turns_per_game = 3.0
    assert len(set(seen)) == 32
    assert queue.dropped_turns == 0


@pytest.mark.parametrize("in_order", [True, False])
def test_a_queue_without_turns_ends_the_run(in_order):
    queue = SampledQueue(SelfPlayConfig(samples_per_step=4), 1, in_order=in_order)
    queue.add_step(1, [None] * 16, None)

    def play_on():
        while True:
            chunk = queue.next_chunk()
            if chunk is None:
                return queue.take_oldest()
            queue.finish(chunk, [game_of(0) for _ in chunk.indices])

    with pytest.raises(NotPlayedError, match="16 games have 0"):
        play_on()


@pytest.fixture(scope="module")
def session():
    pytest.importorskip("ray")
    with small_ray():
        yield


def collector(make_policy, selfplay=SAMPLES, vocabulary=VOCABULARY, **settings):
    return ClusterCollector(make_policy, selfplay, 3, cluster(**settings), vocabulary=vocabulary, last_step=4)


@pytest.mark.usefixtures("session")
def test_a_worker_plays_the_step_of_one_process():
    """Two of them do in the slow tests, and in any order in the queue's own."""
    with collector(coin, rollout_workers=1) as played:
        for step in (1, 2):
            played.receive_weights(stored(weights(step - 1), step - 1))
            episodes = played.collect(step)
            assert [facts(e) for e in episodes] == one_process(coin(), (weights(step - 1), step - 1), step, SAMPLES)
            assert sum(episode.learned_turns for episode in episodes[:-1]) < 128
            assert played.metrics()["selfplay/dropped_turns"] >= 0
        state = played.state_dict()
    assert state["turns_per_game"] == sum(episode.learned_turns for episode in episodes) / len(episodes)


@pytest.mark.slow
@pytest.mark.usefixtures("session", "one_thread")
def test_two_workers_play_the_step_of_one_process_with_the_built_in_model():
    policy = nano_policy()
    published = [(name, weight + 0.0) for name, weight in policy.model.named_parameters()]
    with collector(nano_policy, vocabulary=policy.model.config.vocab_size) as played:
        played.receive_weights(stored(published, 0))
        episodes = played.collect(1)
    assert [facts(episode) for episode in episodes] == one_process(policy, (published, 0), 1, SAMPLES)
    assert sum(episode.learned_turns for episode in episodes) >= 128


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_overlap_plays_the_games_of_its_step_with_weights_an_update_old():
    with collector(partial(coin, slow=0.002), schedule="overlap") as played:
        for step in (1, 2, 3, 4):
            played.receive_weights(stored(weights(step - 1), step - 1))
            episodes = played.collect(step)
            version = max(0, step - 2)
            assert [facts(e) for e in episodes] == one_process(coin(), (weights(version), version), step, SAMPLES)


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_async_takes_finished_games_with_the_turns():
    """In four steps no game is too old, however slow the workers are."""
    with collector(partial(coin, slow=0.002), schedule="async", max_staleness=3) as played:
        seen = []
        for step in (1, 2, 3, 4):
            played.receive_weights(stored(weights(step - 1), step - 1))
            episodes = played.collect(step)
            assert sum(episode.learned_turns for episode in episodes[:-1]) < 128
            assert max(versions(episodes)) <= step - 1
            seen += [episode.seed for episode in episodes]
            assert played.metrics()["selfplay/dropped_turns"] == 0
    assert len(set(seen)) == len(seen)
    planned = {p.seed for step in range(1, 5) for p in Matchmaker(coin(), SAMPLES, 3).pairings(step)}
    assert set(seen) <= planned
