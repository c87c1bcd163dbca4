"""A value head: what a player may expect to get, as a linear function of the learner's hidden state.

    V = w . h / |h| + c        h: the last hidden state at the last token of the prompt, without gradient

It learns by itself: its gradient does not reach the model, and the model's does not reach it. It begins at 0 and has an
Adam optimizer of its own, and both are in every checkpoint. |h| is divided out, so that one learning rate does for
models of every width.

Estimators that need values (`spiral.training.advantages.gae`) are called with them, and say what they should have been.
Values are computed under the weights before the update, by one more forward pass over the step's turns, in the process
that holds the whole model.

Shapes: S samples, which are the turns that are learned from; D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spiral.core.metrics import Metrics
from spiral.core.records import Episode
from spiral.training.advantages import CreditConfig, TurnValues
from spiral.training.batch import Batch, make_batch, samples_from_episodes


class PromptReader(Protocol):
    """What a value head needs of the learner."""

    @property
    def hidden_size(self) -> int:
        """D"""
        ...

    def prompt_states(self, batch: Batch) -> Tensor:
        """[S, D] The last hidden states at the last token of each prompt."""
        ...


class ValueHead:
    """The value of every turn that is learned from, learned from targets.

    Args:
        learner: Its hidden states are read.
        config: The learning rate and the passes over the turns of a step.
    """

    def __init__(self, learner: PromptReader, config: CreditConfig) -> None:
        self._learner = learner
        self._config = config
        self._head = torch.nn.Linear(learner.hidden_size, 1, dtype=torch.float32)
        torch.nn.init.zeros_(self._head.weight)
        torch.nn.init.zeros_(self._head.bias)
        self._optimizer = torch.optim.Adam(self._head.parameters(), lr=config.value_learning_rate)
        self._states_SD = torch.zeros(0, learner.hidden_size)

    @torch.no_grad()
    def values(self, episodes: Sequence[Episode]) -> list[TurnValues]:
        """Return [turns] for each episode: the value of what the turn's player saw; 0 where nothing is learned."""
        nothing = [np.zeros(len(episode.turns)) for episode in episodes]
        samples, _ = samples_from_episodes(episodes, nothing, drop_zero_advantage=False)
        if not samples:
            self._states_SD = self._states_SD[:0]
            return nothing
        states_SD = self._learner.prompt_states(make_batch(samples)).float().cpu()
        self._states_SD = states_SD / states_SD.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        found = iter(self._head(self._states_SD)[:, 0].tolist())
        return [np.array([next(found) if learned else 0.0 for learned in marks]) for marks in _learned(episodes)]

    def learn(self, episodes: Sequence[Episode], targets: Sequence[TurnValues]) -> Metrics:
        """Move the values of the episodes, which `values` was last called with, towards the targets.

        Returns:
            The mean squared error before that, and the share of the targets' variance that the values explained.
        """
        pairs = zip(targets, _learned(episodes), strict=True)
        wanted = [value for of_turns, marks in pairs for value, learned in zip(of_turns, marks, strict=True) if learned]
        if not wanted:
            return {}
        targets_S = torch.tensor(wanted, dtype=torch.float32)
        metrics: Metrics = {}
        for epoch in range(self._config.value_epochs):
            errors_S = self._head(self._states_SD)[:, 0] - targets_S
            loss = errors_S.square().mean()
            if epoch == 0:
                metrics["value/loss"] = float(loss.detach())
                spread = float(targets_S.var(unbiased=False))
                if spread:
                    metrics["value/explained"] = 1 - float(errors_S.detach().var(unbiased=False)) / spread
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
        return metrics

    def tensors(self) -> dict[str, Tensor]:
        """Return the head and its optimizer's state by name, for a checkpoint."""
        named = {f"head/{name}": parameter.detach() for name, parameter in self._head.named_parameters()}
        for name, parameter in self._head.named_parameters():
            for key, value in self._optimizer.state[parameter].items():
                named[f"{key}/{name}"] = value
        return {name: tensor.clone().contiguous() for name, tensor in named.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        parameters = dict(self._head.named_parameters())
        for key, tensor in sorted(tensors.items()):
            kind, _, name = key.partition("/")
            if kind == "head":
                parameters[name].copy_(tensor)
            else:
                self._optimizer.state[parameters[name]][kind] = tensor.clone()


def _learned(episodes: Sequence[Episode]) -> Iterator[list[bool]]:
    """For each episode, which of its turns are learned from."""
    return ([episode.learns_from(turn) for turn in episode.turns] for episode in episodes)
