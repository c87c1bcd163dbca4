"""A softmax table as a policy, trained through the real game loop, credit, batch and loss.

A table has one row of logits for each information state of one hand of Kuhn poker, where every choice is between two
actions. A reply is one token, the index of the action; the prompt is one token, the row.
"""

from __future__ import annotations

import numpy as np
import torch

from made_up import loss_of
from spiral.core.records import Generation
from spiral.core.seeds import derive_seed, token_uniforms
from spiral.games import load_game
from spiral.policies import TurnReply
from spiral.rollout.loop import Match, play
from spiral.theory import exploitability, information_states, policy_from_table
from spiral.training.advantages import RAE
from spiral.training.batch import make_batch, samples_from_episodes
from spiral.training.logprobs import TokenScores
from spiral.training.loss import LossConfig

KUHN = load_game("kuhn_poker")
NAMES = [(state.information_state(player), state.legal_actions()) for state, player in information_states(KUHN)]
ROW = {name: row for row, (name, _) in enumerate(NAMES)}


class TablePlayer:
    """Samples from a table of probabilities and records what a language model's engine would."""

    name = "table"

    def __init__(self, probabilities_RX):
        self._logprobs = np.log(probabilities_RX)
        self._first = probabilities_RX[:, 0]
        self._pending = []

    def submit(self, requests):
        self._pending.extend(requests)

    def poll(self):
        pending, self._pending = self._pending, []
        seeds = np.array([request.seed for request in pending], dtype=np.uint64)
        uniforms = token_uniforms(seeds, np.zeros(len(pending), dtype=np.uint64)).tolist()
        return [self._reply(request, uniform) for request, uniform in zip(pending, uniforms, strict=True)]

    def _reply(self, request, uniform):
        row = ROW[request.state.information_state(request.player)]
        choice = int(uniform >= self._first[row])
        generation = Generation(
            token_ids=np.array([choice]),
            logprobs=self._logprobs[row, choice : choice + 1].astype(np.float32),
            stop_reason="stop",
            policy_version=0,
        )
        action = request.state.legal_actions()[choice]
        prompt = np.array([row])
        return TurnReply(
            key=request.key, observation="", reply=action, action=action, prompt_ids=prompt, generation=generation
        )


def table_scores(logits_RX, reference_RX, batch):
    """What the learner computes from a model's hidden states, from the table instead."""
    rows = batch.token_ids_L[batch.starts_S]
    log_p = torch.log_softmax(logits_RX, -1)[rows]
    log_q = torch.log_softmax(reference_RX, -1)[rows]
    p = log_p.exp()
    return TokenScores(
        logprobs_K=log_p.gather(-1, batch.action_ids_A[:, None]).squeeze(-1),
        entropy_K=-(p * log_p).sum(-1),
        kl_K=(p * (log_p - log_q)).sum(-1),
    )


def table_exploitability(logits_RX):
    """Exact, in chips."""
    probabilities = torch.softmax(logits_RX.detach().double(), -1).tolist()
    table = {
        name: dict(zip(actions, row, strict=True)) for (name, actions), row in zip(NAMES, probabilities, strict=True)
    }
    return exploitability(KUHN, policy_from_table(table))


def train_table(config: LossConfig, *, steps, episodes, learning_rate, seed, estimator=None):
    """Self-play from the uniform policy; returns the exploitability before the first step and after every one."""
    logits = torch.zeros(len(NAMES), 2, requires_grad=True)
    reference = logits.detach().clone()
    optimizer = torch.optim.SGD([logits], lr=learning_rate)
    estimator = estimator or RAE()
    exploitabilities = [table_exploitability(logits)]
    for step in range(1, steps + 1):
        every = config.reference_refresh_steps
        if every and step > 1 and (step - 1) % every == 0:
            reference = logits.detach().clone()
        player = TablePlayer(torch.softmax(logits.detach().double(), -1).numpy())
        matches = [
            Match(
                game=KUHN,
                seed=derive_seed(seed, "table", step, index),
                policies=(player, player),
                trainable=(True, True),
            )
            for index in range(episodes)
        ]
        played = play(matches, in_flight=episodes)
        samples, _ = samples_from_episodes(played, estimator(played), drop_zero_advantage=True)
        batch = make_batch(samples)
        scores = table_scores(logits, reference, batch)
        behaviour = batch.behaviour_logprobs_A
        optimizer.zero_grad()
        loss_of(scores, behaviour, behaviour, batch.advantages_A, float(batch.num_samples), config).total.backward()
        optimizer.step()
        exploitabilities.append(table_exploitability(logits))
    return exploitabilities
