"""Engine, learner and plain forward pass of many families agree, or the model is refused with the numbers."""

import copy
import json

import numpy as np
import pytest
import torch

from families import FAMILIES, family_model
from spiral.agreement import DisagreementError, begin_check, probe_batch, run_check, tolerance_of
from spiral.agreement.differences import difference
from spiral.agreement.logprobs import Reply
from spiral.agreement.over_processes import LearnerCheck, compare_with_learner, sample_probes
from spiral.agreement.probes import make_probes
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig
from spiral.training.layout import unpackable
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.lora import LoraConfig
from spiral.training.loss import LossConfig

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

SAMPLING = SamplingConfig(max_new_tokens=16)
FAST = [
    "llama",
    "qwen3",
    "phi3-longrope",
    "gpt2",
    "opt",
    "falcon",
    "mixtral",
    "deepseek-v3",
    "gemma3-capped",
    "qwen3-5",
]
OWN_ATTENTION = {"falcon", "falcon-new", "stablelm", "nemotron"}
"""Families whose attention takes no keyword arguments, so that their samples cannot be packed."""


def engine_of(model, tokenizer, sampling=SAMPLING, **options):
    codec = ChatCodec(tokenizer, PromptConfig(template="llama", observation="compact"))
    return TransformersPolicy(copy.deepcopy(model), codec, sampling, **options)


def learner_of(model, *, sampling=SAMPLING, lora=None, **config):
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(tokens_per_microbatch=300, **config),
        loss_config=LossConfig(),
        sampling=sampling,
        total_steps=3,
        seed=0,
        lora=lora,
    )


def check_family(name, tokenizer):
    """Every way to compute a family, against its plain forward pass; "packed" only where "auto" does not pad."""
    model = family_model(name, len(tokenizer))
    check = begin_check(engine_of(model, tokenizer), model, "float32")
    check.engine()
    known = unpackable(model.config, model.config._attn_implementation)
    for layout in ("padded",) if known else ("padded", "packed"):
        for checkpointing in (False, True):
            options = {"learner.layout": layout, "learner.gradient_checkpointing": checkpointing}
            learner = learner_of(model, layout=layout, gradient_checkpointing=checkpointing)
            if layout == "packed" and name in OWN_ATTENTION:
                with pytest.raises(DisagreementError, match=r"is 'packed'.*set learner.layout to 'padded'"):
                    check.learner(learner, options)
            elif layout == "packed" and name == "doge":
                with pytest.raises(DisagreementError, match=r'0\.\d+ nats a token .* set learner.layout = "padded"'):
                    check.learner(learner, options)
                check.differences.pop()
            else:
                check.learner(learner, options)
    return check.differences


def assert_agreement(differences):
    assert len(differences) >= 4
    assert max(found.mean for found in differences) < 5e-6
    assert max(found.max for found in differences) < 5e-5


@pytest.mark.parametrize("name", FAST)
def test_a_family_is_computed_rightly_in_every_way(tokenizer, name):
    differences = check_family(name, tokenizer)
    assert differences
    assert_agreement(differences)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(FAST) - {"recurrent-gemma", "rwkv"}))
def test_another_family_is_computed_rightly_in_every_way(tokenizer, name):
    differences = check_family(name, tokenizer)
    assert differences
    assert_agreement(differences)


def test_what_fails_in_the_models_own_code_is_refused(random_model, tokenizer, monkeypatch):
    engine = engine_of(random_model, tokenizer)

    def fail(*_, **__):
        raise IndexError("index 7 is out of bounds\nfor some reason")

    monkeypatch.setattr(engine.model.model.rotary_emb, "forward", fail)
    with pytest.raises(DisagreementError) as refused:
        begin_check(engine, random_model, "float32")
    assert str(refused.value) == (
        "the transformers engine cannot compute this model of type 'llama': IndexError: index 7 is out of bounds"
    )


def test_layers_in_another_order_in_the_engine_are_refused(random_model, tokenizer):
    engine = engine_of(random_model, tokenizer)
    layers = engine.model.model.layers
    layers[0].load_state_dict(random_model.model.layers[1].state_dict())
    layers[1].load_state_dict(random_model.model.layers[0].state_dict())
    with pytest.raises(DisagreementError, match=r"engine, one prompt at a time.* nats a token in .*explains 0\.001"):
        begin_check(engine, random_model, "float32").engine()


@pytest.mark.parametrize("fault", ["attention scale", "stale head", "one position late", "one layer left out"])
def test_other_faults_of_an_engine_are_refused(random_model, tokenizer, fault, monkeypatch):
    engine = engine_of(random_model, tokenizer)
    model = engine.model
    with torch.no_grad():
        if fault == "attention scale":
            model.model.layers[1].self_attn.scaling *= 1.3
        elif fault == "stale head":
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 1.1)
        elif fault == "one layer left out":
            model.model.layers[1].self_attn.o_proj.weight.zero_()
            model.model.layers[1].mlp.down_proj.weight.zero_()
        else:
            late = property(lambda row: len(row.turn.prompt_ids) + len(row.token_ids) - (len(row.token_ids) < 4))
            monkeypatch.setattr("spiral.inference.transformers._Row.position", late)
    with pytest.raises(DisagreementError, match="rounding explains"):
        begin_check(engine, random_model, "float32").engine()


def test_replies_that_depend_on_company_are_refused(random_model, tokenizer, monkeypatch):
    """The longest prompt of a batch changes everybody's frequencies, as longrope does it."""
    engine = engine_of(random_model, tokenizer)
    rotary = engine.model.model.rotary_emb
    plain = rotary.inv_freq.clone()
    forward = rotary.forward

    def switching(x, position_ids):
        rotary.inv_freq = plain / 4 if int(position_ids.max()) > 80 and len(position_ids) > 4 else plain
        return forward(x, position_ids)

    monkeypatch.setattr(rotary, "forward", switching)
    with pytest.raises(DisagreementError, match="all prompts at once"):
        begin_check(engine, random_model, "float32").engine()


class AlwaysDropped(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs, **options):
        return torch.nn.functional.dropout(self.inner(*inputs, **options), 0.1, training=True)


@pytest.mark.parametrize("config", [{}, {"layout": "packed", "gradient_checkpointing": True}])
def test_dropout_forced_on_in_the_learner_is_refused(random_model, tokenizer, config):
    check = begin_check(engine_of(random_model, tokenizer), random_model, "float32")
    check.engine()
    learner = learner_of(random_model, **config)
    learner.model.model.layers[0].mlp = AlwaysDropped(learner.model.model.layers[0].mlp)
    options = {f"learner.{name}": value for name, value in config.items()}
    with pytest.raises(DisagreementError, match=r"^two ways .* learner.* nats a token in the mean") as refused:
        check.learner(learner, options)
    assert ("learner.gradient_checkpointing = false" in str(refused.value)) == bool(config)


def test_the_learner_scores_low_rank_layers_and_other_temperatures(random_model, tokenizer):
    sampling = SamplingConfig(max_new_tokens=16, temperature=0.5)
    check = begin_check(engine_of(random_model, tokenizer, sampling), random_model, "float32")
    assert check.tolerance == tolerance_of("float32", 0.5)
    check.engine()
    learner = learner_of(random_model, sampling=sampling, lora=LoraConfig(rank=4))
    check.learner(learner, {"lora.rank": 4})
    assert "lora.rank = 4" in check.differences[-1].pair
    assert max(found.mean for found in check.differences) < 1e-5


def test_greedy_policies_are_checked_too(random_model, tokenizer):
    engine = engine_of(random_model, tokenizer, SamplingConfig(max_new_tokens=16, temperature=0.0, top_p=0.9))
    check = begin_check(engine, random_model, "float32")
    check.engine()
    assert all((reply.logprobs < 0).all() for reply in check.replies.batched)
    assert engine.sampling.temperature == 0
    assert engine.stop_ids


def test_an_engine_that_does_not_take_new_weights_is_refused(random_model, tokenizer):
    engine = engine_of(random_model, tokenizer)
    check = begin_check(engine, random_model, "float32")
    learner = learner_of(random_model, learning_rate=1e-3)
    learner.update(probe_batch(check.replies.batched))
    with pytest.raises(DisagreementError, match=r"against the learner, after an update: .* nats a token"):
        check.updated(learner, {})
    engine.load_weights(learner.weights(), learner.version)
    check.updated(learner, {})


def test_engine_and_learner_in_different_processes(random_model, tokenizer):
    engine = engine_of(random_model, tokenizer)
    check = LearnerCheck(copy.deepcopy(random_model), engine.codec, "float32", 1.0)
    learner = learner_of(random_model, layout="packed")
    check.compare(learner, {})
    replies = sample_probes(engine, random_model.config, 100_000, "cpu", ["kuhn_poker"])
    compare_with_learner(replies, learner, "llama", "float32", "vllm")
    with torch.no_grad():
        learner.model.model.layers[0].self_attn.q_proj.weight.mul_(1.2)
    with pytest.raises(DisagreementError, match=r"learner against the plain forward pass: .* nats a token"):
        check.compare(learner, {})
    with pytest.raises(DisagreementError, match=r"vllm engine, one prompt at a time, against the learner: .* nats"):
        compare_with_learner(replies, learner, "llama", "float32", "vllm")


def test_texts_are_long_enough_for_what_changes_with_length(random_model, tokenizer):
    config = copy.deepcopy(random_model.config)
    config.sliding_window = 128
    codec = engine_of(random_model, tokenizer).codec

    def lengths(parameters, context=512, device="cpu"):
        probes = make_probes(codec, config, parameters=parameters, device=device, context=context)
        return sorted(len(prompt) for prompt in probes.prompts), probes

    small, probes = lengths(100_000)
    assert {124, 144} <= set(small)
    assert probes.not_crossed == ()
    assert len(probes.prompts[probes.alone[-1]]) == 124
    large, probes = lengths(7_000_000_000)
    assert large == [16, 70]
    assert (probes.alone, probes.again, probes.new_tokens) == ((), (1,), 3)
    assert probes.not_crossed == ("window at 128 tokens",)
    assert lengths(7_000_000_000, device="cuda")[0][-1] == 144
    assert lengths(100_000, context=130)[0][-1] < 124
    assert max(lengths(100_000, context=12)[0]) == 9


def test_numbers_that_are_not_finite_agree_with_nothing():
    found = difference("a", [3], [np.array([0.0, np.nan], np.float32)], [np.zeros(2, np.float32)])
    assert found.max == np.inf
    assert not found.within(tolerance_of("bfloat16"))
    assert not difference("a", [3], [np.array([-np.inf])], [np.array([-np.inf])]).within(tolerance_of("bfloat16"))


def test_a_passed_check_is_not_repeated(random_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    directory = tmp_path / "model"
    random_model.save_pretrained(directory)
    engine, asked = engine_of(random_model, tokenizer), []

    def plain():
        asked.append(1)
        return random_model

    def compared(**settings):
        before = len(asked)
        run_check(engine, plain, str(directory), "float32", settings, kept=True)
        return len(asked) > before

    assert compared()
    assert not compared()
    assert compared(layout="packed")
    (first, _) = sorted((tmp_path / "home" / "agreement").glob("*.json"), key=lambda path: path.stat().st_mtime)
    assert [found["mean"] < 1e-5 for found in json.loads(first.read_text())["differences"]] == [True, True]
    changed = copy.deepcopy(random_model)
    with torch.no_grad():
        changed.model.norm.weight.mul_(1.01)
    changed.save_pretrained(directory)
    with pytest.raises(DisagreementError, match="rounding explains"):
        run_check(engine, lambda: changed, str(directory), "float32", {}, kept=True)
    with pytest.raises(DisagreementError, match="rounding explains"):  # what is refused is not kept
        run_check(engine, lambda: changed, str(directory), "float32", {}, kept=True)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_scoring_leaves_a_learner_as_it_was(random_model, tokenizer, compute):
    learner = Learner(
        copy.deepcopy(random_model), config=LearnerConfig(), loss_config=LossConfig(), sampling=SAMPLING,
        total_steps=3, seed=0, compute=compute,
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in learner.weights()}
    text = np.arange(40) % len(tokenizer)
    replies = [Reply(prompt_ids=text[:30], token_ids=text[30:], logprobs=np.zeros(10, dtype=np.float32))]
    first, second = (learner.score(probe_batch(replies)) for _ in range(2))
    assert np.array_equal(first, second)
    after = dict(learner.weights())
    assert all(weight.dtype == torch.float32 and torch.equal(weight, after[name]) for name, weight in before.items())
    names = {id(parameter) for parameter in learner.model.parameters()}
    assert names == {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
