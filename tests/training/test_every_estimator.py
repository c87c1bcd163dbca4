"""Every estimator and every loss makes three steps of the built-in model on the same games, played once."""

import copy
import json
from unittest import mock

import numpy as np
import pytest
import torch

from spiral.inference.engines import Weights, make_policy
from spiral.models.card import training_card
from spiral.models.loading import load_language_model
from spiral.rollout.collector import SelfPlay
from spiral.runs.recipe import load_recipe
from spiral.training.advantages import ESTIMATORS, load_estimator
from spiral.training.checkpoint import load_checkpoint, save_checkpoint
from spiral.training.learner import Learner
from spiral.training.loop import Hooks, train
from spiral.training.settings import BUILTIN_LOSSES, NLL
from spiral.training.value_head import ValueHead

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = (
    "run.steps=3",
    "selfplay.games={kuhn_poker=1}",
    "selfplay.opening_plies={}",
    "selfplay.attempts=2",
    "selfplay.episodes_per_step=16",
    "loss.kl_coefficient=0",
    "learner.minibatches=1",
    "learner.epochs=1",
    "evaluation.games=[]",
    "evaluation.exploitability=[]",
)


@pytest.fixture(scope="module")
def played():
    """The built-in model with its tokenizer, and its games of one step."""
    recipe = load_recipe("nano", SETTINGS)
    loaded = load_language_model(recipe.model)
    policy = make_policy(recipe.engine, recipe.model, loaded, recipe.prompt, recipe.sampling, weights=Weights.SHARED)
    return loaded, SelfPlay(policy, recipe.selfplay, recipe.run.seed).collect(1)


def trained(played, *settings, checkpoints=None, resumed=None):
    """The metrics of the steps up to the third without times, and which weights have moved."""
    loaded, episodes = played
    recipe = load_recipe("nano", [*SETTINGS, *settings])
    source = loaded if resumed is None else load_language_model(recipe.model.model_copy(update={"path": str(resumed)}))
    learner = Learner.from_recipe(recipe, copy.deepcopy(source.model))
    estimator = load_estimator(recipe.credit.estimator, recipe.credit.options)
    if estimator.needs_values:
        estimator.value_head = ValueHead(learner, recipe.credit)
    if resumed is not None:
        load_checkpoint(resumed, learner, estimator.value_head)
    recorder, collector = mock.Mock(), mock.Mock()
    collector.collect.return_value = episodes

    def save(step):
        if checkpoints is not None:
            card = training_card(recipe.model_dump(mode="json"))
            save_checkpoint(
                checkpoints,
                learner=learner,
                tokenizer=loaded.tokenizer,
                card=card,
                state={"step": step},
                value_head=estimator.value_head,
            )

    assert train(
        recipe.run,
        recipe.credit,
        estimator,
        collector,
        learner,
        publish=lambda: None,
        recorder=recorder,
        hooks=Hooks(save=save),
    )
    before, after = loaded.model.state_dict(), learner.model.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    rows = [call.args[1] for call in recorder.metrics.call_args_list]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows], moved


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_makes_three_steps(name, played):
    rows, moved = trained(played, f"credit.estimator={name}")
    turns = sum(episode.learned_turns for episode in played[1])
    assert [row["credit/samples"] + row["credit/dropped"] for row in rows] == [turns] * 3
    assert all(row["credit/samples"] > 0 for row in rows)
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert all(row["learner/grad_norm"] > 0 for row in rows)
    assert moved
    assert ("value/loss" in rows[-1]) == (name == "gae")


@pytest.mark.parametrize("kind", [kind for kind in BUILTIN_LOSSES if kind != NLL])
def test_every_loss_makes_three_steps(kind, played):
    rows, moved = trained(played, f"loss.kind={kind}", "learner.epochs=2")
    assert all(row["learner/grad_norm"] > 0 and np.isfinite(row["loss/policy"]) for row in rows)
    assert all(0 <= row["loss/clip_fraction"] <= 1 for row in rows)
    assert rows[-1]["loss/clip_fraction"] > 0 or kind not in ("ppo", "dual_clip", "gspo")
    assert moved


def test_values_go_on_from_a_checkpoint_as_if_training_had_not_stopped(played, tmp_path):
    settings = ("credit.estimator=gae", "run.checkpoint_every=2")
    whole, _ = trained(played, *settings, checkpoints=tmp_path)
    path = tmp_path / "step-000002"
    assert (path / "training" / "values.safetensors").is_file()
    rows, _ = trained(played, *settings, resumed=path)
    assert rows == whole[2:]
    (path / "training" / "values.safetensors").unlink()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["training/values.safetensors"]
    (path / "manifest.json").write_text(json.dumps(manifest, indent=2))
    with pytest.raises(ValueError, match=r"step-000002 has no value head, which credit\.estimator needs; resume with"):
        trained(played, *settings, resumed=path)
