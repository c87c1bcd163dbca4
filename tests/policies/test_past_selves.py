"""One engine for the policy and its past selves: every reply is that of its weights alone."""

from __future__ import annotations

import pytest
import torch

from spiral.core.steps import step_name
from spiral.evaluation.settings import EvaluationConfig
from spiral.games import load_game
from spiral.inference.engines import Weights, make_policy
from spiral.inference.settings import EngineConfig
from spiral.models.loading import load_language_model
from spiral.models.settings import ModelConfig
from spiral.policies import SamplingConfig
from spiral.policies.past_selves import EngineShare, SharedEngine, check_past_selves, prune_past_selves
from spiral.rollout.loop import Match, play
from spiral.runs.evaluation import evaluate_policy
from spiral.text import PromptConfig

KUHN = load_game("kuhn_poker")


def engine(compute="float32"):
    source = ModelConfig(path="nano", device="cpu", compute=compute)
    loaded = load_language_model(source)
    prompt = PromptConfig(observation="compact", thinking=False)
    return make_policy(
        EngineConfig(), source, loaded, prompt, SamplingConfig(max_new_tokens=8), weights=Weights.SHARED
    ), loaded


def changed(model, step):
    """Other weights, the same ones for a step."""
    draw = torch.Generator().manual_seed(step)
    return {name: weight + 0.02 * torch.randn(weight.shape, generator=draw) for name, weight in model.items()}


@pytest.fixture
def run(tmp_path):
    """A run directory with past selves of steps 3 and 6."""
    _, loaded = engine()
    weights = {name: weight.detach() for name, weight in loaded.model.named_parameters()}
    for step in (3, 6):
        loaded.model.save_pretrained(tmp_path / "past_selves" / step_name(step), state_dict=changed(weights, step))
    return tmp_path


def games(policy, opponents, count=12):
    return [
        Match(
            game=KUHN, seed=100 + number, policies=(policy, opponents[number % len(opponents)]), trainable=(True, False)
        )
        for number in range(count)
    ]


def replies(episodes):
    return [[(turn.reply, turn.generation.logprobs.tolist()) for turn in episode.turns] for episode in episodes]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_replies_are_those_of_each_set_of_weights_alone(run, compute):
    torch.set_num_threads(1)
    shared, loaded = engine(compute)
    before = {name: weight.clone() for name, weight in shared.model.named_parameters()}
    past = SharedEngine(shared, EngineShare(run=run, weights={}))
    past.load_weights(loaded.model.named_parameters(), 9)
    load = past.opponents(lambda name, game: pytest.fail(f"{name} is no past self"))
    players = [load("past@3", KUHN), load("past@6", KUHN)]
    episodes = play(games(past.policy, players))
    past.restore()
    assert all(torch.equal(before[name], weight) for name, weight in shared.model.named_parameters())
    assert [{turn.player: turn.generation.policy_version for turn in episode.turns} for episode in episodes[:2]] == [
        {0: 9, 1: 3},
        {0: 9, 1: 6},
    ]

    alone = []
    for step in (3, 6):
        single, model = engine(compute)
        own = {name: weight.detach().clone() for name, weight in model.model.named_parameters()}
        single.load_weights(changed(own, step).items(), step)
        single.name = f"past@{step}"
        alone.append(single)
    policy, _ = engine(compute)
    assert replies(episodes) == replies(play(games(policy, alone)))


def test_an_opponent_plays_with_the_policys_engine_and_its_own_weights(run):
    torch.set_num_threads(1)
    shared, loaded = engine()
    directory = run / "past_selves" / step_name(3)
    past = SharedEngine(shared, EngineShare(run=run, weights={"rival": directory}))
    past.load_weights(loaded.model.named_parameters(), 9)
    load = past.opponents(lambda name, game: f"another engine for {name}")
    rival = load("rival", KUHN)
    assert load("stranger", KUHN) == "another engine for stranger"
    episodes = play(games(past.policy, [rival], 4))
    assert [seat.policy for seat in episodes[0].seats] == [shared.name, "rival"]
    assert {turn.generation.policy_version for turn in episodes[0].turns if turn.player} == {0}
    assert episodes[0].matchup == "kuhn_poker against rival"
    past.restore()
    assert replies(episodes) == replies(play(games(past.policy, [past.past_self("past@3")], 4)))
    past.restore()
    assert replies(episodes) != replies(play(games(past.policy, [past.past_self("past@6")], 4)))
    past.restore()


def test_evaluations_play_opponents_that_share_the_engine(run):
    shared, loaded = engine()
    before = {name: weight.clone() for name, weight in shared.model.named_parameters()}
    past = SharedEngine(shared, EngineShare(run=run, weights={"rival": run / "past_selves" / step_name(3)}))
    past.load_weights(loaded.model.named_parameters(), 9)
    config = EvaluationConfig(games=["kuhn_poker"], opponents=["random", "rival"])
    found = evaluate_policy(shared, config, 8, shared_engine=past)
    assert [(row["opponent"], row["played"]) for row in found.arena] == [("random", 8), ("rival", 8)]
    assert found.arena[1]["opponent_replies"]["replies"] > 0
    assert all(torch.equal(before[name], weight) for name, weight in shared.model.named_parameters())


def test_the_policy_has_its_weights_again_after_a_failure(run):
    shared, loaded = engine()
    before = {name: weight.clone() for name, weight in shared.model.named_parameters()}
    past = SharedEngine(shared, EngineShare(run=run, weights={}))
    past.load_weights(loaded.model.named_parameters(), 0)

    class Failing:
        name = "failing"

        def submit(self, requests):
            raise KeyError("no reply")

        def cancel(self):
            pass

    three = past.past_self("past@3")
    with pytest.raises(KeyError):
        play([*games(three, [three], 2), *games(three, [Failing()], 2)])
    past.restore()
    assert all(torch.equal(before[name], weight) for name, weight in shared.model.named_parameters())
    assert len(play(games(past.policy, [three], 4))) == 4


def test_new_weights_of_the_policy_wait_while_a_past_self_plays(run):
    shared, loaded = engine()
    past = SharedEngine(shared, EngineShare(run=run, weights={}))
    own = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    past.load_weights(own.items(), 1)
    play(games(past.past_self("past@3"), [past.past_self("past@6")], 2))
    newer = changed(own, 77)
    past.load_weights(newer.items(), 2)
    assert shared.version == 6
    past.restore()
    assert shared.version == 2
    assert all(torch.equal(newer[name], weight) for name, weight in shared.model.named_parameters())


def test_a_past_self_that_is_gone_says_what_to_do(run):
    shared, _ = engine()
    with pytest.raises(ValueError, match=r"past@4 is to play, but .* no weights of step 4 .*those of: 3, 6\); put"):
        SharedEngine(shared, EngineShare(run=run, weights={})).past_self("past@4")
    with pytest.raises(ValueError, match=r"past@9 is to play"):
        check_past_selves(run, ["past@9"])
    with pytest.raises(ValueError, match=r"step-000003 is damaged: manifest.json cannot be read; remove it"):
        check_past_selves(run, ["past@3"])
    assert SharedEngine(shared, EngineShare(run=run, weights={})).past_self("minimax") is None


def test_those_that_may_not_play_any_more_are_removed(run):
    prune_past_selves(run / "past_selves", ["past@6", "past@8"])
    assert [path.name for path in (run / "past_selves").iterdir()] == ["step-000006"]
