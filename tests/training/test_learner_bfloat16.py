"""bfloat16: float32 weights under FSDP2 at world size 1, against float32, against a checkpoint, in every layout."""

import copy

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from made_up import random_samples
from spiral.inference.scoring import reply_logprobs
from spiral.inference.transformers import TransformersPolicy
from spiral.models.card import ModelCard
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig
from spiral.training.batch import make_batch
from spiral.training.checkpoint import load_checkpoint, save_checkpoint, save_snapshot, verify_checkpoint
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.loss import LossConfig
from turns import random_states, replies_of, requests_for

pytestmark = pytest.mark.usefixtures("one_thread")


def learner_of(model, compute, *, loss=None, compiled=False, **config):
    settings = {"learning_rate": 1e-3, "epochs": 1, "tokens_per_microbatch": 150, **config}
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(**settings),
        loss_config=LossConfig(**(loss or {})),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=10,
        seed=0,
        compute=compute,
        compiled=compiled,
    )


def batch_of(seed=0):
    return make_batch(random_samples(10, 400, seed))


def moved(learner, model):
    """Every weight's change, end to end."""
    before = dict(model.named_parameters())
    return torch.cat([(weight - before[name]).flatten() for name, weight in learner.weights()]).detach()


def test_weights_gradients_and_moments_are_float32_and_sharded(random_model, monkeypatch):
    reduced = []

    def note_precision(module, *, mp_policy, **options):
        reduced.append(mp_policy.reduce_dtype)
        return fully_shard(module, mp_policy=mp_policy, **options)

    monkeypatch.setattr("spiral.training.fsdp.fully_shard", note_precision)
    learner = learner_of(random_model, "bfloat16")
    assert reduced == [torch.float32] * 3  # two blocks and what is around them
    gradients = []
    learner.optimizer.register_step_pre_hook(
        lambda *_arguments: gradients.extend(parameter.grad.full_tensor() for parameter in learner.model.parameters())
    )
    learner.update(batch_of())
    assert len(gradients) == len(list(learner.model.parameters()))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    # Those of several micro-batches have been added up in float32, and clipped in it.
    assert all((gradient != gradient.bfloat16().float()).any() for gradient in gradients)
    for parameter in learner.model.parameters():
        assert isinstance(parameter, DTensor)
        assert parameter.dtype == torch.float32
        assert learner.optimizer.state[parameter]["exp_avg"].dtype == torch.float32
    for name, weight in learner.weights():
        assert not isinstance(weight, DTensor), name
        assert weight.dtype == torch.float32


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("loss", [{}, {"kl_coefficient": 0.1, "entropy_bonus": 0.01}])
def test_bfloat16_moves_the_weights_where_float32_does(random_model, layout, loss):
    options = {"loss": loss, "layout": layout, "max_grad_norm": 1e9}
    exact, rounded = (learner_of(random_model, compute, **options) for compute in ("float32", "bfloat16"))
    expected, got = exact.update(batch_of()), rounded.update(batch_of())
    assert got["loss/policy"] == pytest.approx(expected["loss/policy"], abs=0.03 * abs(expected["loss/policy"]) + 1e-3)
    assert got["loss/entropy"] == pytest.approx(expected["loss/entropy"], rel=0.01)
    assert got["learner/grad_norm"] == pytest.approx(expected["learner/grad_norm"], rel=0.05)
    similarity = torch.cosine_similarity(moved(exact, random_model), moved(rounded, random_model), dim=0)
    assert similarity > 0.9  # AdamW's first step is the sign of the gradient: small entries may flip


def test_small_steps_are_not_lost_to_rounding(random_model):
    """A bfloat16 weight has 8 bits: a step of 1e-7 would never move it."""
    learner = learner_of(random_model, "bfloat16", learning_rate=1e-7)
    for seed in range(3):
        learner.update(batch_of(seed))
    change = moved(learner, random_model)
    assert 5e-8 < change.abs().max() < 5e-7
    assert (change != 0).float().mean() > 0.5


def test_activation_checkpointing_changes_nothing(random_model):
    plain, checkpointed = (
        learner_of(random_model, "bfloat16", layout="packed", gradient_checkpointing=on) for on in (False, True)
    )
    assert plain.update(batch_of()) == checkpointed.update(batch_of())
    assert torch.equal(moved(plain, random_model), moved(checkpointed, random_model))


def test_a_snapshot_holds_the_weights_that_generate_replies(tokenizer, random_model, tmp_path):
    learner = learner_of(random_model, "bfloat16")
    learner.update(batch_of())
    path = save_snapshot(tmp_path, learner=learner, tokenizer=tokenizer, card=ModelCard(), compute="bfloat16")
    verify_checkpoint(path)
    assert not (path / "state.json").exists()
    assert not (path / "training").exists()
    loaded = AutoModelForCausalLM.from_pretrained(path)
    assert loaded.dtype == torch.bfloat16
    kept = dict(loaded.named_parameters())
    assert all(torch.equal(kept[name], weight.bfloat16()) for name, weight in learner.weights())
    assert any(not torch.equal(weight.bfloat16().float(), weight) for _, weight in learner.weights())


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_loads_plainly_and_goes_on_exactly(tokenizer, tmp_path, tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    loss = {"kl_coefficient": 0.05, "reference_refresh_steps": 1}
    whole = learner_of(model, "bfloat16", loss=loss)
    for seed in range(2):
        whole.update(batch_of(seed))
    prompt = PromptConfig(template="qwen3")
    path = save_checkpoint(
        tmp_path, learner=whole, tokenizer=tokenizer, card=ModelCard(prompt=prompt), state={"step": 2}
    )
    last = whole.update(batch_of(2))

    loaded = AutoModelForCausalLM.from_pretrained(path)
    assert loaded.dtype == torch.float32
    assert not torch.equal(moved(whole, loaded), torch.zeros_like(moved(whole, loaded)))
    again = learner_of(loaded, "bfloat16", loss=loss)
    load_checkpoint(path, again)
    assert again.version == 2
    assert again.update(batch_of(2)) == last
    assert torch.equal(moved(again, model), moved(whole, model))


def test_a_device_without_fsdp_is_refused(random_model, monkeypatch):
    monkeypatch.setattr("spiral.training.fsdp.BACKENDS", {"cuda": "nccl"})
    with pytest.raises(ValueError, match=r"bfloat16 on cpu, which PyTorch cannot shard on; .* set model\.compute to"):
        learner_of(random_model, "bfloat16")


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("compute", "within"), [("float32", 1e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_compiled_blocks_change_nothing_but_speed(random_model, compute, within, again):
    """With what they compute for the backward pass kept, or computed again, and under FSDP2."""
    options = {"loss": {"kl_coefficient": 0.1}, "layout": "packed", "epochs": 2, "gradient_checkpointing": again}
    plain, compiled = (learner_of(random_model, compute, compiled=on, **options) for on in (False, True))
    for seed in range(2):
        expected, got = plain.update(batch_of(seed)), compiled.update(batch_of(seed))
        assert got["loss/kl_reference"] == pytest.approx(expected["loss/kl_reference"], rel=10 * within, abs=1e-6)
        assert got["learner/grad_norm"] == pytest.approx(expected["learner/grad_norm"], rel=within)
    assert expected["loss/kl_reference"] > 1e-5  # the reference has stayed where it was
    similarity = torch.cosine_similarity(moved(plain, random_model), moved(compiled, random_model), dim=0)
    assert similarity > 1 - within


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_only_the_learners_passes_are_compiled(random_model, tokenizer, monkeypatch, again):
    """In float32 the sampler has the same model; what compiling it would do to a reply must not happen."""
    ran = []

    def noted(function, **_):
        return lambda *inputs, **options: ran.append(inputs[0]) or function(*inputs, **options)

    monkeypatch.setattr(torch, "compile", noted)
    learner = learner_of(random_model, "float32", compiled=True, gradient_checkpointing=again)
    layers = list(learner.model.base_model.layers)
    codec = ChatCodec(tokenizer, PromptConfig(observation="compact", thinking=False))
    sampler = TransformersPolicy(learner.model, codec, SamplingConfig(max_new_tokens=4))
    asked = requests_for(random_states(5, seed=1))
    before = replies_of(sampler, asked)
    assert reply_logprobs(sampler, [before[0].prompt_ids], ["1"])[0] < 0
    assert ran == []
    learner.update(batch_of())
    passes = len(ran) // len(layers)
    assert passes >= 3
    assert {id(block) for block in ran} == {id(block) for block in layers}
    if again:  # once forward and once more backward
        kept = learner_of(random_model, "float32", compiled=True)
        ran.clear()
        kept.update(batch_of())
        assert passes == 2 * (len(ran) // len(layers))
    ran.clear()
    assert replies_of(sampler, asked).keys() == before.keys()
    assert ran == []


def test_a_copy_of_a_compiled_model_runs_its_own_blocks(random_model):
    learner = learner_of(random_model, "float32", compiled=True)
    copied = copy.deepcopy(learner.model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
        assert copied(input_ids=torch.arange(9)[None]).logits.abs().max() == 0
        assert learner.model(input_ids=torch.arange(9)[None]).logits.abs().max() > 0
    assert copied.base_model.layers[0].forward.block is copied.base_model.layers[0]
