"""GAE over turns by hand, and the value head: what it reads, what it learns, and that a resumed run has it back."""

from __future__ import annotations

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from killed_runs import KILLED, contents, go_on, metrics_rows, run
from made_up import new_episode, new_turn, random_samples
from spiral.core.policy import SamplingConfig
from spiral.games.failures import UserCodeError
from spiral.runs.recipe import load_recipe
from spiral.training.advantages import GAE, CreditConfig, load_estimator
from spiral.training.batch import make_batch
from spiral.training.learner import Learner
from spiral.training.settings import LearnerConfig, LossConfig
from spiral.training.value_head import ValueHead


def game(returns, players=(0, 1), rewards=None, **fields):
    turns = [new_turn(player) for player in players]
    if rewards is not None:
        turns = [dataclasses.replace(turn, reward=reward) for turn, reward in zip(turns, rewards, strict=True)]
    return new_episode(returns, turns, **fields)


def test_gae_by_hand():
    # Player 0 gets 1 and then 2, with values 0.5 and 1; player 1 gets -1 at its only turn, with value 0.25.
    played = [game((3.0, -1.0), (0, 1, 0), (1.0, -1.0, 2.0))]
    values = [np.array([0.5, 0.25, 1.0])]
    # Last turn 2 - 1 = 1; first 1 + 0.9 * 1 - 0.5 = 1.4, and 0.9 * 0.5 * 1 more.
    estimator = GAE(gamma=0.9, lam=0.5)
    assert estimator(played, values)[0].tolist() == pytest.approx([1.85, -1.25, 1.0])
    assert estimator.value_targets(played, values)[0].tolist() == pytest.approx([2.35, -1.0, 2.0])


def test_gae_with_lam_1_is_what_is_still_to_come_less_the_value():
    played = [game((3.0, -1.0), (0, 1, 0), (1.0, -1.0, 2.0)), game((0.0, 2.0), (0, 1))]
    values = [np.array([0.5, 0.25, 1.0]), np.array([0.1, -0.1])]
    given = GAE(lam=1.0)(played, values)
    assert [array.tolist() for array in given] == [pytest.approx([2.5, -1.25, 1.0]), pytest.approx([-0.1, 2.1])]
    one_step = GAE(lam=0.0)(played, values)
    assert one_step[0].tolist() == pytest.approx([1.0 + 1.0 - 0.5, -1.25, 1.0])


def test_turns_of_opponents_and_games_without_a_result_get_nothing():
    against = game((1.0, -1.0), (0, 1, 0), trainable=(True, False))
    missing = game((0.0, 0.0), outcome="not_played")
    given = GAE()([against, missing], [np.zeros(3), np.array([0.5, 0.5])])
    assert [array.tolist() for array in given] == [[0.95, 0.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("options", [{"gamma": 0}, {"gamma": 1.1}, {"lam": -0.1}, {"lam": "high"}, {"gamma": True}])
def test_impossible_discounts_are_refused(options):
    with pytest.raises(ValueError, match="expected 0 < gamma <= 1 and 0 <= lam <= 1"):
        load_estimator("gae", options)


def new_learner(model, layout="padded"):
    return Learner(
        model,
        config=LearnerConfig(layout=layout, tokens_per_microbatch=100),
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=10,
        seed=0,
    )


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_state_is_that_of_the_last_prompt_token(random_model, layout):
    batch = make_batch(random_samples(9, 400))
    learner = new_learner(random_model, layout)
    states = learner.prompt_states(batch)
    assert states.shape == (9, learner.hidden_size)
    for sample in range(9):
        start, prompt = int(batch.starts_S[sample]), int(batch.prompt_lengths_S[sample])
        with torch.no_grad():
            output = learner.model.base_model(
                input_ids=batch.token_ids_L[None, start : start + prompt], use_cache=False
            )
        torch.testing.assert_close(states[sample], output.last_hidden_state[0, -1], atol=1e-5, rtol=1e-4)


class Reads:
    """A learner whose hidden state is given by the first prompt token."""

    hidden_size = 2

    def prompt_states(self, batch):
        first = batch.token_ids_L[batch.starts_S]
        return torch.stack([(first == 1), (first != 1)], dim=-1) * torch.tensor([[3.0, 100.0]])


def seen(*kinds, learns=True):
    """A game of player 0 whose turns begin with these prompt tokens."""
    return new_episode((1.0, -1.0), [new_turn(0, prompt=(kind, 5)) for kind in kinds], trainable=(learns, True))


def test_the_head_learns_what_each_state_is_worth():
    head = ValueHead(Reads(), CreditConfig(value_learning_rate=0.1, value_epochs=25))
    played = [seen(1, 2), seen(2, learns=False), seen(2)]
    targets = [np.array([0.75, -0.5]), np.array([9.0]), np.array([-0.5])]
    assert [values.tolist() for values in head.values(played)] == [[0.0, 0.0], [0.0], [0.0]]
    first = head.learn(played, targets)
    assert first["value/loss"] == pytest.approx((0.75**2 + 2 * 0.5**2) / 3)
    assert first["value/explained"] == 0.0
    for _ in range(10):
        head.values(played)
        last = head.learn(played, targets)
    assert last["value/explained"] > 0.99
    values = head.values(played)
    assert values[0].tolist() == pytest.approx([0.75, -0.5], abs=0.02)
    assert values[1].tolist() == [0.0]
    assert head.values([seen(2, learns=False)])[0].tolist() == [0.0]
    assert head.learn([seen(2, learns=False)], [np.array([1.0])]) == {}


def test_the_state_of_the_head_goes_on_exactly():
    one, two = (ValueHead(Reads(), CreditConfig()) for _ in range(2))
    played, targets = [seen(1, 2)], [np.array([1.0, -1.0])]
    for _ in range(3):
        one.values(played)
        one.learn(played, targets)
    two.load_tensors(one.tensors())
    for head in (one, two):
        head.values(played)
        head.learn(played, targets)
    assert one.values(played)[0].tolist() == two.values(played)[0].tolist() != [0.0, 0.0]
    assert sorted(one.tensors()) == sorted(two.tensors())
    assert all(torch.equal(tensor, two.tensors()[name]) for name, tensor in one.tensors().items())


def test_an_estimator_of_ones_own_gets_values_where_it_has_targets(monkeypatch):
    class Mine:
        def __call__(self, episodes, values):
            return [-of_turns for of_turns in values]

        def value_targets(self, episodes, values):
            return self.targets

    monkeypatch.setattr("user_estimator.Mine", Mine, raising=False)
    estimator, head = load_estimator("user_estimator:Mine"), mock.Mock()
    head.values.return_value = [np.array([0.5, 0.25])]
    played = [seen(1, 2)]
    assert estimator.needs_values
    assert not load_estimator("rae").needs_values
    assert load_estimator("rae").learn_values(played) == {}
    with pytest.raises(UserCodeError, match="'user_estimator:Mine' needs a value head, and has none"):
        estimator(played)
    estimator.value_head = head
    assert estimator(played)[0].tolist() == [-0.5, -0.25]
    Mine.targets = [[1.0, -1.0]]
    assert estimator.learn_values(played) is head.learn.return_value
    (episodes, targets), _ = head.learn.call_args
    assert (episodes, [array.tolist() for array in targets]) == (played, [[1.0, -1.0]])
    for targets, message in (
        ([[1.0]], "gave other value targets than one number for each turn"),
        ([[1.0, float("nan")]], "gave a value target that is no number"),
        (None, "gave None; expected a list with one array of targets"),
    ):
        Mine.targets = targets
        with pytest.raises(UserCodeError, match=f"'user_estimator:Mine' {message}"):
            estimator.learn_values(played)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["cluster.rollout_workers=2"], "'gae' learns values, for which the whole model .*cluster.rollout_workers"),
        (["model.compute=bfloat16"], "'gae' learns values, .* must not be sharded.*; set model.compute to 'float32'"),
        (["credit.options={lambda=1}"], "'gae' has no option 'lambda'; did you mean 'lam'?"),
        (["credit.estimator=rae", "credit.value_epochs=3"], "credit.value_epochs is for estimators that learn values"),
    ],
)
def test_where_values_cannot_be_learned_a_recipe_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("nano", ["credit.estimator=gae", *settings])
    assert load_recipe("nano", ["credit.estimator=gae", "credit.value_epochs=3"]).credit.value_epochs == 3


SETTINGS = (
    "credit.estimator=gae",
    "run.steps=4",
    "run.checkpoint_every=2",
    "run.episodes_every=2",
    "selfplay.episodes_per_step=8",
    "loss.kl_coefficient=0.0",
    "loss.reference_refresh_steps=0",
    "learner.minibatches=1",
    "evaluation.games=[]",
    "evaluation.exploitability=[]",
)


@pytest.mark.slow  # one step of this is in test_every_estimator.py, without processes
def test_a_run_with_a_value_head_survives_a_kill(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, settings=SETTINGS) == 0
    assert run(killed, "after step 3", SETTINGS) == KILLED
    saved = load_file(killed / "checkpoints" / "latest" / "training" / "values.safetensors")
    assert float(saved["step/weight"]) == 20.0
    assert float(saved["head/weight"].abs().sum()) > 0
    assert go_on(killed) == 0
    assert metrics_rows(killed) == metrics_rows(whole)
    ours, theirs = contents(killed), contents(whole)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    losses = [json.loads(row)["value/loss"] for row in metrics_rows(whole)]
    assert len(losses) == 4
    assert len(set(losses)) == 4
