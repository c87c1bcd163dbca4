"""The output head in float32 over blocks in bfloat16: exact logits, the gradient of the plain head, one option."""

from __future__ import annotations

import copy
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from families import family_model
from made_up import random_samples
from spiral.inference.scoring import reply_logprobs
from spiral.inference.transformers import TransformersPolicy
from spiral.inference.vllm_engine import _check_head
from spiral.launch import assemble
from spiral.models.head import WideHead, output_head
from spiral.models.loading import cast_parameters
from spiral.policies import SamplingConfig
from spiral.runs.recipe import load_recipe
from spiral.text import ChatCodec, PromptConfig
from spiral.training.batch import make_batch
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.logprobs import hidden_states, score_tokens
from spiral.training.loss import LossConfig
from spiral.training.packing import micro_batches
from turns import random_states, replies_of, requests_for
from vllm_models import untied

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS = ("float32", "compute")


def rounded(model):
    """A copy in bfloat16."""
    other = copy.deepcopy(model)
    cast_parameters(other, torch.bfloat16)
    return other


def exact_logits(model, hidden):
    """Products of the bfloat16 numbers as they are, summed so finely that only the last bit is in doubt."""
    return (hidden.double() @ model.get_output_embeddings().weight.double().t()).float()


def batch_of(model):
    """A batch whose log-probabilities are those of a bfloat16 copy with exact logits."""
    batch = make_batch(random_samples(8, 400, 0))
    copied = rounded(model)
    (rows,) = micro_batches(batch, torch.arange(8), "padded", 10_000)
    with torch.no_grad():
        logits = exact_logits(copied, hidden_states(copied, rows))
        ids = batch.action_ids_A[rows.action_K]
        batch.behaviour_logprobs_A[rows.action_K] = logits.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
    return batch


def learner_of(model, head, compute="bfloat16", **loss):
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(learning_rate=1e-3, epochs=1, tokens_per_microbatch=10_000),
        loss_config=LossConfig(**loss),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=10,
        seed=0,
        compute=compute,
        head=head,
    )


def moved(learner, model):
    before = dict(model.named_parameters())
    return {name: (weight - before[name]).detach() for name, weight in learner.weights()}


def policy_of(model, tokenizer, head):
    codec = ChatCodec(tokenizer, PromptConfig(observation="compact", thinking=False))
    return TransformersPolicy(rounded(model), codec, SamplingConfig(max_new_tokens=12), head=head)


def test_logits_are_not_rounded(random_model):
    model = rounded(random_model)
    hidden = torch.randn(50, 64).bfloat16()
    wide = output_head(model, "float32")
    assert isinstance(wide, WideHead)
    assert wide(hidden).dtype == torch.float32
    assert (wide(hidden) - exact_logits(model, hidden)).abs().max() < 1e-5
    plain = output_head(model, "compute")
    assert plain is model.get_output_embeddings()
    assert (plain(hidden) - exact_logits(model, hidden)).abs().max() > 1e-3


def test_a_bias_is_added(random_model):
    linear = torch.nn.Linear(64, 10).bfloat16()
    hidden = torch.randn(5, 64).bfloat16()
    expected = hidden.double() @ linear.weight.double().t() + linear.bias.double()
    assert (WideHead(linear)(hidden) - expected).abs().max() < 1e-5


def test_the_gradient_is_that_of_the_plain_head(random_model):
    linear = rounded(random_model).get_output_embeddings()
    hidden = torch.randn(50, 64).bfloat16().requires_grad_()
    upstream = torch.randn(50, len(linear.weight))
    given = {}
    for name, head in (("wide", WideHead(linear)), ("plain", linear)):
        logits = head(hidden).float()
        given[name] = torch.autograd.grad((logits * upstream).sum(), (hidden, linear.weight))
    for wide, plain in zip(given["wide"], given["plain"], strict=True):
        assert wide.abs().max() > 0
        assert torch.equal(wide, plain)


@pytest.mark.parametrize("entropy", [True, False])
def test_chunks_change_nothing(random_model, entropy):
    model = rounded(random_model)
    targets = torch.arange(100)
    given = []
    for elements in (10**9, 7 * model.config.vocab_size):
        hidden = torch.randn(100, 64, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
        head = output_head(model, "float32")
        scores = score_tokens(hidden, head, targets, 0.7, chunk_elements=elements, entropy_gradient=entropy)
        (scores.logprobs_K.sum() + (scores.entropy_K.sum() if entropy else 0.0)).backward()
        given.append((scores.logprobs_K.detach(), scores.entropy_K.detach(), hidden.grad.float()))
    for whole, chunked in zip(*given, strict=True):
        assert whole == pytest.approx(chunked, abs=1e-5)


@pytest.mark.parametrize("build", [copy.deepcopy, untied], ids=["tied", "untied"])
def test_the_learner_says_what_the_rounded_weights_say(random_model, build):
    """Its weights are float32; those that count are the ones that an engine in bfloat16 is given."""
    model = build(random_model)
    gaps, changes = {}, {}
    for head in HEADS:
        learner = learner_of(model, head)
        gaps[head] = learner.update(batch_of(model))["sampler/gap_mean"]
        changes[head] = moved(learner, model)
    assert gaps["float32"] < 1e-6
    assert gaps["compute"] > 1e-4
    for name, change in changes["float32"].items():
        assert change.abs().max() > 0, name
        assert cosine_similarity(change.flatten(), changes["compute"][name].flatten(), dim=0) > 0.9, name
    assert ("lm_head.weight" in changes["float32"]) == (build is untied)


def test_policy_and_reference_begin_as_one(random_model):
    learner = learner_of(random_model, "float32", kl_coefficient=0.1)
    assert abs(learner.update(batch_of(random_model))["loss/kl_reference"]) < 1e-6
    assert learner.update(batch_of(random_model))["loss/kl_reference"] > 1e-5


class Recording(TransformersPolicy):
    """Keeps what it made logits of."""

    def logits(self, hidden):
        made = super().logits(hidden)
        self.seen.append((hidden, made))
        return made


def test_the_engine_samples_from_exact_logits(random_model, tokenizer):
    policy = policy_of(random_model, tokenizer, "float32")
    policy.__class__, policy.seen = Recording, []
    replies = replies_of(policy, requests_for(random_states(12, seed=3)))
    assert len(policy.seen) > 10
    for hidden, logits in policy.seen:
        assert (hidden.dtype, logits.dtype) == (torch.bfloat16, torch.float32)
        assert (logits - exact_logits(policy.model, hidden)).abs().max() < 1e-5
    logprobs = torch.cat([logits.log_softmax(-1).flatten() for _, logits in policy.seen]).numpy()
    said = np.concatenate([reply.generation.logprobs for reply in replies.values()])
    assert np.isin(said, logprobs).all()
    assert policy.precision == "bfloat16, head float32"


def test_new_weights_reach_the_engines_head(random_model, tokenizer):
    policy = policy_of(random_model, tokenizer, "float32")
    hidden = torch.randn(5, 64).bfloat16()
    before = policy.logits(hidden)
    doubled = ((name, 2 * weight) for name, weight in random_model.named_parameters())
    policy.load_weights(doubled, 1)
    assert torch.equal(policy.logits(hidden), 2 * before)


def test_replies_are_scored_with_the_head_that_speaks(random_model, tokenizer):
    prompts = [np.arange(4, 12), np.arange(6, 20)]
    scores = {head: reply_logprobs(policy_of(random_model, tokenizer, head), prompts, ["1", "2"]) for head in HEADS}
    assert scores["float32"] == pytest.approx(scores["compute"], rel=0.05)
    assert scores["float32"] != scores["compute"]


def test_in_float32_the_option_changes_nothing(random_model):
    assert output_head(random_model, "float32") is random_model.get_output_embeddings()
    first, second = (learner_of(random_model, head, compute="float32") for head in HEADS)
    assert first.update(batch_of(random_model)) == second.update(batch_of(random_model))


@pytest.mark.parametrize("head", HEADS)
def test_a_run_uses_the_head_that_its_recipe_names(head, tmp_path):
    overrides = ["model.compute=bfloat16", "model.device=cpu", f"model.head={head}", "loss.kl_coefficient=0.1"]
    run = assemble(load_recipe("nano", [*overrides, "selfplay.episodes_per_step=8"]), tmp_path / head)
    assert ("head float32" in run.policy.precision) == (head == "float32")
    hidden = torch.randn(3, 64).bfloat16()
    assert run.policy.logits(hidden).dtype == (torch.float32 if head == "float32" else torch.bfloat16)
    assert run.learner._scorer.head_precision == head


@pytest.mark.parametrize(
    ("found", "named"), [({None}, "None"), ({torch.bfloat16}, "torch.bfloat16"), (set(), "an unknown precision")]
)
def test_a_vllm_that_ignores_the_wish_is_refused(monkeypatch, found, named):
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "0.11", raising=False)
    with pytest.raises(ValueError, match=rf"vLLM 0\.11 computes .*{named}; expected vLLM 0\.32 or newer .*model\.head"):
        _check_head(SimpleNamespace(apply_model=lambda function: [found]))
    _check_head(SimpleNamespace(apply_model=lambda function: [{torch.float32}]))


@pytest.mark.parametrize("name", ["granite-scaled", "cohere-scaled", "gemma3-capped"])
def test_scaled_and_capped_logits_are_the_models_own(name, tokenizer):
    model, ids = family_model(name, len(tokenizer)), torch.arange(5, 30)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits[0]
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        plain = model.get_output_embeddings()(hidden)
        for precision in HEADS:
            assert torch.equal(output_head(model, precision)(hidden), whole)
    assert not torch.allclose(plain, whole, atol=1e-3)
    assert output_head(model, "compute").weight is model.get_output_embeddings().weight


def test_capped_logits_of_bfloat16_are_float32_and_have_a_gradient(tokenizer):
    model = rounded(family_model("gemma3-capped", len(tokenizer)))
    hidden = torch.randn(3, 64).bfloat16().requires_grad_()
    logits = output_head(model, "float32")(hidden)
    expected = torch.tanh(exact_logits(model, hidden) / 30) * 30
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=1e-5)
    (wide,) = torch.autograd.grad(logits[:, 7].sum(), hidden)
    (plain,) = torch.autograd.grad(expected[:, 7].sum(), hidden)
    assert cosine_similarity(wide.flatten().float(), plain.flatten().float(), dim=0) > 0.999


def test_a_head_that_changes_nothing_is_the_linear_layer_itself(random_model):
    assert output_head(random_model, "compute") is random_model.get_output_embeddings()


def test_a_head_that_cannot_be_computed_apart_is_refused(random_model):
    class Stubborn(type(random_model)):
        def forward(self, *inputs, **options):
            return super().forward(*inputs, **options)

    model = Stubborn(random_model.config)
    with pytest.raises(
        ValueError, match=r"^the logits of Stubborn cannot be computed apart from its blocks \(TypeError"
    ):
        output_head(model, "compute")
