"""Exact probabilities of given replies, without sampling."""

from __future__ import annotations

import numpy as np
import torch

from spiral.policies.language import stop_token_ids
from spiral.policies.sampling import sampling_logprobs
from spiral.policies.transformers import TransformersPolicy
from spiral.records import IntArray

ROWS = 64


@torch.no_grad()
def reply_logprobs(policy: TransformersPolicy, prompts: list[IntArray], replies: list[str]) -> list[float]:
    """The log-probability (nats) that each prompt [P] is answered by exactly the given text and an end of turn.

    Under the distribution that the policy samples from, temperature and top-p included. The reply's usual
    tokenisation is scored; the same text spelled with other tokens is not counted.
    """
    tokenizer = policy.codec.tokenizer
    spelled = [np.asarray(tokenizer.encode(reply, add_special_tokens=False), dtype=np.int64) for reply in replies]
    scores: list[float] = []
    for start in range(0, len(prompts), ROWS):
        pairs = list(zip(prompts[start : start + ROWS], spelled[start : start + ROWS], strict=True))
        scores.extend(_score(policy, pairs))
    return scores


def _score(policy: TransformersPolicy, pairs: list[tuple[IntArray, IntArray]]) -> list[float]:
    """One padded forward pass; logits only where a token of a reply [T] or its end is predicted, T + 1 places each."""
    policy.wake()
    model, width = policy.model, max(len(prompt) + len(reply) for prompt, reply in pairs)
    token_ids = np.zeros((len(pairs), width), dtype=np.int64)
    for row, (prompt, reply) in enumerate(pairs):
        token_ids[row, : len(prompt) + len(reply)] = np.concatenate([prompt, reply])
    counts = [len(reply) + 1 for _, reply in pairs]
    rows_K = torch.arange(len(pairs)).repeat_interleave(torch.tensor(counts))
    places_K = torch.cat([torch.arange(len(prompt) - 1, len(prompt) + len(reply)) for prompt, reply in pairs])
    ids_NW = torch.from_numpy(token_ids).to(model.device)
    hidden_NWD = model.base_model(input_ids=ids_NW, use_cache=False).last_hidden_state
    logits_KV = policy.logits(hidden_NWD[rows_K, places_K])
    logprobs_KV = sampling_logprobs(logits_KV, policy.sampling).cpu()
    ends = sorted(stop_token_ids(policy.codec.tokenizer))
    return [
        float(logprobs_TV[np.arange(len(reply)), reply].sum() + logprobs_TV[-1, ends].logsumexp(0))
        for (_, reply), logprobs_TV in zip(pairs, torch.split(logprobs_KV, counts), strict=True)
    ]
