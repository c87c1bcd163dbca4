"""Exact probabilities of given replies, without sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from spiral.policies.loading import compute_precision
from spiral.policies.transformers import TransformersPolicy
from spiral.records import IntArray

ROWS = 256


@torch.no_grad()
def reply_logprobs(policy: TransformersPolicy, prompts: list[IntArray], replies: list[str]) -> list[float]:
    """The log-probability (nats) that each prompt [P] is answered by exactly the given text and the end of turn.

    Under the policy's temperature; top-p is not applied. The reply's usual tokenisation is scored; the same text
    spelled with other tokens is not counted.
    """
    tokenizer = policy.codec.tokenizer
    ends = [
        np.asarray([*tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id]) for reply in replies
    ]
    scores: list[float] = []
    for start in range(0, len(prompts), ROWS):
        pairs = list(zip(prompts[start : start + ROWS], ends[start : start + ROWS], strict=True))
        scores.extend(_score(policy, pairs))
    return scores


def _score(policy: TransformersPolicy, pairs: list[tuple[IntArray, Any]]) -> list[float]:
    """One padded forward pass."""
    model, width = policy.model, max(len(prompt) + len(reply) for prompt, reply in pairs)
    token_ids = np.zeros((len(pairs), width), dtype=np.int64)
    for row, (prompt, reply) in enumerate(pairs):
        token_ids[row, : len(prompt) + len(reply)] = np.concatenate([prompt, reply])
    ids_NW = torch.from_numpy(token_ids).to(model.device)
    with compute_precision(model, policy.compute):
        logits_NWV = model(input_ids=ids_NW, use_cache=False).logits
    logprobs_NWV = torch.log_softmax(logits_NWV.float() / (policy.sampling.temperature or 1.0), dim=-1)
    return [
        float(logprobs_NWV[row, len(prompt) - 1 : len(prompt) + len(reply) - 1].gather(
            -1, ids_NW[row, len(prompt) : len(prompt) + len(reply), None]).sum())
        for row, (prompt, reply) in enumerate(pairs)
    ]  # fmt: skip
