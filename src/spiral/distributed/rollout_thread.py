"""Plays the games of a rollout worker: one thread, and games that join those under way.

A worker is given chunks of games, several at a time. All that are to be played with the same weights are played
together: the games of the next chunk begin as those of earlier ones end, so that the engine's batch stays full from
chunk to chunk, and runs low only when the worker has no more games. What happens in a game depends on its seed and the
weights, never on what is played beside it (`spiral.rollout.loop`).

Games are played with the weights that their chunk names, or, where it asks for the newest, with the newest that were
told of at each turn (`fresh_policy.py`).
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from spiral.core.records import Episode
from spiral.distributed.weights.base import WeightsHandle
from spiral.rollout.loop import Match, play_as_completed

LAST = 2**62
"""A version that comes after all others."""


@dataclasses.dataclass(kw_only=True, eq=False)
class _Call:
    """A function to be called while no game is under way."""

    version: int
    function: Callable[[], Any]
    future: Future[Any] = dataclasses.field(default_factory=Future)

    def run(self) -> None:
        try:
            self.future.set_result(self.function())
        except BaseException as error:  # for whoever waits
            self.future.set_exception(error)


@dataclasses.dataclass(kw_only=True, eq=False)
class _Chunk:
    """Games, and the episodes of those that are over."""

    matches: Sequence[Match]
    weights: WeightsHandle
    newest: bool
    in_flight: int
    future: Future[list[Episode]] = dataclasses.field(default_factory=Future)
    episodes: dict[int, Episode] = dataclasses.field(default_factory=dict)

    @property
    def version(self) -> int:
        return self.weights.version

    def end(self, place: int, episode: Episode) -> None:
        self.episodes[place] = episode
        if len(self.episodes) == len(self.matches):
            self.future.set_result([self.episodes[place] for place in range(len(self.matches))])


_Job = _Call | _Chunk


class Player:
    """A thread that plays chunks and makes calls: by the version of the weights they ask for, then as they came."""

    def __init__(self, take: Callable[[WeightsHandle], None]) -> None:
        """`take` puts weights into the policy, if they are not there; it is called in the thread, between turns."""
        self._put = take
        self._changed = threading.Condition()
        self._arrivals = itertools.count()
        self._inbox: list[tuple[int, int, _Job]] = []
        self._told: WeightsHandle | None = None
        self._refreshing = False
        self._version = -1
        self.seconds = 0.0
        """Spent on games."""
        threading.Thread(target=self._work, name="play", daemon=True).start()

    def call(self, function: Callable[[], Any], version: int = -1) -> Any:
        """What `function()` gives, called in the thread between games; waits for it."""
        call = _Call(version=version, function=function)
        self._add(call)
        return call.future.result()

    def play(self, matches: Sequence[Match], weights: WeightsHandle, newest: bool, in_flight: int) -> list[Episode]:
        """The episodes of these matches, in their order; waits for them.

        `newest` allows for newer weights; `in_flight` is the most games that are under way at once.
        """
        chunk = _Chunk(matches=matches, weights=weights, newest=newest, in_flight=in_flight)
        if newest:
            self.tell(weights)
        self._add(chunk)
        return chunk.future.result()

    def tell(self, weights: WeightsHandle) -> None:
        """Tells of weights, for games that are played with the newest."""
        with self._changed:
            if self._told is None or weights.version > self._told.version:
                self._told = weights

    def is_stale(self) -> bool:
        """Whether the games under way are to go on with newer weights."""
        return self._refreshing and self._told is not None and self._told.version > self._version

    def refresh(self) -> None:
        """Takes the newest weights; for the thread itself, between turns."""
        assert self._told is not None
        self.take(self._told)

    def take(self, weights: WeightsHandle) -> None:
        """Puts weights into the policy; for the thread itself, between turns."""
        self._put(weights)
        self._version = weights.version

    def _add(self, job: _Job) -> None:
        with self._changed:
            heapq.heappush(self._inbox, (job.version, next(self._arrivals), job))
            self._changed.notify_all()

    def _next_job(self) -> _Job:
        with self._changed:
            self._changed.wait_for(lambda: self._inbox)
            return heapq.heappop(self._inbox)[-1]

    def _next_chunk(self) -> _Chunk | None:
        """The next chunk whose games may begin beside those under way; None when something else has to come first."""
        with self._changed:
            job = self._inbox[0][-1] if self._inbox else None
            if isinstance(job, _Chunk) and (job.newest if self._refreshing else job.version == self._version):
                heapq.heappop(self._inbox)
                return job
            return None

    def _work(self) -> None:
        """The thread."""
        while True:
            job = self._next_job()
            if isinstance(job, _Call):
                job.run()
            else:
                self._play(job)

    def _play(self, first: _Chunk) -> None:
        """Plays a chunk and all that join it; an error ends them all."""
        start = time.perf_counter()
        games = _Games(first, self._next_chunk)
        try:
            self._refreshing = first.newest
            self.take(self._told if first.newest and self._told is not None else first.weights)
            for number, episode in play_as_completed(games, first.in_flight):
                games.end(number, episode)
        except BaseException as error:  # for whoever waits
            for chunk in games.chunks:
                chunk.future.set_exception(error)
        finally:
            self.seconds += time.perf_counter() - start


class _Games:
    """The matches of a chunk and of those that join it, one at a time; asked again, it may have more."""

    def __init__(self, first: _Chunk, next_chunk: Callable[[], _Chunk | None]) -> None:
        self._next_chunk = next_chunk
        self._chunk = first
        self._begun = 0
        self._numbers = itertools.count()
        self._under_way: dict[int, tuple[_Chunk, int]] = {}

    @property
    def chunks(self) -> list[_Chunk]:
        """Those that are not over."""
        chunks = [self._chunk, *(chunk for chunk, _ in self._under_way.values())]
        return [chunk for chunk in dict.fromkeys(chunks) if not chunk.future.done()]

    def __iter__(self) -> Iterator[Match]:
        return self

    def __next__(self) -> Match:
        if self._begun == len(self._chunk.matches):
            following = self._next_chunk()
            if following is None:
                raise StopIteration
            self._chunk, self._begun = following, 0
        place, self._begun = self._begun, self._begun + 1
        self._under_way[next(self._numbers)] = (self._chunk, place)
        return self._chunk.matches[place]

    def end(self, number: int, episode: Episode) -> None:
        """Takes the episode of the match that was given `number`-th."""
        chunk, place = self._under_way.pop(number)
        chunk.end(place, episode)
