"""Episodes and samples written down by hand."""

from __future__ import annotations

import numpy as np

from spiral.core.records import Episode, Generation, Sample, Seat, Turn
from spiral.training.advantages import load_estimator


def new_turn(
    player, prompt=(1, 2), tokens=(3, 4), logprobs=None, *, action="0", version=0, stop_reason="stop", **thinking
):
    """A model's turn; without log-probabilities each is -1, and without `thinking` fields it thought nothing."""
    logprobs = [-1.0] * len(tokens) if logprobs is None else logprobs
    generation = Generation(
        token_ids=np.array(tokens, dtype=np.int64),
        logprobs=np.array(logprobs, dtype=np.float32),
        stop_reason=stop_reason,
        policy_version=version,
        **thinking,
    )
    prompt_ids = np.array(prompt, dtype=np.int64)
    return Turn(player=player, observation="o", reply="r", action=action, prompt_ids=prompt_ids, generation=generation)


def new_episode(returns, turns=(), *, game="tictactoe", seed=0, trainable=(True, True), outcome="finished", fault=""):
    """A game of one policy against itself."""
    return Episode(
        game=game,
        seed=seed,
        seats=(Seat(policy="a", trainable=trainable[0]), Seat(policy="b", trainable=trainable[1])),
        turns=tuple(turns),
        actions=tuple(turn.action for turn in turns if turn.action is not None),
        returns=returns,
        outcome=outcome,
        fault=fault,
    )


def new_sample(prompt, reply, advantage=1.0, logprobs=None):
    """A sample whose tokens have one advantage; without log-probabilities each is -1."""
    return Sample(
        prompt_ids=np.array(prompt, dtype=np.int64),
        action_ids=np.array(reply, dtype=np.int64),
        behaviour_logprobs=np.array([-1.0] * len(reply) if logprobs is None else logprobs, dtype=np.float32),
        advantages=np.full(len(reply), advantage, dtype=np.float32),
        game="tictactoe",
        player=0,
        policy_version=0,
    )


def random_samples(count, vocabulary, seed=0, *, longest=30):
    """Samples of mixed lengths with random tokens, log-probabilities and advantages."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        prompt, reply = int(rng.integers(1, longest)), int(rng.integers(1, longest))
        tokens = rng.integers(0, vocabulary, prompt + reply)
        logprobs, advantage = rng.normal(-5, 1, prompt + reply), float(rng.normal())
        rng.integers(2)
        samples.append(new_sample(tokens[:prompt], tokens[prompt:], advantage, logprobs[prompt:]))
    return samples


def loss_of(scores, old, behaviour, advantages, denominator, config):
    """The loss of a micro-batch under the policy loss that the configuration names."""
    import torch

    from spiral.training.loss import loss
    from spiral.training.losses import TokenNumbers, make_policy_loss

    tokens = TokenNumbers(
        logprobs_K=scores.logprobs_K,
        old_logprobs_K=old,
        behaviour_logprobs_K=behaviour,
        advantages_K=advantages,
        sample_K=torch.zeros_like(advantages, dtype=torch.long),
    )
    return loss(scores, tokens, denominator, config, make_policy_loss(config))


class NoValues:
    """A value head that has learned nothing, so that all values are 0."""

    def values(self, episodes):
        return [np.zeros(len(episode.turns)) for episode in episodes]


def new_estimator(name):
    """An estimator without a past; values are 0."""
    estimator = load_estimator(name)
    if estimator.needs_values:
        estimator.value_head = NoValues()
    return estimator
