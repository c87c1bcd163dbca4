"""How old turns are when they are learned from.

A turn's age is counted in updates: the learner's version less that of the weights that wrote it. Age is corrected for
in the loss, from the recorded log-probabilities, and the correction is good for small ages only; older turns are left
out of the batch. The game stays: its result is what the other turns are paid, and moves the baselines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from spiral.core.records import Episode, Turn


def turn_ages(episodes: Sequence[Episode], version: int) -> list[int]:
    """How many updates before `version` each turn was written that is to be learned from, in order."""
    return [
        version - turn.generation.policy_version
        for episode in episodes
        for turn in episode.turns
        if turn.generation is not None and episode.seats[turn.player].trainable
    ]


def split_stale(episodes: Sequence[Episode], version: int, max_staleness: int) -> tuple[list[Episode], int]:
    """The episodes with stale turns taken out of training, and how many turns that were.

    A turn more than `max_staleness` updates behind `version` loses its tokens, so that no sample is made of it; its
    words, its action and the returns stay on record. Episodes without such a turn are handed on as they are.
    """
    kept: list[Episode] = []
    dropped = 0
    for episode in episodes:
        stale = [
            episode.seats[turn.player].trainable and _is_stale(turn, version - max_staleness) for turn in episode.turns
        ]
        dropped += sum(stale)
        kept.append(_without_tokens(episode, stale) if any(stale) else episode)
    return kept, dropped


def _is_stale(turn: Turn, oldest: int) -> bool:
    return turn.generation is not None and turn.generation.policy_version < oldest


def _without_tokens(episode: Episode, stale: Sequence[bool]) -> Episode:
    turns = tuple(
        dataclasses.replace(turn, prompt_ids=None, generation=None) if is_stale else turn
        for turn, is_stale in zip(episode.turns, stale, strict=True)
    )
    return dataclasses.replace(episode, turns=turns)
