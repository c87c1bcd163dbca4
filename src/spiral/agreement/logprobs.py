"""Log-probabilities of the same sampled tokens by engine, plain forward pass and learner.

Shapes: P tokens of a prompt, T of a reply, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from spiral.agreement.probes import Probes
from spiral.core.policy import SamplingConfig, TurnReply
from spiral.core.records import FloatArray, IntArray, Sample
from spiral.core.seeds import derive_seed
from spiral.inference.base import LanguagePolicy, PromptRequest
from spiral.training.batch import Batch, make_batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """The reply to one probe, as the engine reports it."""

    prompt_ids: IntArray
    """[P]"""
    token_ids: IntArray
    """[T]"""
    logprobs: FloatArray
    """[T] nats at temperature `Replies.temperature`, with the whole vocabulary in play."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replies:
    """An engine's replies to the probes."""

    alone: tuple[Reply, ...]
    """Replies to some of the probes, one at a time."""
    batched: tuple[Reply, ...]
    """Replies to all probes, in one batch."""
    temperature: float


class Scores(Protocol):
    """A learner that scores sampled tokens."""

    def score(self, batch: Batch) -> FloatArray:
        """[A] the log-probabilities of a batch's action tokens."""
        ...


def sample_replies(policy: LanguagePolicy, probes: Probes, *, again: bool = False) -> Replies:
    """Samples replies to some probes one at a time, then to all in one batch.

    No reply ends before its budget. The policy's settings are restored.

    Args:
        policy: The engine.
        probes: The prompts.
        again: Samples only `probes.again`, in one batch.
    """
    requests = [
        PromptRequest(key=key, prompt_ids=prompt, seed=derive_seed("agreement", key))
        for key, prompt in enumerate(probes.prompts)
    ]
    with _probed(policy, probes.new_tokens) as temperature:
        single = [] if again else [_replies(policy, [requests[index]])[0] for index in probes.alone]
        batched = _replies(policy, [requests[index] for index in probes.again] if again else requests)
    return Replies(alone=tuple(single), batched=tuple(batched), temperature=temperature)


@contextmanager
def _probed(policy: LanguagePolicy, new_tokens: int) -> Iterator[float]:
    """Context manager in which replies have `new_tokens` tokens from the whole vocabulary; yields the temperature.

    A greedy reply has log-probability 0 whatever the model says, so greedy policies are probed at temperature 1.
    """
    temperature = policy.sampling.temperature or 1.0
    stops, slept = policy.stop_ids, policy.asleep
    policy.stop_ids = frozenset()
    try:
        with policy.sampled_with(SamplingConfig(temperature=temperature, max_new_tokens=new_tokens)):
            yield temperature
    finally:
        policy.stop_ids = stops
        policy.cancel()
        if slept:
            policy.sleep()


def _replies(policy: LanguagePolicy, requests: Sequence[PromptRequest]) -> list[Reply]:
    policy.submit_prompts(requests)
    done: list[TurnReply] = []
    while len(done) < len(requests):
        done += policy.poll()
    return [_reply(turn) for turn in sorted(done, key=lambda turn: turn.key)]


def _reply(turn: TurnReply) -> Reply:
    assert turn.prompt_ids is not None
    assert turn.generation is not None
    generation = turn.generation
    return Reply(prompt_ids=turn.prompt_ids, token_ids=generation.token_ids, logprobs=generation.logprobs)


@torch.no_grad()
def plain_logprobs(model: Any, replies: Sequence[Reply], temperature: float) -> list[FloatArray]:
    """[T] for every reply: one forward pass of the model's own class, unpadded and without a cache."""
    found: dict[bytes, FloatArray] = {}
    scores = []
    for reply in replies:
        key = reply.prompt_ids.tobytes() + b"|" + reply.token_ids.tobytes()
        if key not in found:
            found[key] = _plain(model, reply, temperature)
        scores.append(found[key])
    return scores


def _plain(model: Any, reply: Reply, temperature: float) -> FloatArray:
    count = len(reply.token_ids)
    ids = torch.from_numpy(np.concatenate([reply.prompt_ids, reply.token_ids])).to(model.device)
    # Only the logits of the reply, where the model supports it: those of a long prompt take gigabytes.
    fewer = "logits_to_keep" in inspect.signature(type(model).forward).parameters
    options = {"logits_to_keep": count} if fewer else {}
    logits_TV: Tensor = model(input_ids=ids[None, :-1], use_cache=False, **options).logits[0, -count:]
    logprobs_TV = torch.log_softmax(logits_TV.float() / temperature, dim=-1)
    scores: FloatArray = logprobs_TV.gather(-1, ids[-count:, None]).squeeze(-1).cpu().numpy()
    return scores


def learner_logprobs(learner: Scores, replies: Sequence[Reply]) -> list[FloatArray]:
    """[T] for every reply: the learner with all its options, at its recipe's temperature."""
    scores = learner.score(probe_batch(replies))
    ends = np.cumsum([len(reply.token_ids) for reply in replies])
    return np.split(scores, ends[:-1])


def probe_batch(replies: Sequence[Reply]) -> Batch:
    """The replies as a batch for the learner."""
    return make_batch(
        [
            Sample(
                prompt_ids=reply.prompt_ids,
                action_ids=reply.token_ids,
                behaviour_logprobs=reply.logprobs,
                advantages=np.full(len(reply.token_ids), 1.0 if index % 2 else -1.0, dtype=np.float32),
                game="probe",
                player=0,
                policy_version=0,
            )
            for index, reply in enumerate(replies)
        ]
    )
