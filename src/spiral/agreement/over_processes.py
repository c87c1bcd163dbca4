"""The checks when engine and learner live in different processes.

The process of a learner compares it with the plain forward pass on fixed texts. The process of an engine samples, and
the learners score its replies. If both comparisons agree, so do engine and plain forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spiral.agreement.checks import described, remedy_for, require, running
from spiral.agreement.differences import difference, tolerance_of
from spiral.agreement.logprobs import Replies, Reply, Scores, learner_logprobs, plain_logprobs, sample_replies
from spiral.agreement.probes import make_probes
from spiral.inference.base import LanguagePolicy
from spiral.models.loading import context_limit
from spiral.text import ChatCodec


class LearnerCheck:
    """Compares a learner with the plain forward pass. Create it before the learner changes the model."""

    def __init__(self, model: Any, codec: ChatCodec, compute: str, temperature: float) -> None:
        """`temperature` is the sampling temperature, at which the learner scores."""
        probes = make_probes(
            codec,
            model.config,
            parameters=model.num_parameters(),
            device=str(model.device.type),
            context=context_limit(model.config, "the learner"),
        )
        self._kind = str(model.config.model_type)
        self._tolerance = tolerance_of(compute, temperature)
        self._texts = [_last_as_reply(prompt, probes.new_tokens) for prompt in probes.prompts if len(prompt) > 1]
        with running("the plain forward pass", self._kind):
            self._plain = plain_logprobs(model, self._texts, temperature or 1.0)

    def compare(self, learner: Scores, options: Mapping[str, Any]) -> None:
        """Raises `DisagreementError` when the learner differs from the plain pass; `options` as in `Check.learner`."""
        with running("the learner", self._kind):
            scores = learner_logprobs(learner, self._texts)
        pair = f"learner{described(options)} against the plain forward pass"
        found = difference(pair, [len(text.prompt_ids) for text in self._texts], scores, self._plain)
        require(found, self._tolerance, self._kind, remedy_for(options))


def _last_as_reply(prompt: Any, count: int) -> Reply:
    """A text whose last `count` tokens are treated as a sampled reply."""
    count = min(count, len(prompt) - 1)
    return Reply(prompt_ids=prompt[:-count], token_ids=prompt[-count:], logprobs=np.zeros(count, dtype=np.float32))


def sample_probes(policy: LanguagePolicy, config: Any, parameters: int, device: str, games: Sequence[str]) -> Replies:
    """Samples replies to the probes of a model with a transformers `config`."""
    probes = make_probes(
        policy.codec, config, parameters=parameters, device=device, context=policy.context, games=games
    )
    with running("the engine", str(config.model_type)):
        return sample_replies(policy, probes)


def compare_with_learner(replies: Replies, learner: Scores, kind: str, compute: str, engine: str) -> None:
    """Raises `DisagreementError` when the learner's log-probabilities differ from those an engine reported."""
    tolerance = tolerance_of(compute, replies.temperature)
    for how, sampled in (("one prompt at a time", replies.alone), ("all prompts at once", replies.batched)):
        if not sampled:
            continue
        scores = learner_logprobs(learner, sampled)
        pair = f"{engine} engine, {how}, against the learner"
        found = difference(
            pair, [len(reply.prompt_ids) for reply in sampled], [reply.logprobs for reply in sampled], scores
        )
        require(found, tolerance, kind, "set engine.kind to another one and try again")
