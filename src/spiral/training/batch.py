"""From episodes to one packed training batch.

Every trainable turn becomes one `Sample`: what the model was given, what it sampled, and the advantages of its tokens.
Token ids go through untouched. A `Batch` lays all samples end to end; segment boundaries separate them.

Shapes: S samples, L tokens of all samples together, A action tokens (those the policy sampled) of all together.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spiral.core.metrics import Matchup, Metrics, matchup_of
from spiral.core.records import Episode, FloatArray, Sample, Turn
from spiral.training.advantages import Advantages

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """All samples of a step, end to end."""

    token_ids_L: Tensor
    """Prompt and reply of each sample in turn."""
    starts_S: Tensor
    """Where each sample begins."""
    lengths_S: Tensor
    prompt_lengths_S: Tensor
    action_ids_A: Tensor
    """The sampled tokens, sample by sample."""
    behaviour_logprobs_A: Tensor
    """Nats, under the distribution that was sampled from."""
    advantages_A: Tensor
    action_sample_A: Tensor
    """Which sample each action token belongs to."""

    @property
    def num_samples(self) -> int:
        """Number of samples, S."""
        return len(self.starts_S)

    @property
    def num_action_tokens(self) -> int:
        """Number of action tokens, A."""
        return len(self.action_ids_A)


def samples_from_episodes(
    episodes: Sequence[Episode], advantages: Advantages, *, drop_zero_advantage: bool
) -> tuple[list[Sample], int]:
    """Make one sample of every trainable turn.

    Games that could not be played have no result to learn from, and give none.

    Args:
        episodes: The episodes of a step.
        advantages: For every episode an array [turns], or for each of its turns an array [T] of its action tokens.
        drop_zero_advantage: Leave out the turns whose advantage is zero.

    Returns:
        The samples, and the number of turns that were left out.
    """
    samples: list[Sample] = []
    dropped = 0
    for episode, by_turn in zip(episodes, advantages, strict=True):
        for turn, advantage in zip(episode.turns, by_turn, strict=True):
            if not episode.learns_from(turn):
                continue
            if drop_zero_advantage and _is_zero(advantage):
                dropped += 1
            else:
                samples.append(_sample(episode, turn, advantage))
    return samples, dropped


def zero_advantages(episodes: Sequence[Episode], advantages: Advantages) -> Metrics:
    """The share of turns whose advantage is zero, which teach nothing: of all, and of each player.

    `episodes` and `advantages` are those of `samples_from_episodes`.
    """
    turns, zero = Counter[str](), Counter[str]()
    names: dict[tuple[Matchup, int], str] = {}
    for episode, by_turn in zip(episodes, advantages, strict=True):
        matchup = matchup_of(episode)
        for turn, advantage in zip(episode.turns, by_turn, strict=True):
            if episode.learns_from(turn):
                player = (matchup, turn.player)
                if player not in names:
                    names[player] = matchup.key("zero_advantage", turn.player)
                keys = ("credit/zero_advantage", names[player])
                turns.update(keys)
                zero.update(keys if _is_zero(advantage) else ())
    return {key: zero[key] / count for key, count in turns.items()}


def with_learning(
    episodes: Sequence[Episode],
    advantages: Advantages,
    logprobs_A: FloatArray | None,
    *,
    drop_zero_advantage: bool,
) -> list[Episode]:
    """The episodes with what is known once they are learned from, for the record.

    Args:
        episodes: The episodes of a step.
        advantages: As in `samples_from_episodes`.
        logprobs_A: The learner's log-probabilities of the batch's action tokens, in its order; None without a batch.
        drop_zero_advantage: As in `samples_from_episodes`.

    Returns:
        The same episodes, in which every trainable turn has its advantages, and every turn of the batch the learner's
        log-probabilities of its tokens.
    """
    learned, place = [], 0
    for episode, by_turn in zip(episodes, advantages, strict=True):
        turns = []
        for turn, advantage in zip(episode.turns, by_turn, strict=True):
            if not episode.learns_from(turn):
                turns.append(turn)
                continue
            assert turn.generation is not None
            scores = None
            if logprobs_A is not None and (not drop_zero_advantage or not _is_zero(advantage)):
                tokens = len(turn.generation.token_ids)
                scores, place = logprobs_A[place : place + tokens], place + tokens
            credited = np.atleast_1d(np.asarray(advantage, dtype=np.float32))
            turns.append(dataclasses.replace(turn, advantages=credited, learner_logprobs=scores))
        learned.append(dataclasses.replace(episode, turns=tuple(turns)))
    return learned


def _is_zero(advantage: float | NDArray[np.float64]) -> bool:
    """Whether the advantage of a turn, or that of all of its tokens, is zero."""
    return advantage == 0 if isinstance(advantage, float) else not np.any(advantage)


def _sample(episode: Episode, turn: Turn, advantage: float | NDArray[np.float64]) -> Sample:
    """A turn as a sample, with one advantage for all of its tokens or one for each."""
    assert turn.generation is not None
    assert turn.prompt_ids is not None
    return Sample(
        prompt_ids=turn.prompt_ids,
        action_ids=turn.generation.token_ids,
        behaviour_logprobs=turn.generation.logprobs,
        advantages=np.broadcast_to(np.asarray(advantage, dtype=np.float32), turn.generation.token_ids.shape),
        game=episode.game,
        player=turn.player,
        policy_version=turn.generation.policy_version,
    )


def make_batch(samples: Sequence[Sample]) -> Batch:
    """Lay samples end to end. Raises `ValueError` when there are none."""
    import torch

    if not samples:
        raise ValueError("got no samples; expected at least one turn of a player that learns")
    prompts = np.array([len(sample.prompt_ids) for sample in samples])
    actions = np.array([len(sample.action_ids) for sample in samples])
    lengths = prompts + actions
    parts = [ids for sample in samples for ids in (sample.prompt_ids, sample.action_ids)]
    return Batch(
        token_ids_L=torch.from_numpy(np.concatenate(parts)),
        starts_S=torch.from_numpy(np.cumsum(lengths) - lengths),
        lengths_S=torch.from_numpy(lengths),
        prompt_lengths_S=torch.from_numpy(prompts),
        action_ids_A=torch.from_numpy(np.concatenate([sample.action_ids for sample in samples])),
        behaviour_logprobs_A=torch.from_numpy(np.concatenate([sample.behaviour_logprobs for sample in samples])),
        advantages_A=torch.from_numpy(np.concatenate([sample.advantages for sample in samples])),
        action_sample_A=torch.from_numpy(np.repeat(np.arange(len(samples)), actions)),
    )
