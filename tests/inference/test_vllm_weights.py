"""New weights in a running vLLM: it then says what a fresh one says that was started from the exported checkpoint."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import torch

from spiral.policies import SamplingConfig
from turns import random_states, replies_of, requests_for
from vllm_models import new_engine, plain_logprobs, reported_logprobs, save, tiny, untied, widened, with_vllm

pytestmark = with_vllm

REQUESTS = requests_for(random_states(50, seed=4), seed=1)
GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=40)
KINDS = {
    "tied-bfloat16": (widened, "bfloat16", "compute"),
    "tied-bfloat16-head": (widened, "bfloat16", "float32"),
    "untied-bfloat16-head": (lambda nano: untied(widened(nano)), "bfloat16", "float32"),
    "untied-float32": (lambda nano: untied(widened(nano)), "float32", "compute"),
    "qwen3-float32": (lambda nano: tiny("qwen3", nano.config.vocab_size), "float32", "compute"),
    "qwen2-float32": (lambda nano: tiny("qwen2", nano.config.vocab_size), "float32", "compute"),
}
"""How a model is made, in what it computes, and its head's precision."""


def trained(model):
    """Every weight moved a little, as after some steps of training."""
    generator = torch.Generator().manual_seed(1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * parameter.abs().mean() * noise)
    return other


def ask(policy):
    return list(replies_of(policy, REQUESTS).values())


def spoken(replies):
    return {reply.key: (reply.generation.token_ids.tolist(), reply.generation.logprobs.tolist()) for reply in replies}


@pytest.fixture(scope="module", params=KINDS, ids=list(KINDS))
def updated(request, nano, tmp_path_factory):
    """The old and the new model, an engine that was given the new one, and what it said before and after."""
    build, compute, head = KINDS[request.param]
    old = build(nano.model)
    new = trained(old)
    exported = save(new, nano.tokenizer, tmp_path_factory.mktemp("new"))
    first = save(old, nano.tokenizer, tmp_path_factory.mktemp("old"))
    policy = new_engine(first, nano.tokenizer, compute=compute, head=head)
    with contextlib.closing(policy):
        before = ask(policy)
        given = copy.deepcopy(new)
        policy.load_weights(given.named_parameters(), version=7)  # in float32 and with gradients on, as a learner's are
        with torch.no_grad():
            for parameter in given.parameters():
                parameter.zero_()  # what the learner does next must not reach the engine
        yield {"policy": policy, "new": new, "exported": exported, "precision": (compute, head), "before": before}


def test_an_updated_engine_says_what_a_fresh_one_says(updated, nano):
    after = ask(updated["policy"])
    compute, head = updated["precision"]
    with contextlib.closing(new_engine(updated["exported"], nano.tokenizer, compute=compute, head=head)) as fresh:
        expected = ask(fresh)
        fresh.sampling = GREEDY
        greedy = ask(fresh)
    assert torch.distributed.is_initialized()  # a learner may need it; the end of an engine leaves it alone
    assert spoken(after) == spoken(expected)
    assert {reply.generation.policy_version for reply in after} == {7}
    assert {reply.generation.policy_version for reply in updated["before"]} == {0}
    if compute == "float32":
        assert greedy_tokens_agree(updated["exported"], greedy)
    changed = sum(spoken(after)[key] != said for key, said in spoken(updated["before"]).items())
    assert changed == len(REQUESTS)


def greedy_tokens_agree(directory, replies):
    """Whether every token is the most likely one of the model that plain `from_pretrained` loads."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return set(plain_logprobs(model, replies, GREEDY)) == {0.0}


def test_an_updated_engine_has_the_log_probabilities_of_the_new_model(updated):
    replies = ask(updated["policy"])
    said, expected = reported_logprobs(replies), plain_logprobs(updated["new"], replies, updated["policy"].sampling)
    if updated["precision"][0] == "float32":
        assert said == pytest.approx(expected, abs=1e-4)
    else:
        assert np.mean(np.abs(said - expected)) < 2e-2


def test_weights_may_change_again_and_again(updated):
    policy, new = updated["policy"], updated["new"]
    said = spoken(ask(policy))
    with torch.no_grad():
        doubled = {name: 2 * parameter for name, parameter in new.named_parameters()}
    policy.load_weights(doubled.items(), version=8)
    assert spoken(ask(policy)) != said
    policy.load_weights(((name, value.bfloat16()) for name, value in new.named_parameters()), version=9)
    if updated["precision"][0] == "bfloat16":
        assert spoken(ask(policy)) == said
    policy.load_weights(new.named_parameters(), version=7)
    assert spoken(ask(policy)) == said


def test_weights_that_are_not_the_models_end_the_run(updated):
    """The last test of an engine: it cannot be used after this."""
    weights = dict(updated["new"].named_parameters())
    del weights["model.norm.weight"]
    with pytest.raises(RuntimeError, match=r"while loading weights of version 9: ValueError: .*'model\.norm\.weight'"):
        updated["policy"].load_weights(weights.items(), version=9)
    assert updated["policy"].version == 7
