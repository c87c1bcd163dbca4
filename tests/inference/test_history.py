"""Models that are shown their earlier turns: the same games however many are played at once; a context that ends."""

import itertools

import numpy as np
import pytest

from spiral.core.metrics import episode_metrics
from spiral.games import load_game
from spiral.inference.room import PromptRoomError, check_room
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import SamplingConfig
from spiral.rollout.loop import Match, play
from spiral.text import ChatCodec, PromptConfig
from spiral.training.batch import samples_from_episodes

KUHN = load_game("kuhn_poker(hands=4)")


def player(nano, thoughts, context=512, budget=40):
    config = PromptConfig(observation="compact", thinking=True, history="chat", history_thoughts=thoughts)
    codec = ChatCodec(nano.tokenizer, config)
    return TransformersPolicy(nano.model, codec, SamplingConfig(max_new_tokens=budget), name="nano", context=context)


def games(policy, in_flight=8):
    matches = [Match(game=KUHN, seed=seed, policies=(policy, policy), trainable=(True, True)) for seed in range(5)]
    return play(matches, in_flight)


def prompts(episodes):
    return [turn.prompt_ids.tolist() for episode in episodes for turn in episode.turns]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("thoughts", ["drop", "keep"])
def test_games_with_a_history(nano, thoughts):
    policy = player(nano, thoughts)
    episodes = games(policy)
    if thoughts == "keep":
        assert prompts(episodes) == prompts(games(policy, in_flight=1))
    later = continued = 0
    for episode in episodes:
        for seat in range(2):
            turns = [turn for turn in episode.turns if turn.player == seat]
            assert [turn.history_turns for turn in turns] == list(range(len(turns)))
            for before, turn in itertools.pairwise(turns):
                known = [*before.prompt_ids.tolist(), *before.generation.token_ids.tolist()]
                later += 1
                continued += turn.prompt_ids[: len(known)].tolist() == known
                shown = policy.codec.tokenizer.decode(turn.prompt_ids)
                assert all(f"\\boxed{{{own.action}}}" in shown for own in turns[: turn.history_turns])
                assert ("</think>" in shown) == (thoughts == "keep")
    assert later >= 4
    assert continued == (later if thoughts == "keep" else 0)
    advantages = [np.ones(len(episode.turns)) for episode in episodes]
    samples, _ = samples_from_episodes(episodes, advantages, drop_zero_advantage=False)
    assert [sample.prompt_ids.tolist() for sample in samples] == prompts(episodes)
    metrics = episode_metrics(episodes, {})
    assert metrics["rollout/history_cut"] == 0
    assert metrics["rollout/history_turns"] == later_mean(episodes)


def later_mean(episodes):
    held = [turn.history_turns for episode in episodes for turn in episode.turns]
    return sum(held) / len(held)


def test_a_history_never_takes_room_from_the_reply(nano):
    policy = player(nano, "keep", context=95, budget=60)
    episodes = games(policy)
    turns = [turn for episode in episodes for turn in episode.turns]
    assert {turn.generation.budget for turn in turns} == {60}
    assert max(len(turn.prompt_ids) for turn in turns) <= 35
    metrics = episode_metrics(episodes, {})
    assert 0 < metrics["rollout/history_cut"] < 1
    assert metrics["rollout/cut_by_context"] == 0


def test_a_context_in_which_no_history_would_fit_is_refused(nano):
    check_room(player(nano, "drop"), KUHN)
    with pytest.raises(PromptRoomError, match="a reply may have 501, and nano takes 512 together, so no earlier turn"):
        check_room(player(nano, "drop", budget=501), KUHN)
