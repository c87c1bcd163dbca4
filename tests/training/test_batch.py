"""Episodes to a batch, token by token: masks, offsets, and what is left out."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up import new_episode, new_sample, new_turn, random_samples
from spiral.core.records import Turn
from spiral.training.batch import make_batch, samples_from_episodes, with_learning


def sample(prompt, reply, advantage=1.0):
    return new_sample(prompt, reply, advantage, [-0.5 * token for token in reply])


def test_a_turn_becomes_a_sample_untouched():
    turns = [new_turn(0, (5, 6, 7), (8, 9), (-0.25, -0.5), version=4), new_turn(1, (5,), (2,), (-1.0,), version=4)]
    samples, dropped = samples_from_episodes(
        [new_episode((1.0, -1.0), turns)], [np.array([0.75, -0.5])], drop_zero_advantage=True
    )
    assert dropped == 0
    first, second = samples
    assert first.prompt_ids.tolist() == [5, 6, 7]
    assert first.action_ids.tolist() == [8, 9]
    assert first.behaviour_logprobs.tolist() == [-0.25, -0.5]
    assert first.advantages.tolist() == [0.75, 0.75]
    assert (first.game, first.player, first.policy_version) == ("tictactoe", 0, 4)
    assert (second.advantages.tolist(), second.player) == ([-0.5], 1)
    assert (second.prompt_ids.tolist(), second.action_ids.tolist()) == ([5], [2])


def test_every_turn_gets_its_own_advantage():
    turns = [new_turn(ply % 2) for ply in range(5)]
    advantages = [0.9, -0.9, 0.5, 0.0, 0.1]
    samples, _ = samples_from_episodes(
        [new_episode((1.0, -1.0), turns)], [np.array(advantages)], drop_zero_advantage=False
    )
    assert [one.advantages.tolist() for one in samples] == [[pytest.approx(value)] * 2 for value in advantages]


def test_every_token_may_have_an_advantage_of_its_own():
    turns = [new_turn(0, (5,), (8, 9)), new_turn(1, (5,), (2, 3, 4)), new_turn(0, (5,), (2,))]
    by_turn = [np.array([0.5, -0.5]), np.array([0.0, 0.0, 1.0]), np.array([0.0])]
    samples, dropped = samples_from_episodes([new_episode((1.0, -1.0), turns)], [by_turn], drop_zero_advantage=True)
    assert [one.advantages.tolist() for one in samples] == [[0.5, -0.5], [0.0, 0.0, 1.0]]
    assert dropped == 1
    batch = make_batch(samples)
    assert batch.advantages_A.tolist() == [0.5, -0.5, 0.0, 0.0, 1.0]
    assert batch.advantages_A.dtype == torch.float32


def test_episodes_keep_what_each_turn_was_credited_with_and_the_learners_numbers():
    """In the order of the batch; a turn that is left out of it has advantages alone, and one of an opponent neither."""
    turns = [new_turn(0, (5,), (8, 9)), new_turn(1, (5,), (2, 3, 4)), new_turn(0, (5,), (2,))]
    games = [new_episode((1.0, -1.0), turns), new_episode((1.0, -1.0), turns[:2], trainable=(True, False))]
    advantages = [[np.array([0.5, -0.5]), np.zeros(3), np.array([0.25])], np.array([0.75, 0.0])]
    samples, _ = samples_from_episodes(games, advantages, drop_zero_advantage=True)
    logprobs_A = np.arange(sum(len(one.action_ids) for one in samples), dtype=np.float32)
    first, second = with_learning(games, advantages, logprobs_A, drop_zero_advantage=True)
    assert [turn.advantages.tolist() for turn in first.turns] == [[0.5, -0.5], [0.0, 0.0, 0.0], [0.25]]
    assert [None if turn.learner_logprobs is None else turn.learner_logprobs.tolist() for turn in first.turns] == [
        [0.0, 1.0],
        None,
        [2.0],
    ]
    assert (second.turns[0].advantages.tolist(), second.turns[0].learner_logprobs.tolist()) == ([0.75], [3.0, 4.0])
    assert (second.turns[1].advantages, second.turns[1].learner_logprobs) == (None, None)
    unscored, _ = with_learning(games, advantages, None, drop_zero_advantage=True)
    assert [turn.learner_logprobs for turn in unscored.turns] == [None] * 3
    assert [dataclasses.replace(turn, advantages=None, learner_logprobs=None) for turn in first.turns] == turns


def test_only_sampled_turns_of_trainable_players_are_trained():
    scripted = Turn(player=0, observation="o", reply="0", action="0")
    empty = new_turn(0, (1, 2), (), stop_reason="length", action=None)
    turns = [new_turn(0), new_turn(1), scripted, empty]
    for trainable, players in (
        ((True, True), [0, 1]),
        ((True, False), [0]),
        ((False, True), [1]),
        ((False, False), []),
    ):
        episode = new_episode((1.0, -1.0), turns, trainable=trainable)
        samples, dropped = samples_from_episodes([episode], [np.ones(len(turns))], drop_zero_advantage=True)
        assert [one.player for one in samples] == players
        assert dropped == 0


def test_samples_without_advantage_are_dropped_and_counted():
    turns = [new_turn(0), new_turn(1), new_turn(0)]
    episodes = [new_episode((1.0, -1.0), turns), new_episode((0.0, 0.0), turns), new_episode((1.0, 0.0), turns)]
    advantages = [np.array(values) for values in ([0.0, -1.0, 0.0], [0.0, 0.0, 0.0], [1e-9, 0.0, 1e-9])]
    samples, dropped = samples_from_episodes(episodes, advantages, drop_zero_advantage=True)
    assert [float(one.advantages[0]) for one in samples] == pytest.approx([-1.0, 1e-9, 1e-9])
    assert dropped == 6
    samples, dropped = samples_from_episodes(episodes, advantages, drop_zero_advantage=False)
    assert (len(samples), dropped) == (9, 0)


def test_advantages_must_match_the_episodes():
    with pytest.raises(ValueError, match="zip"):
        samples_from_episodes([new_episode((1.0, -1.0), [new_turn(0)])], [], drop_zero_advantage=True)
    with pytest.raises(ValueError, match="zip"):
        samples_from_episodes([new_episode((1.0, -1.0), [new_turn(0)])], [np.ones(2)], drop_zero_advantage=True)


def test_offsets_by_hand():
    batch = make_batch([sample((1, 2), (3,), 0.5), sample((4,), (5, 6, 7), -1.0), sample((8, 9, 10), (11, 12), 2.0)])
    assert batch.token_ids_L.tolist() == list(range(1, 13))
    assert batch.starts_S.tolist() == [0, 3, 7]
    assert batch.lengths_S.tolist() == [3, 4, 5]
    assert batch.prompt_lengths_S.tolist() == [2, 1, 3]
    assert batch.advantages_A.tolist() == [0.5, -1.0, -1.0, -1.0, 2.0, 2.0]
    assert batch.action_ids_A.tolist() == [3, 5, 6, 7, 11, 12]
    assert batch.behaviour_logprobs_A.tolist() == [-1.5, -2.5, -3.0, -3.5, -5.5, -6.0]
    assert batch.action_sample_A.tolist() == [0, 1, 1, 1, 2, 2]
    assert (batch.num_samples, batch.num_action_tokens) == (3, 6)
    assert {batch.token_ids_L.dtype, batch.action_ids_A.dtype} == {torch.int64}
    assert {batch.advantages_A.dtype, batch.behaviour_logprobs_A.dtype} == {torch.float32}


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_every_sample_can_be_read_back(count, seed):
    samples = random_samples(count, 100, seed, longest=6)
    batch = make_batch(samples)
    for index, one in enumerate(samples):
        start, length = int(batch.starts_S[index]), int(batch.lengths_S[index])
        assert batch.token_ids_L[start : start + length].tolist() == [*one.prompt_ids, *one.action_ids]
        mine = batch.action_sample_A == index
        assert batch.action_ids_A[mine].tolist() == one.action_ids.tolist()
        assert batch.behaviour_logprobs_A[mine].tolist() == one.behaviour_logprobs.tolist()
        assert batch.advantages_A[mine].tolist() == one.advantages.tolist()
        assert int(batch.prompt_lengths_S[index]) == len(one.prompt_ids)


def test_what_cannot_be_a_batch():
    with pytest.raises(ValueError, match="got no samples"):
        make_batch([])
    with pytest.raises(ValueError, match="0 prompt and 2 action tokens"):
        sample((), (2, 3))
    with pytest.raises(ValueError, match="1 prompt and 0 action tokens"):
        sample((1,), ())
    with pytest.raises(ValueError, match=r"behaviour_logprobs of shape \(1,\); expected \(2,\)"):
        new_sample((1,), (2, 3), logprobs=[-1.0])
    with pytest.raises(ValueError, match=r"advantages of shape \(1,\); expected \(2,\), one for each"):
        dataclasses.replace(sample((1,), (2, 3)), advantages=np.ones(1, dtype=np.float32))
