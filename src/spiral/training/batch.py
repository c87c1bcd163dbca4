"""From episodes to one packed training batch.

Every trainable turn becomes one `Sample`: what the model was given, what it sampled, and its seat's advantage.
Token ids go through untouched. A `Batch` lays all samples end to end; segment boundaries keep them apart.

Shapes: S samples, L tokens of all samples together, A action tokens (those the policy sampled) of all together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spiral.core.records import Episode, Sample
from spiral.training.advantages import Advantages, has_result

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """All samples of a step, end to end."""

    token_ids_L: Tensor
    starts_S: Tensor
    """Where each sample begins."""
    lengths_S: Tensor
    prompt_lengths_S: Tensor
    advantages_S: Tensor
    action_ids_A: Tensor
    """The sampled tokens, sample by sample."""
    behaviour_logprobs_A: Tensor
    """Nats, under the distribution that was sampled from."""
    action_sample_A: Tensor
    """Which sample each action token belongs to."""

    @property
    def num_samples(self) -> int:
        """S."""
        return len(self.starts_S)

    @property
    def num_action_tokens(self) -> int:
        """A."""
        return len(self.action_ids_A)


def samples_from_episodes(
    episodes: Sequence[Episode], advantages: Advantages, *, drop_zero_advantage: bool
) -> tuple[list[Sample], int]:
    """Make one sample of every trainable turn.

    Games that could not be played have no result to learn from, and give none.

    Args:
        episodes: The episodes of a step.
        advantages: For every episode an array [turns].
        drop_zero_advantage: Leave out the turns whose advantage is zero.

    Returns:
        The samples, and the number of turns that were left out.
    """
    samples: list[Sample] = []
    dropped = 0
    for episode, by_turn in zip(episodes, advantages, strict=True):
        if not has_result(episode):
            continue
        for sample in _episode_samples(episode, by_turn.tolist()):
            if drop_zero_advantage and sample.advantage == 0:
                dropped += 1
            else:
                samples.append(sample)
    return samples, dropped


def _episode_samples(episode: Episode, advantages: Sequence[float]) -> Iterator[Sample]:
    for turn, advantage in zip(episode.turns, advantages, strict=True):
        if not episode.seats[turn.player].trainable or turn.generation is None or turn.prompt_ids is None:
            continue
        generation = turn.generation
        if len(generation.token_ids) == 0:
            continue
        prompt_length = len(turn.prompt_ids)
        length = prompt_length + len(generation.token_ids)
        logprobs = np.zeros(length, dtype=np.float32)
        logprobs[prompt_length:] = generation.logprobs
        yield Sample(
            token_ids=np.concatenate([turn.prompt_ids, generation.token_ids]),
            action_mask=np.arange(length) >= prompt_length,
            behaviour_logprobs=logprobs,
            advantage=advantage,
            game=episode.game,
            player=turn.player,
            policy_version=generation.policy_version,
        )


def make_batch(samples: Sequence[Sample]) -> Batch:
    """Lays samples end to end. Raises `ValueError` for no samples, or for one without a prompt before its reply."""
    import torch

    if not samples:
        raise ValueError("got no samples; expected at least one turn of a trainable seat")
    lengths = np.array([len(sample.token_ids) for sample in samples])
    prompts = np.array([int(np.argmax(sample.action_mask)) for sample in samples])
    if (prompts == 0).any():
        raise ValueError("got a sample whose first token is an action; expected at least one prompt token before it")
    masks = np.concatenate([sample.action_mask for sample in samples])
    token_ids = np.concatenate([sample.token_ids for sample in samples])
    logprobs = np.concatenate([sample.behaviour_logprobs for sample in samples])
    return Batch(
        token_ids_L=torch.from_numpy(token_ids),
        starts_S=torch.from_numpy(np.cumsum(lengths) - lengths),
        lengths_S=torch.from_numpy(lengths),
        prompt_lengths_S=torch.from_numpy(prompts),
        advantages_S=torch.tensor([sample.advantage for sample in samples], dtype=torch.float32),
        action_ids_A=torch.from_numpy(token_ids[masks]),
        behaviour_logprobs_A=torch.from_numpy(logprobs[masks]),
        action_sample_A=torch.from_numpy(np.repeat(np.arange(len(samples)), lengths - prompts)),
    )
