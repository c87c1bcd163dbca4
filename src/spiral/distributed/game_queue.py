"""Which games are to be played, which are being played, and which are done: bookkeeping without a process in it.

Games are dealt step by step, cut into chunks, and handed out in that order. A chunk is a few games by their place in
their step, which with the run's seed is all that is needed to play them, anywhere and any number of times: that of a
worker that was lost goes back to the front. Only the first result of a chunk counts, so no game is lost and none
counts twice.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence

from spiral.core.records import Episode
from spiral.distributed.weights.base import WeightsHandle

CHUNKS_PER_WORKER = 8
"""Chunks that a worker's share of a step is cut into. Their games are played together, so small ones cost little. Where
a step has more games than are in flight they even out what workers have to do."""


def games_of_step(count: int, step: int) -> str:
    """In words."""
    return f"{count} game{'' if count == 1 else 's'} of step {step}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Games of one step that a worker is given together."""

    number: int
    """Its place in the order of dealing."""
    step: int
    indices: tuple[int, ...]
    """Places in `Matchmaker.matches(step)`."""
    weights: WeightsHandle | None
    """The weights to play with; None: the newest that there are when it is played."""

    def __str__(self) -> str:
        return games_of_step(len(self.indices), self.step)


class Dealer:
    """The games of a run that are not used up yet."""

    def __init__(self, episodes_per_step: int, workers: int) -> None:
        """Cuts steps for `workers` workers."""
        self._episodes_per_step = episodes_per_step
        self._chunks_per_step = min(episodes_per_step, CHUNKS_PER_WORKER * workers)
        self.chunk_games = -(-episodes_per_step // self._chunks_per_step)
        """Games that a chunk has at most."""
        self._waiting: list[tuple[int, Chunk]] = []
        self._open: dict[int, Chunk] = {}
        self._finished: dict[tuple[int, int], Episode] = {}
        self._numbers = 0
        self.last_step: int | None = None
        """The last step that was dealt."""

    @property
    def unused(self) -> int:
        """Games dealt whose episodes nobody took yet."""
        return sum(len(chunk.indices) for chunk in self._open.values()) + len(self._finished)

    @property
    def waiting(self) -> int:
        """Chunks that no worker has."""
        return len(self._waiting)

    def deal_step(self, step: int, weights: WeightsHandle | None) -> None:
        """Adds the games of a step. Chunks take every n-th game, so that each has some of every kind."""
        assert self.last_step is None or step == self.last_step + 1, (step, self.last_step)
        self.last_step = step
        for first in range(self._chunks_per_step):
            indices = tuple(range(first, self._episodes_per_step, self._chunks_per_step))
            chunk = Chunk(number=self._numbers, step=step, indices=indices, weights=weights)
            self._numbers += 1
            self._open[chunk.number] = chunk
            heapq.heappush(self._waiting, (chunk.number, chunk))

    def hand_out(self) -> Chunk | None:
        """The first chunk that no worker has."""
        return heapq.heappop(self._waiting)[1] if self._waiting else None

    def give_back(self, chunk: Chunk) -> None:
        """A worker was lost with this chunk: it waits for another."""
        assert chunk.number in self._open, chunk
        heapq.heappush(self._waiting, (chunk.number, chunk))

    def finish(self, chunk: Chunk, episodes: Sequence[Episode]) -> bool:
        """Takes the episodes of a chunk, in the order of its indices; False when they were there already."""
        if self._open.pop(chunk.number, None) is None:
            return False
        for index, episode in zip(chunk.indices, episodes, strict=True):
            self._finished[chunk.step, index] = episode
        return True

    def take_step(self, step: int) -> list[Episode] | None:
        """All episodes of one step in the order of its matches; None while some are missing."""
        keys = [(step, index) for index in range(self._episodes_per_step)]
        if any(key not in self._finished for key in keys):
            return None
        return [self._finished.pop(key) for key in keys]

    def take_first(self) -> list[Episode] | None:
        """As many finished episodes as a step has, those dealt first; None while there are fewer."""
        if len(self._finished) < self._episodes_per_step:
            return None
        return [self._finished.pop(key) for key in sorted(self._finished)[: self._episodes_per_step]]
