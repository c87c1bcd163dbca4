"""LoRA: what is trained, what others see of it, and going on from a checkpoint."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from made_up import random_samples
from spiral.models.card import ModelCard
from spiral.policies import SamplingConfig
from spiral.text import PromptConfig
from spiral.training.batch import make_batch
from spiral.training.checkpoint import load_checkpoint, save_checkpoint
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.logprobs import hidden_states, score_tokens
from spiral.training.lora import LoraConfig
from spiral.training.loss import LossConfig
from spiral.training.packing import micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")


def learner_of(model, compute="float32", *, seed=0, **lora):
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(learning_rate=1e-2, epochs=1, layout="packed", tokens_per_microbatch=200),
        loss_config=LossConfig(kl_coefficient=0.05),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=10,
        seed=seed,
        compute=compute,
        lora=LoraConfig(**{"rank": 4, **lora}),
    )


def batch_of(seed=0):
    return make_batch(random_samples(10, 400, seed))


def test_only_the_additions_are_trained_and_they_begin_as_nothing(random_model):
    learner = learner_of(random_model)
    trained = {name for name, weight in learner.model.named_parameters() if weight.requires_grad}
    assert trained == set(learner.adapter_tensors())
    assert len(trained) == 2 * 7 * 2  # two matrices for each of seven linear layers in two blocks
    before = dict(random_model.named_parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in learner.weights())


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_the_plain_weights_hold_the_additions(random_model, compute):
    learner = learner_of(random_model, compute)
    learner.update(batch_of())
    plain = copy.deepcopy(random_model)
    before, after = dict(random_model.named_parameters()), dict(learner.weights())
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4) <= 4
    plain.load_state_dict(after, strict=False)
    batch = batch_of()
    (rows,) = micro_batches(batch, torch.arange(batch.num_samples), "padded", 10_000)
    targets = batch.action_ids_A[rows.action_K]

    def scored(model):
        return score_tokens(hidden_states(model, rows), model.get_output_embeddings(), targets, 1.0).logprobs_K

    with torch.no_grad():
        merged, untrained = scored(plain), scored(random_model)
        apart = learner._scorer(rows, targets, 1.0).logprobs_K  # the learner computes the additions apart
    assert (merged - untrained).abs().mean() > 0.2
    assert (apart - merged).abs().mean() < (1e-5 if compute == "float32" else 0.02)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_checkpoint_is_a_plain_model_and_goes_on_exactly(random_model, tokenizer, tmp_path, compute):
    learner = learner_of(random_model, compute)
    learner.update(batch_of())
    path = save_checkpoint(
        tmp_path,
        learner=learner,
        tokenizer=tokenizer,
        card=ModelCard(prompt=PromptConfig(template="qwen3")),
        state={"step": 1},
    )
    modes = {file.stat().st_mode for file in path.rglob("*") if file.is_file()}
    assert len(modes) == 1, "the weights are as readable as the configuration"
    saved = dict(AutoModelForCausalLM.from_pretrained(path).named_parameters())
    assert all(torch.equal(weight, saved[name]) for name, weight in learner.weights())
    again = learner_of(random_model, compute, seed=0)
    load_checkpoint(path, again)
    assert again.update(batch_of(1)) == learner.update(batch_of(1))
    other = dict(again.weights())
    assert all(torch.equal(weight, other[name]) for name, weight in learner.weights())


def test_another_base_than_the_run_began_with_is_refused(random_model, tokenizer, tmp_path):
    learner = learner_of(random_model)
    learner.update(batch_of())
    path = save_checkpoint(
        tmp_path,
        learner=learner,
        tokenizer=tokenizer,
        card=ModelCard(prompt=PromptConfig(template="qwen3")),
        state={"step": 1},
    )
    other = copy.deepcopy(random_model)
    with torch.no_grad():
        other.model.norm.weight.mul_(1.01)
    with pytest.raises(ValueError, match=r"the model that this LoRA run began with has changed: 'model\.norm\.weight'"):
        load_checkpoint(path, learner_of(other))


def test_the_first_additions_follow_from_the_seed(random_model):
    one, same, other = (learner_of(random_model, seed=seed).adapter_tensors() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["qproj", "lm_head", "embed_tokens"])
def test_a_wrong_layer_name_is_explained(random_model, name):
    with pytest.raises(ValueError, match=r"lora\.modules is .*; the linear layers in this model's blocks are \['down_"):
        learner_of(random_model, modules=[name])
