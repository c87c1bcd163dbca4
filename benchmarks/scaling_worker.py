"""A rollout worker in simulated time: replies decoded together, games that join, weights that change.

Between two replies that end, all rows advance together, one token a pass, so a worker is simulated reply by reply. A
clock counts passes: a reply of n tokens that begins at pass c ends at pass c + n. What passes cost is the engine's
(`scaling_model.Engine`). There are three ways of working:

| way | a game begins | weights change |
|---|---|---|
| chunks | with the others of its chunk, when the chunk before is over | between chunks |
| joined | when there is room, if the weights are those it asks for | sync, overlap: when no game is under way |
| | | async: between turns, when all replies under way have ended |
| in reply | when there is room | at once; replies under way go on with the new ones |

"joined" is what `spiral.distributed.rollout_thread` does. "chunks" is what workers did before, kept to
show what joining brought. "in reply" is done by PipelineRL (arXiv 2509.19128) for async; for overlap it stands for
an engine that could hold two versions at once, which none does: it shows what is lost by waiting for games to end.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from benchmarks.scaling_model import Engine
from benchmarks.scaling_play import Game

Way = Literal["chunks", "joined", "in reply"]


class Table:
    """A game, and the version that each of its turns began with."""

    __slots__ = ("chunk", "index", "lengths", "versions")

    def __init__(self, lengths: Game, chunk: Chunk, index: int) -> None:
        self.lengths = lengths
        self.chunk = chunk
        self.index = index
        self.versions: list[int] = []


class Chunk:
    """Games that come and go together. `version` is that of the weights they are played with; None: the newest."""

    def __init__(self, step: int, number: int, games: Sequence[tuple[int, Game]], version: int | None) -> None:
        """`games` are indices in the step, and replies."""
        self.step = step
        self.number = number
        self.version = version
        self.tables = [Table(lengths, self, index) for index, lengths in games]
        self.turns = sum(len(lengths) for _, lengths in games)
        self.open = len(self.tables)


class Worker:
    """Plays what it is given. `next` is when something happens in it; `turn()` is to be called then."""

    def __init__(
        self, engine: Engine, prompt: float, *, way: Way, load: float, answer: Callable[[Worker, Chunk, float], None]
    ) -> None:
        """`load` is seconds for new weights; `answer` is called with a chunk and the time when its last game ends."""
        self.next = math.inf
        self.inbox: deque[Chunk] = deque()
        self.busy: list[tuple[float, float]] = []
        """When it had games, but for those that it has now."""
        self.busy_since: float | None = None
        self.row_seconds = 0.0
        """Replies being decoded, summed over time."""
        self._base = _pass_bases(engine)
        self._cache, self._prompt_seconds = engine.cache_seconds, engine.prompt_seconds
        self._prompt = prompt
        self._limit = engine.rows
        self._way, self._load, self._answer = way, load, answer
        self._now = self._clock = self._context = 0.0
        self._rows: list[tuple[float, int, Table]] = []
        self._count = 0
        self._held: list[Table] = []
        self._starting: deque[Table] = deque()
        self._under_way = 0
        self._version = -1
        self._newest = 0
        self._draining = False

    def give(self, chunk: Chunk, now: float) -> None:
        """One more chunk in hand."""
        self.inbox.append(chunk)
        if self._under_way < self._limit:
            self._advance(now)
            self._fill()
            self._plan()

    def notify(self, version: int, now: float) -> None:
        """There are newer weights for games that are played with the newest."""
        self._newest = version
        if not self._under_way or self._way == "chunks":
            return
        if self._way == "joined":
            self._draining = True
            return
        self._advance(now)
        self._take(version)
        self._plan()

    def turn(self) -> None:
        """The next reply ends."""
        rows = self._rows
        count = len(rows)
        end, number, table = rows[0]
        versions, lengths = table.versions, table.lengths
        turn = len(versions)
        self.row_seconds += count * (self.next - self._now)
        self._now = self.next
        self._context += count * (end - self._clock) - self._prompt - lengths[turn - 1]
        self._clock = end
        if turn == len(lengths):
            heapq.heappop(rows)
            self._end(table)
        elif self._draining:
            heapq.heappop(rows)
            self._held.append(table)
        else:
            versions.append(self._version)
            heapq.heapreplace(rows, (end + lengths[turn], number, table))
            self._now += self._prompt_seconds
            self._context += self._prompt
        if not rows and self._draining:
            self._renew()
        self._plan()

    def _end(self, table: Table) -> None:
        self._under_way -= 1
        chunk = table.chunk
        chunk.open -= 1
        if not chunk.open:
            self._answer(self, chunk, self._now)
        self._fill()
        if not self._under_way and self.busy_since is not None:
            self.busy.append((self.busy_since, self._now))
            self.busy_since = None

    def _fill(self) -> None:
        """Begins games while there is room."""
        while self._under_way < self._limit:
            if not self._starting and not self._open_chunk():
                return
            self._under_way += 1
            self._submit(self._starting.popleft())

    def _open_chunk(self) -> bool:
        """Whether there is a chunk whose games may begin now; its weights are there then."""
        if not self.inbox:
            return False
        version = self.inbox[0].version
        if self._under_way:
            same = version is None or version == self._version
            if self._way == "chunks" or (self._way == "joined" and not same):
                return False
            if not same:
                self._take(version)
        else:
            self.busy_since = self._now if self.busy_since is None else self.busy_since
            self._take(self._newest if version is None else version)
        self._starting.extend(self.inbox.popleft().tables)
        return True

    def _take(self, version: int | None) -> None:
        """Loads weights if they are others; nothing is decoded meanwhile."""
        assert version is not None
        self._draining = False
        if version != self._version:
            self._now += self._load
            self._version = version

    def _renew(self) -> None:
        """No reply is under way: takes the weights that were waited for, and goes on with what was held back."""
        self._draining = False
        if self._under_way:
            self._take(self._newest)
            held, self._held = self._held, []
            for table in held:
                self._submit(table)

    def _submit(self, table: Table) -> None:
        """A turn begins. Its prompt stops the whole batch."""
        if self._draining:
            self._held.append(table)
            return
        length = table.lengths[len(table.versions)]
        table.versions.append(self._version)
        self._count += 1
        heapq.heappush(self._rows, (self._clock + length, self._count, table))
        self._now += self._prompt_seconds
        self._context += self._prompt

    def _advance(self, now: float) -> None:
        """Decodes up to some time before the next reply ends."""
        seconds = now - self._now
        if seconds <= 0:
            return
        count = len(self._rows)
        if count:
            self.row_seconds += count * seconds
            linear = self._base[count] + self._cache * self._context
            passes = 2 * seconds / (linear + math.sqrt(linear**2 + 2 * self._cache * count * seconds))
            self._clock += passes
            self._context += count * passes
        self._now = now

    def _plan(self) -> None:
        """When the next reply ends."""
        rows = self._rows
        if not rows:
            self.next = math.inf
            return
        count = len(rows)
        passes = rows[0][0] - self._clock
        self.next = self._now + passes * (self._base[count] + self._cache * (self._context + count * passes / 2))


@functools.lru_cache(maxsize=8)
def _pass_bases(engine: Engine) -> list[float]:
    """By rows."""
    return [engine.pass_base(rows) for rows in range(engine.rows + 1)]
