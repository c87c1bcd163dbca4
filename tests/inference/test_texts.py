"""Texts of models with windows, states and attention of their own: company changes nothing, and numbers are exact."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch

from families import family_model
from spiral.inference.base import PromptRequest
from spiral.inference.scoring import reply_logprobs
from spiral.inference.texts import CachedTexts, WholeTexts, make_texts
from spiral.inference.transformers import TransformersPolicy
from spiral.models.kinds import layer_kinds
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

LENGTHS = (3, 3, 90, 41, 7, 41, 60, 60)
"""Of prompts, of which the first two and the last two are equal; the windows of the families are 40 tokens."""
CACHED = ["mistral-window", "mistral-window-1", "gemma3", "gpt-oss", "qwen3-5", "lfm2", "falcon-h1", "mamba", "llama4"]
WHOLE = ["falcon-alibi", "bloom", "recurrent-gemma"]
FAST = ["mistral-window", "qwen3-5", "falcon-alibi"]


def policy_of(model, tokenizer, **options):
    codec = ChatCodec(tokenizer, PromptConfig(template="llama", observation="compact"))
    policy = TransformersPolicy(model, codec, SamplingConfig(max_new_tokens=12), **options)
    policy.stop_ids = frozenset()
    return policy


def requests(tokenizer):
    rng = np.random.default_rng(1)
    prompts = [rng.integers(1, len(tokenizer), length) for length in LENGTHS]
    prompts[1], prompts[-1] = prompts[0], prompts[-2]
    return [PromptRequest(key=key, prompt_ids=prompt, seed=key) for key, prompt in enumerate(prompts)]


def replies(policy, asked):
    policy.submit_prompts(asked)
    done = []
    while len(done) < len(asked):
        done += policy.poll()
    return [reply.generation for reply in sorted(done, key=lambda reply: reply.key)]


def plain_logprobs(model, prompt, generation):
    ids = torch.from_numpy(np.concatenate([prompt, generation.token_ids]))
    with torch.no_grad():
        logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    return logits.log_softmax(-1).gather(-1, ids[len(prompt) :, None]).squeeze(-1).numpy()


def check_replies(name, tokenizer):
    model, asked = family_model(name, len(tokenizer)), requests(tokenizer)
    company = replies(policy_of(model, tokenizer, max_rows=4), asked)
    for request, found in zip(asked, company, strict=True):
        (alone,) = replies(policy_of(model, tokenizer), [request])
        assert np.array_equal(alone.token_ids, found.token_ids)
        expected = plain_logprobs(model, request.prompt_ids, found)
        assert np.abs(found.logprobs - expected).max() < 1e-5
        assert np.abs(found.logprobs - alone.logprobs).max() < 1e-5
    return model


@pytest.mark.parametrize("name", ["mistral-window", "qwen3-5", "falcon-h1"])
def test_equal_prompts_are_computed_once(name, tokenizer, monkeypatch):
    model, rows = family_model(name, len(tokenizer)), []
    texts = CachedTexts(model)
    forward = texts._forward
    monkeypatch.setattr(texts, "_forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs))
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    alone = [texts.add(ids, [5]), texts.add(ids + 1, [5])]
    together = texts.add(torch.cat([ids, ids + 1, ids, ids]), [5, 5, 5, 5])
    assert rows == [1, 1, 2]
    assert torch.allclose(together, torch.cat([*alone, alone[0], alone[0]]), atol=1e-6)
    assert texts.cache.rows == 6
    following = texts.extend([3, 4, 3, 4, 3, 1], [5] * 6)
    assert torch.allclose(following[2:5], following[[0, 1, 0]], atol=1e-6)
    assert not torch.allclose(following[5], following[0], atol=1e-2)


@pytest.mark.parametrize("name", FAST)
def test_replies_are_exact_alone_and_in_company(name, tokenizer):
    model = check_replies(name, tokenizer)
    assert isinstance(make_texts(model), WholeTexts if name in WHOLE else CachedTexts)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*CACHED, *WHOLE} - {*FAST}))
def test_replies_of_other_families_are_exact_too(name, tokenizer):
    model = check_replies(name, tokenizer)
    assert isinstance(make_texts(model), WholeTexts if name in WHOLE else CachedTexts)


def test_a_cache_that_computes_something_else_is_not_used(tokenizer, monkeypatch, caplog):
    """A layer that forgets its state at every token."""
    model = family_model("lfm2", len(tokenizer))

    def forget(self, positions, reach):
        self._resize(len(positions))
        self._change(torch.zeros_like)

    monkeypatch.setattr("spiral.inference.slot_cache.StateLayer.begin_decode", forget)
    assert isinstance(make_texts(model), WholeTexts)
    assert isinstance(make_texts(model), WholeTexts)
    (said,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("this model of type 'lfm2' is sampled without a cache: every token computes its whole text")
    assert "its hidden states differ by" in said
    check = replies(policy_of(model, tokenizer), requests(tokenizer)[:2])
    assert np.abs(check[1].logprobs - plain_logprobs(model, requests(tokenizer)[1].prompt_ids, check[1])).max() < 1e-5


def test_given_replies_are_scored_within_the_window(tokenizer):
    """After a learner that packs has taken over attention, transformers builds no masks for it."""
    from spiral.training.attention import use_segment_attention

    policy = policy_of(family_model("mistral-window", len(tokenizer)), tokenizer)
    prompt, reply = requests(tokenizer)[1].prompt_ids, "check"
    plain = copy.deepcopy(policy.model)
    use_segment_attention(policy.model)
    (found,) = reply_logprobs(policy, [prompt], [reply])
    ids = np.concatenate([policy.codec.encode_reply(reply), [min(policy.codec.stop_ids)]])
    policy.stop_ids = frozenset(ids[-1:].tolist())
    (found,) = reply_logprobs(policy, [prompt], [reply])

    class Given:
        token_ids = ids

    assert found == pytest.approx(float(plain_logprobs(plain, prompt, Given).sum()), abs=1e-4)


def test_the_kinds_of_layers_are_those_of_the_configuration(tokenizer):
    kinds = {name: layer_kinds(family_model(name, 300).config) for name in ("llama", "mistral-window", "lfm2", "mamba")}
    assert kinds == {
        "llama": ["full_attention"] * 2,
        "mistral-window": ["sliding_attention"] * 2,
        "lfm2": ["conv", "full_attention"],
        "mamba": ["linear_attention"] * 2,
    }
