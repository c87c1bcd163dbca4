"""Which games wait for a worker, are being played, or are finished, and which turns are too old to learn from.

Games are added step by step, cut into chunks, and given out in that order. A chunk holds all that is needed to play its
games, on any worker and any number of times, so the chunk of a lost worker returns to the front of the queue. Only the
first result of a chunk counts: no game is lost and none counts twice.

A turn's age is counted in updates: the learner's version minus the version of the weights that wrote it. The loss
corrects for age from the recorded log-probabilities, and the correction is good for small ages only, so older turns
are left out of the batch. Their episode stays: its result is the return of the other turns and moves the baselines.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence

from spiral.core.records import Episode, Turn
from spiral.distributed.weights.base import WeightsHandle
from spiral.rollout.matchmaking import Pairing

CHUNKS_PER_WORKER = 8
"""Chunks that a worker's share of a step is cut into. Chunks are played together, so small ones cost little; where a
step has more games than are in flight, they balance the load between workers."""


def describe_games(count: int, step: int) -> str:
    """For example "7 games of step 3"."""
    return f"{count} game{'' if count == 1 else 's'} of step {step}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Games of one step that are assigned to a worker together."""

    number: int
    """Position in the order in which chunks were added to the queue."""
    step: int
    indices: tuple[int, ...]
    """Indices of the games in their step."""
    pairings: tuple[Pairing, ...]
    """The pairings, in the order of `indices`."""
    weights: WeightsHandle | None
    """The weights to play with; None for the newest at the time of each turn."""

    def __str__(self) -> str:
        return describe_games(len(self.indices), self.step)


class GameQueue:
    """The games of a run whose episodes have not been consumed."""

    def __init__(self, episodes_per_step: int, workers: int) -> None:
        """Cuts every step into chunks for `workers` workers."""
        self.turns_per_game: float | None = None
        """Turns to learn from in a game, as far as they are known when a step is added; `SampledQueue` reads it."""
        self.dropped_turns = 0
        """Turns of finished games that no step took, since the last step was taken."""
        self._episodes_per_step = episodes_per_step
        self._chunks_per_step = min(episodes_per_step, CHUNKS_PER_WORKER * workers)
        self.max_chunk_games = -(-episodes_per_step // self._chunks_per_step)
        """Games in the largest chunk."""
        self._waiting: list[tuple[int, int, Chunk]] = []
        """A heap: chunks of earlier steps first, then those added first."""
        self._open: dict[int, Chunk] = {}
        self._finished: dict[tuple[int, int], Episode] = {}
        self._next_number = 0
        self.last_step: int | None = None
        """The last step whose games were added."""

    @property
    def unconsumed(self) -> int:
        """Number of added games whose episodes have not been taken."""
        return sum(len(chunk.indices) for chunk in self._open.values()) + len(self._finished)

    @property
    def waiting(self) -> int:
        """Number of chunks that are not assigned to a worker."""
        return len(self._waiting)

    def add_step(self, step: int, pairings: Sequence[Pairing], weights: WeightsHandle | None) -> None:
        """Adds the games of a step. Each chunk takes every n-th game, so that it has some of every kind."""
        assert self.last_step is None or step == self.last_step + 1, (step, self.last_step)
        self.last_step = step
        self._add_games(step, range(self._episodes_per_step), pairings, weights, self._chunks_per_step)

    def next_chunk(self) -> Chunk | None:
        """Removes and returns the first waiting chunk; None when there is none."""
        return heapq.heappop(self._waiting)[-1] if self._waiting else None

    def return_chunk(self, chunk: Chunk) -> None:
        """Puts the chunk of a lost worker back into the queue, unless its games are no longer needed."""
        if chunk.number in self._open:
            heapq.heappush(self._waiting, (chunk.step, chunk.number, chunk))

    def finish(self, chunk: Chunk, episodes: Sequence[Episode]) -> bool:
        """Adds the episodes of a chunk, in the order of its indices; False when the chunk was finished before."""
        if self._open.pop(chunk.number, None) is None:
            return False
        for index, episode in zip(chunk.indices, episodes, strict=True):
            self._finished[chunk.step, index] = episode
        return True

    def take_step(self, step: int) -> list[Episode] | None:
        """Removes and returns all episodes of one step in the order of its matches; None while some are missing."""
        keys = [(step, index) for index in range(self._episodes_per_step)]
        if any(key not in self._finished for key in keys):
            return None
        return [self._finished.pop(key) for key in keys]

    def take_oldest(self) -> list[Episode] | None:
        """Removes and returns one step's number of finished episodes, those added first; None while there are fewer."""
        if len(self._finished) < self._episodes_per_step:
            return None
        return [self._finished.pop(key) for key in sorted(self._finished)[: self._episodes_per_step]]

    def _add_games(
        self, step: int, indices: range, pairings: Sequence[Pairing], weights: WeightsHandle | None, chunks: int
    ) -> None:
        """Adds games of a step, cut into `chunks` chunks."""
        for first in range(min(chunks, len(indices))):
            own = tuple(indices[first::chunks])
            games = tuple(pairings[index] for index in own)
            chunk = Chunk(number=self._next_number, step=step, indices=own, pairings=games, weights=weights)
            self._next_number += 1
            self._open[chunk.number] = chunk
            heapq.heappush(self._waiting, (step, chunk.number, chunk))


def turn_ages(episodes: Sequence[Episode], version: int) -> list[int]:
    """Ages, in updates before `version`, of all turns of learning players that have tokens, in order."""
    return [
        version - turn.generation.policy_version
        for episode in episodes
        for turn in episode.turns
        if turn.generation is not None and episode.seats[turn.player].trainable
    ]


def split_stale(episodes: Sequence[Episode], version: int, max_staleness: int) -> tuple[list[Episode], int]:
    """Takes stale turns out of training.

    A turn of a learning player that is more than `max_staleness` updates behind `version` loses its tokens, so that no
    sample is made of it; its text, its action and the returns stay on record.

    Returns:
        The episodes, unchanged where they have no stale turn, and the number of stale turns.
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


def _is_stale(turn: Turn, min_version: int) -> bool:
    return turn.generation is not None and turn.generation.policy_version < min_version


def _without_tokens(episode: Episode, stale: Sequence[bool]) -> Episode:
    turns = tuple(
        dataclasses.replace(turn, prompt_ids=None, generation=None) if is_stale else turn
        for turn, is_stale in zip(episode.turns, stale, strict=True)
    )
    return dataclasses.replace(episode, turns=turns)
