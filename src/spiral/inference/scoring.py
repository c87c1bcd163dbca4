"""Exact log-probabilities of given replies, without sampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from spiral.core.records import IntArray
from spiral.inference.sampling import sampling_logprobs
from spiral.inference.transformers import TransformersPolicy
from spiral.models.layers import whole_texts

ROWS = 64


@torch.no_grad()
def reply_logprobs(
    policy: TransformersPolicy,
    prompts: list[IntArray],
    replies: list[str],
    watch: Callable[[int, int], object] = lambda *_: None,
) -> list[float]:
    """The log-probability, in nats, of answering each prompt [P] with exactly the given text.

    It is that of the distribution sampled from, temperature and top-p included. A reply ends with an end of turn, or
    without one when its budget is used up; a longer reply has probability 0. Only the usual tokenisation of the reply
    is scored, not other spellings of the same text.

    Args:
        policy: The policy that answers.
        prompts: Token ids, each [P].
        replies: One text per prompt.
        watch: Called with the number of replies scored so far and of all replies.
    """
    spelled = [policy.codec.encode_reply(reply) for reply in replies]
    budgets = [policy.budget(prompt) for prompt in prompts]
    # A prompt that fills the context is answered by nothing at all.
    scores = [
        0.0 if budget <= 0 and not len(reply) else -math.inf for reply, budget in zip(spelled, budgets, strict=True)
    ]
    fitting = [row for row, budget in enumerate(budgets) if 0 < budget >= len(spelled[row])]
    for start in range(0, len(fitting), ROWS):
        rows = fitting[start : start + ROWS]
        ended = [len(spelled[row]) < budgets[row] for row in rows]
        found = _score(policy, [(prompts[row], spelled[row]) for row in rows], ended)
        for row, score in zip(rows, found, strict=True):
            scores[row] = score
        watch(start + len(rows), len(fitting))
    return scores


def _score(policy: TransformersPolicy, pairs: list[tuple[IntArray, IntArray]], ended: list[bool]) -> list[float]:
    """One padded forward pass; logits only at the T + 1 positions that predict a reply [T] and its end.

    `ended` says for each pair whether an end of turn must follow.
    """
    policy.wake()
    model, width = policy.model, max(len(prompt) + len(reply) for prompt, reply in pairs)
    token_ids = np.zeros((len(pairs), width), dtype=np.int64)
    for row, (prompt, reply) in enumerate(pairs):
        token_ids[row, : len(prompt) + len(reply)] = np.concatenate([prompt, reply])
    counts = [len(reply) + 1 for _, reply in pairs]
    rows_K = torch.arange(len(pairs)).repeat_interleave(torch.tensor(counts))
    positions_K = torch.cat([torch.arange(len(prompt) - 1, len(prompt) + len(reply)) for prompt, reply in pairs])
    ids_NW = torch.from_numpy(token_ids).to(model.device)
    hidden_NWD = whole_texts(model, ids_NW)
    logits_KV = policy.logits(hidden_NWD[rows_K, positions_K])
    logprobs_KV = sampling_logprobs(logits_KV, policy.sampling).cpu()
    ends = sorted(policy.stop_ids)
    scores = []
    for (_, reply), logprobs_TV, must_end in zip(pairs, torch.split(logprobs_KV, counts), ended, strict=True):
        end = float(logprobs_TV[-1, ends].logsumexp(0)) if must_end else 0.0
        scores.append(float(logprobs_TV[np.arange(len(reply)), reply].sum()) + end)
    return scores
