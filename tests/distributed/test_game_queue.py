"""The game queue, the checks of results and packed weights, which need no Ray."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from distributed_policies import VOCABULARY, coin
from distributed_session import GAMES
from spiral.distributed.checks import check_episode, check_results
from spiral.distributed.game_queue import GameQueue, split_stale, turn_ages
from spiral.distributed.weights.object_store import pack, unpack
from spiral.rollout.loop import play
from spiral.rollout.matchmaking import Matchmaker
from spiral.runs.cluster import ClusterConfig

PAIRINGS = [None] * 600


@given(data=st.data(), games=st.integers(1, 9), workers=st.integers(1, 4), in_order=st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_game_counts_once_whichever_chunks_are_lost(data, games, workers, in_order):
    """Random workers finish and lose random chunks, some of them twice."""
    queue = GameQueue(games, workers)
    taken, held = [], []
    for step in range(1, 4):
        queue.add_step(step, PAIRINGS, None)
    assert queue.unconsumed == 3 * games
    while len(taken) < 3 * games:
        while (chunk := queue.next_chunk()) is not None:
            held.append(chunk)
        chunk = held.pop(data.draw(st.integers(0, len(held) - 1)))
        if data.draw(st.booleans()):
            queue.return_chunk(chunk)
            continue
        episodes = [(chunk.step, index) for index in chunk.indices]
        assert queue.finish(chunk, episodes)
        assert not queue.finish(chunk, ["late"] * len(episodes))
        step = len(taken) // games + 1
        got = queue.take_step(step) if in_order else queue.take_oldest()
        while got is not None:
            taken += got
            step += 1
            got = queue.take_step(step) if in_order else queue.take_oldest()
    everything = [(step, index) for step in range(1, 4) for index in range(games)]
    assert sorted(taken) == everything
    assert not in_order or taken == everything
    assert queue.unconsumed == queue.waiting == 0


def test_chunks_have_some_of_every_game_and_lost_ones_go_first():
    queue = GameQueue(18, 1)
    queue.add_step(5, PAIRINGS, None)
    chunks = [queue.next_chunk() for _ in range(8)]
    assert [chunk.indices for chunk in chunks[:3]] == [(0, 8, 16), (1, 9, 17), (2, 10)]
    assert [chunk.indices for chunk in chunks[3:]] == [(3, 11), (4, 12), (5, 13), (6, 14), (7, 15)]
    assert (queue.max_chunk_games, queue.next_chunk()) == (3, None)
    queue.add_step(6, PAIRINGS, None)
    queue.return_chunk(chunks[2])
    queue.return_chunk(chunks[1])
    assert [queue.next_chunk().number for _ in range(3)] == [1, 2, 8]


def test_finished_games_are_taken_in_the_order_of_the_queue():
    queue = GameQueue(4, 1)
    for step in (1, 2):
        queue.add_step(step, PAIRINGS, None)
    chunks = [queue.next_chunk() for _ in range(8)]
    for number in (7, 2, 0, 4, 5):
        queue.finish(chunks[number], [(chunks[number].step, index) for index in chunks[number].indices])
    assert queue.take_step(1) is None
    assert queue.take_oldest() == [(1, 0), (1, 2), (2, 0), (2, 1)]
    assert queue.take_oldest() is None


def played(step=1, version=4, **fields):
    """Matches and their episodes."""
    policy = coin()
    policy.version = version
    matches = Matchmaker(policy, GAMES.model_copy(update=fields), 3).matches(step)
    return matches, play(matches)


def with_generation(episode, **fields):
    """The episode with its second turn's generation changed."""
    turns = list(episode.turns)
    turns[1] = dataclasses.replace(turns[1], generation=dataclasses.replace(turns[1].generation, **fields))
    return dataclasses.replace(episode, turns=tuple(turns))


@pytest.mark.parametrize("fields", [{}, {"max_turns": 2}, {"reward": "sign"}])
def test_real_episodes_pass_the_check(fields):
    matches, episodes = played(**fields)
    assert [check_episode(e, m, VOCABULARY, range(4, 5)) for e, m in zip(episodes, matches, strict=True)] == [None] * 14
    assert {episode.outcome for episode in episodes} == {"truncated" if "max_turns" in fields else "finished"}


def test_illegal_replies_pass_the_check_and_missing_ones_do_not():
    (match, *_), (episode, *_) = played()
    last = dataclasses.replace(episode.turns[-1], action=None)
    first_lost = (-1.5, 0.5) if last.player == 0 else (0.5, -1.5)
    illegal = dataclasses.replace(
        episode, turns=(*episode.turns[:-1], last), actions=episode.actions[:-1], outcome="illegal_move",
        returns=first_lost, rewards=first_lost,
    )  # fmt: skip
    silent = dataclasses.replace(last, prompt_ids=None, generation=None)
    unplayed = dataclasses.replace(
        illegal,
        turns=(*episode.turns[:-1], silent),
        outcome="not_played",
        returns=(0.0, 0.0),
        rewards=(0.0, 0.0),
        fault="no network",
    )
    assert check_episode(illegal, match, VOCABULARY, range(5)) is None
    assert "whose policy always answers" in check_episode(
        unplayed, match, VOCABULARY, range(5)
    )  # the policy always answers
    paid = dataclasses.replace(illegal, returns=first_lost[::-1])
    assert "its returns are" in check_episode(paid, match, VOCABULARY, range(5))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda e: dataclasses.replace(e, seed=e.seed + 1), "instead of"),
        (lambda e: dataclasses.replace(e, game="kuhn_poker"), "it played kuhn_poker from seed"),
        (lambda e: dataclasses.replace(e, actions=("9", *e.actions[1:])), "action 1 does not replay: got action '9'"),
        (lambda e: dataclasses.replace(e, actions=(*e.actions, "0")), "action .* comes after the end"),
        (lambda e: dataclasses.replace(e, turns=e.turns[::-1]), "not the decisions among its actions"),
        (lambda e: dataclasses.replace(e, turns=()), "not the decisions among its actions"),
        (lambda e: dataclasses.replace(e, returns=(2.0, -2.0)), r"returns are \(2.0, -2.0\) instead of"),
        (lambda e: dataclasses.replace(e, outcome="truncated"), "do not lead to the outcome 'truncated'"),
        (lambda e: with_generation(e, logprobs=np.array([math.nan], dtype=np.float32)), "turn 2: log-probability nan"),
        (lambda e: with_generation(e, logprobs=np.array([-math.inf], dtype=np.float32)), "log-probability -inf"),
        (lambda e: with_generation(e, logprobs=np.array([0.5], dtype=np.float32)), "0.5, which is positive"),
        (lambda e: with_generation(e, logprobs=np.zeros(2, dtype=np.float32)), "2 log-probabilities for 1 tokens"),
        (lambda e: with_generation(e, token_ids=np.array([32])), "turn 2: token id 32 outside 32 tokens"),
        (lambda e: with_generation(e, token_ids=np.array([-1])), "token id -1"),
        (lambda e: with_generation(e, policy_version=5), r"weights of version 5, which is not in 3\.\.4"),
    ],
)
def test_impossible_episodes_are_refused_with_the_fault(change, fault):
    (match, *_), (episode, *_) = played()
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(check_episode(change(episode), match, VOCABULARY, range(3, 5)))


def test_results_of_a_chunk_are_checked():
    _, episodes = played()
    assert check_results([(2, episodes[2]), (5, episodes[5])], [2, 5]) is None
    assert "returned games [5, 2] instead of games [2, 5]" in check_results(
        [(5, episodes[5]), (2, episodes[2])], [2, 5]
    )
    assert "returned games [2] instead of" in check_results([(2, episodes[2])], [2, 5])
    assert "returned NoneType instead of a list" in check_results(None, [2])
    assert "returned str instead of an episode" in check_results([(2, "x")], [2])


def test_stale_turns_lose_their_tokens_and_nothing_else():
    _, (episode, *_) = played()
    changed = with_generation(episode, policy_version=1)
    assert turn_ages([changed], 5)[:2] == [1, 4]
    (kept,), dropped = split_stale([changed], version=5, max_staleness=3)
    assert dropped == 1
    assert kept.turns[1].generation is None
    assert kept.turns[1].prompt_ids is None
    assert (kept.turns[1].action, kept.turns[1].player) == (episode.turns[1].action, episode.turns[1].player)
    assert kept.turns[0] is changed.turns[0]
    assert (kept.returns, kept.actions) == (episode.returns, episode.actions)
    (same,), dropped = split_stale([changed], version=5, max_staleness=4)
    assert (same is changed, dropped) == (True, 0)


def test_packed_weights_are_the_same_bits():
    tensors = {
        "a": torch.randn(3, 5).t(),
        "b": torch.randn(4).to(torch.bfloat16),
        "c": torch.tensor(2.5),
        "d": torch.nn.Parameter(torch.randn(2, 2)),
    }
    packed = pack(tensors.items())
    assert {name: str(array.dtype) for name, array in packed.arrays.items()} == {
        "a": "float32", "b": "uint16", "c": "float32", "d": "float32",
    }  # fmt: skip
    assert packed.num_bytes == 15 * 4 + 4 * 2 + 4 + 16
    for name, tensor in unpack(packed):
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])
    half = dict(unpack(pack(tensors.items(), torch.bfloat16)))
    assert torch.equal(half["a"], tensors["a"].to(torch.bfloat16))


def test_schedules_that_play_ahead_need_staleness():
    ahead = {schedule: ClusterConfig(schedule=schedule, max_staleness=3).steps_ahead for schedule in
             ("sync", "overlap", "async")}  # fmt: skip
    assert ahead == {"sync": 0, "overlap": 1, "async": 3}
    with pytest.raises(ValidationError, match="learns from turns one update behind"):
        ClusterConfig(schedule="overlap", max_staleness=0)
