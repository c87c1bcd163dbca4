"""Policies for rollout workers, made by functions that Ray can send: the built-in model, and one that is all trap.

`Coin` stands in for a language model and needs none: it takes any legal action, as its turn's seed says, and one token
stands for it. What it plays depends on its one weight, so that games show which weights they were played with.
"""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from spiral.core.records import Generation
from spiral.inference.sampling import SamplingConfig
from spiral.policies import TurnReply
from spiral.text import ChatCodec, PromptConfig

VOCABULARY = 32


def nano_policy():
    """The built-in model as it is."""
    from spiral.inference.transformers import TransformersPolicy
    from spiral.models.loading import ModelConfig, load_language_model  # loads transformers; a coin needs none

    loaded = load_language_model(ModelConfig(path="nano", device="cpu"))
    codec = ChatCodec(loaded.tokenizer, PromptConfig(observation="compact", thinking=False))
    return TransformersPolicy(loaded.model, codec, SamplingConfig(max_new_tokens=8))


def coin(traps=(), folder=None, slow=0.0):
    """A `Coin`; `traps` are `(version, name)` pairs, each sprung once, by the first process that reaches `folder`."""
    return Coin(dict(traps), folder, slow)


def trapped(folder, *traps, slow=0.0):
    """A factory of policies with traps."""
    return partial(coin, traps, str(folder), slow)


def broken(message):
    """A factory that fails."""
    raise ValueError(message)


def weights(version):
    """What a learner would publish for a `Coin`."""
    return [("weight", torch.tensor([float(version)]))]


class Coin:
    name = "coin"

    def __init__(self, traps, folder, slow):
        self.version = 0
        self.weight = 0.0
        self.traps = traps
        self.folder = folder
        self.slow = slow
        self.pending = []
        self.asleep = False

    def sleep(self, *, until_weights):
        assert until_weights
        assert not self.pending
        self.asleep = True

    def load_weights(self, weights, version):
        ((_, weight),) = weights
        self.weight, self.version = float(weight), version

    def submit(self, requests):
        self.asleep = False
        self.pending.extend(requests)

    def cancel(self):
        self.pending.clear()

    def poll(self):
        time.sleep(self.slow)
        # Half of the turns at a time, so that games differ in how far they are when a trap springs.
        count = (len(self.pending) + 1) // 2
        asked, self.pending = self.pending[:count], self.pending[count:]
        trap = self.traps.get(self.version)
        sprung = trap is not None and self.first(trap)
        if sprung and trap == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if sprung and trap == "hang":
            never_answers()
        if sprung and trap == "raise":
            raise RuntimeError("the engine is on fire")
        return [self.reply(request, garbage=sprung and trap == "garbage") for request in asked]

    def first(self, trap):
        """Whether this trap has not been sprung before."""
        try:
            os.close(os.open(Path(self.folder) / trap, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def reply(self, request, garbage):
        legal = request.state.legal_actions()
        choice = random.Random(f"{request.seed} {self.weight}").randrange(len(legal))
        generation = Generation(
            token_ids=np.array([choice]),
            logprobs=np.array([np.nan if garbage else -np.log(len(legal))], dtype=np.float32),
            stop_reason="stop",
            policy_version=self.version,
        )
        return TurnReply(
            key=request.key,
            observation="",
            reply=legal[choice],
            action=legal[choice],
            prompt_ids=np.array([7]),
            generation=generation,
        )


def never_answers():
    while True:
        time.sleep(0.05)


def weight_of(policy, *more):
    """A policy call."""
    return policy.version, *more


def refuses(policy):
    """A policy call that fails."""
    raise ValueError("there is nothing to evaluate")
