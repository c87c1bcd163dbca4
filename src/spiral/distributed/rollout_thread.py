"""The thread of a rollout worker that plays games, and weights that change between their turns.

A worker has several chunks of games at a time. All chunks that use the same weights are played together: the games of
the next chunk begin as those of earlier chunks end, so the engine's batch stays full from chunk to chunk and runs low
only when the worker has no more games. What happens in a game depends on its seed and the weights, never on the games
beside it (`spiral.rollout.loop`).

A chunk names its weights, or takes the newest. In the second case weights change while games are under way
(`FreshPolicy`): turns that are being generated are finished, no other turn begins until the newer weights are loaded,
and the games continue with those, as in PipelineRL (arXiv 2509.19128). PipelineRL also changes weights within a turn;
this thread does not, because the record of a turn names the one version that wrote it.
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
from spiral.policies import Policy, TurnReply, TurnRequest
from spiral.rollout.loop import Match, play_as_completed

LAST = 2**62
"""A version that sorts after all others."""


@dataclasses.dataclass(kw_only=True, eq=False)
class _Call:
    """A function to call while no game is under way."""

    version: int
    function: Callable[[], Any]
    future: Future[Any] = dataclasses.field(default_factory=Future)

    def run(self) -> None:
        try:
            self.future.set_result(self.function())
        except BaseException as error:  # raised again where the result is awaited
            self.future.set_exception(error)


@dataclasses.dataclass(kw_only=True, eq=False)
class _Chunk:
    """Matches to play, and the episodes of those that have ended."""

    matches: Sequence[Match]
    weights: WeightsHandle
    newest: bool
    in_flight: int
    future: Future[list[Episode]] = dataclasses.field(default_factory=Future)
    episodes: dict[int, Episode] = dataclasses.field(default_factory=dict)

    @property
    def version(self) -> int:
        return self.weights.version

    def end(self, index: int, episode: Episode) -> None:
        self.episodes[index] = episode
        if len(self.episodes) == len(self.matches):
            self.future.set_result([self.episodes[index] for index in range(len(self.matches))])


_Job = _Call | _Chunk


class RolloutThread:
    """Plays chunks and runs calls in one thread, ordered by the version of their weights, then by arrival."""

    def __init__(self, load: Callable[[WeightsHandle], None]) -> None:
        """Starts the thread.

        Args:
            load: Puts weights into the policy unless they are there already; called in the thread, between turns.
        """
        self._load = load
        self._changed = threading.Condition()
        self._arrivals = itertools.count()
        self._inbox: list[tuple[int, int, _Job]] = []
        self._newest: WeightsHandle | None = None
        self._refreshing = False
        self._version = -1
        self.play_seconds = 0.0
        """Time spent on games."""
        threading.Thread(target=self._work, name="play", daemon=True).start()

    def call(self, function: Callable[[], Any], version: int = -1) -> Any:
        """Calls `function()` in the thread between games, before chunks of later versions; returns its result."""
        call = _Call(version=version, function=function)
        self._add(call)
        return call.future.result()

    def play(self, matches: Sequence[Match], weights: WeightsHandle, newest: bool, in_flight: int) -> list[Episode]:
        """Plays matches and returns their episodes, in order.

        Args:
            matches: The games.
            weights: The weights to play with.
            newest: Whether to use newer weights at later turns.
            in_flight: Maximum number of games under way at once, including those of other chunks.
        """
        chunk = _Chunk(matches=matches, weights=weights, newest=newest, in_flight=in_flight)
        if newest:
            self.announce(weights)
        self._add(chunk)
        return chunk.future.result()

    def announce(self, weights: WeightsHandle) -> None:
        """Makes weights known to games that are played with the newest."""
        with self._changed:
            if self._newest is None or weights.version > self._newest.version:
                self._newest = weights

    def is_stale(self) -> bool:
        """Whether the games under way should continue with newer weights."""
        return self._refreshing and self._newest is not None and self._newest.version > self._version

    def refresh(self) -> None:
        """Loads the newest weights; called in the thread, between turns."""
        assert self._newest is not None
        self.load(self._newest)

    def load(self, weights: WeightsHandle) -> None:
        """Loads weights into the policy; called in the thread, between turns."""
        self._load(weights)
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
        """The next chunk whose games may begin beside those under way; None when another job has to come first."""
        with self._changed:
            job = self._inbox[0][-1] if self._inbox else None
            if isinstance(job, _Chunk) and (job.newest if self._refreshing else job.version == self._version):
                heapq.heappop(self._inbox)
                return job
            return None

    def _work(self) -> None:
        while True:
            job = self._next_job()
            if isinstance(job, _Call):
                job.run()
            else:
                self._play(job)

    def _play(self, first: _Chunk) -> None:
        """Plays a chunk and all that join it; an error fails all that have not ended."""
        start = time.perf_counter()
        games = _Games(first, self._next_chunk)
        try:
            self._refreshing = first.newest
            self.load(self._newest if first.newest and self._newest is not None else first.weights)
            for number, episode in play_as_completed(games, first.in_flight):
                games.end(number, episode)
        except BaseException as error:  # raised again where the episodes are awaited
            for chunk in games.chunks:
                chunk.future.set_exception(error)
        finally:
            self.play_seconds += time.perf_counter() - start


class _Games:
    """Iterates over the matches of a chunk and of those that join it; it may have more after it was exhausted."""

    def __init__(self, first: _Chunk, next_chunk: Callable[[], _Chunk | None]) -> None:
        self._next_chunk = next_chunk
        self._chunk = first
        self._begun = 0
        self._numbers = itertools.count()
        self._under_way: dict[int, tuple[_Chunk, int]] = {}

    @property
    def chunks(self) -> list[_Chunk]:
        """Chunks that have not ended."""
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
        index, self._begun = self._begun, self._begun + 1
        self._under_way[next(self._numbers)] = (self._chunk, index)
        return self._chunk.matches[index]

    def end(self, number: int, episode: Episode) -> None:
        """Adds the episode of the `number`-th match that was iterated over."""
        chunk, index = self._under_way.pop(number)
        chunk.end(index, episode)


class FreshPolicy:
    """Policy wrapper that queues new turns once newer weights arrive, until pending turns end and the weights load."""

    def __init__(self, policy: Policy, *, is_stale: Callable[[], bool], refresh: Callable[[], None]) -> None:
        """`refresh()` loads the newest weights, after which `is_stale()` is false until there are newer ones."""
        self._policy = policy
        self._is_stale = is_stale
        self._refresh = refresh
        self._held: list[TurnRequest] = []
        self._pending = 0

    @property
    def name(self) -> str:
        """The name of the policy."""
        return self._policy.name

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Forwards turns, or holds them back while the weights are stale."""
        if self._is_stale():
            self._held.extend(requests)
        else:
            self._forward(requests)

    def poll(self) -> list[TurnReply]:
        """The policy's replies. When no turn is pending, first loads newer weights and forwards the held turns."""
        if self._held and not self._pending:
            self._refresh()
            held, self._held = self._held, []
            self._forward(held)
        replies = self._policy.poll()
        self._pending -= len(replies)
        return replies

    def cancel(self) -> None:
        """Drops every pending turn."""
        self._held.clear()
        self._pending = 0
        self._policy.cancel()

    def _forward(self, requests: Sequence[TurnRequest]) -> None:
        self._pending += len(requests)
        self._policy.submit(requests)
