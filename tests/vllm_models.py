"""What the tests of vLLM share: models that it can run on a CPU, engines, and the log-probabilities to compare with."""

from __future__ import annotations

import contextlib
import copy
import importlib.util

import numpy as np
import pytest
import torch

from spiral.agreement import begin_check
from spiral.agreement.differences import difference
from spiral.agreement.logprobs import plain_logprobs as plain_scores
from spiral.agreement.logprobs import sample_replies
from spiral.inference.engines import EngineConfig
from spiral.inference.sampling import sampling_logprobs
from spiral.inference.vllm import VllmPolicy
from spiral.models.head import output_head
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig

# What vLLM warns of is not ours to fix.
with_vllm = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed; `make test-all` has it"
    ),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]


def widened(model):
    """The same function of its input with attention heads of 32 instead of 16, the smallest that vLLM has on a CPU.

    Rotary embeddings turn dimension i with i + half by an angle that falls with i / half, so the old dimensions are
    every other one of the new ones. The others are zero. Scores are divided by the root of the size of a head.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    old = model.config
    assert old.head_dim == 16
    wide = LlamaForCausalLM(LlamaConfig(**(old.to_dict() | {"head_dim": 32}))).eval()
    rows = torch.cat([torch.arange(head * 32, (head + 1) * 32, 2) for head in range(old.num_attention_heads)])
    scale = {"q_proj": 2**0.5, "k_proj": 1.0, "v_proj": 1.0}
    given = model.state_dict()
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            projection = name.split(".")[-2]
            if projection in scale:
                parameter.zero_()[rows] = given[name] * scale[projection]
            elif projection == "o_proj":
                parameter.zero_()[:, rows] = given[name]
            else:
                parameter.copy_(given[name])
    return wide


def untied(model):
    """A copy whose output head is a weight of its own, and another one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    other = LlamaForCausalLM(LlamaConfig(**(model.config.to_dict() | {"tie_word_embeddings": False}))).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        other.lm_head.weight.mul_(0.9)
    return other


TINY = {
    "qwen3": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False},
}
"""Norms on queries and keys; biases on them; experts. What else the configurations of their kinds say."""


def tiny(kind, vocabulary):
    """A small model of another architecture, with random weights large enough for everything to matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **TINY[kind],
    )
    generator = torch.Generator().manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.1 if parameter.dim() > 1 else 0.3
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def save(model, tokenizer, directory):
    """A checkpoint as anybody would export it."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def new_engine(
    directory, tokenizer, *, compute="float32", head="compute", prompt=None, budget=40, trained=True, **engine
):
    """A `VllmPolicy` with room for the small models of tests, asked to think."""
    codec = ChatCodec(tokenizer, prompt or PromptConfig(observation="compact", thinking=True))
    config = EngineConfig(kind="vllm", memory_share=0.05, max_rows=64, **engine)
    sampling = SamplingConfig(max_new_tokens=budget)
    return VllmPolicy(str(directory), codec, sampling, config=config, compute=compute, head=head, trained=trained)


@torch.no_grad()
def plain_logprobs(model, replies, sampling, head="compute"):
    """[tokens] of all replies in order: what one forward pass over prompt and reply says, without any cache."""
    scores = []
    for reply in replies:
        prompt, sampled = reply.prompt_ids, torch.from_numpy(reply.generation.token_ids)
        ids = torch.cat([torch.from_numpy(prompt), sampled])[None]
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
        logits = output_head(model, head)(hidden)
        scores.append(sampling_logprobs(logits, sampling).gather(-1, sampled[:, None]).squeeze(-1).numpy())
    return np.concatenate(scores)


def reported_logprobs(replies):
    """[tokens] of all replies in order: what the engine said when it sampled them."""
    return np.concatenate([reply.generation.logprobs for reply in replies])


def moved(model, seed):
    """A copy with every number of every parameter changed, so that one that is not reloaded shows."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * parameter.std().clamp(min=0.05) * noise)
    return other


def gap(policy, check, model):
    """What the engine reports of replies that it samples now, against the model's own forward pass."""
    replies = sample_replies(policy, check.probes)
    sampled = [*replies.alone, *replies.batched]
    plain = plain_scores(model, sampled, replies.temperature)
    lengths = [len(reply.prompt_ids) for reply in sampled]
    return difference("vLLM", lengths, [reply.logprobs for reply in sampled], plain)


def measured(model, tokenizer, directory, **engine):
    """Nats: the largest difference of a token from the plain forward pass, as started and after each of two reloads."""
    prompt = PromptConfig(template="llama", observation="compact")
    policy = new_engine(save(model, tokenizer, directory), tokenizer, prompt=prompt, budget=8, context=256, **engine)
    with contextlib.closing(policy):
        check = begin_check(policy, model, "float32")
        check.engine()
        gaps = [max(found.max for found in check.differences)]
        for version in (1, 2):
            new = moved(model, version)
            assert gap(policy, check, new).mean > 0.02, "the change is too small to show"
            policy.load_weights(new.named_parameters(), version)
            found = gap(policy, check, new)
            assert found.within(check.tolerance), f"reload {version}: {found}"
            gaps.append(found.max)
    return gaps
