"""A cluster in simulated time: workers, a learner, and a driver that deals, as in `spiral.distributed`.

A worker has chunks in hand and plays their games together (`scaling_worker`). A chunk comes back when its last game is
over; the driver handles what comes back one after the other, and gives the next to the worker with the fewest games.
With the way "chunks" a worker has two chunks in hand and plays one after the other, as it did before games joined.

Left out: as in `benchmarks.scaling_model`, and evaluation, checkpoints and lost workers.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence

from benchmarks.scaling_model import Engine
from benchmarks.scaling_play import Game, deal
from benchmarks.scaling_worker import Chunk, Table, Way, Worker
from spiral.runs.cluster import Schedule

MAX_CHUNKS = 32
"""Maximum number of chunks assigned to a worker, as `spiral.distributed.rollout_worker.MAX_CHUNKS`."""
CHUNKS_PER_WORKER = 8
"""As `spiral.distributed.game_queue.CHUNKS_PER_WORKER`."""
FORMER_CHUNKS = 2
"""Chunks that a worker's share was cut into, and chunks in its hand, when it played one after the other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A cluster but for its games. Times in seconds."""

    workers: int
    schedule: Schedule
    engine: Engine
    prompt: float
    """Tokens."""
    max_staleness: int = 1
    way: Way = "joined"
    in_flight: int = 256
    """Games that a worker has under way at most; it has a few more in hand."""
    chunks_per_worker: int = CHUNKS_PER_WORKER
    learn: float
    hand_out: float = 0.0
    load: float = 0.0
    handling: float = 0.0
    """The driver's, a turn that comes in."""
    batching: float = 0.0
    """The driver's, a turn of a step that is complete."""

    @property
    def steps_ahead(self) -> int:
        """As `spiral.runs.cluster.ClusterConfig.steps_ahead`."""
        return {"sync": 0, "overlap": 1, "async": self.max_staleness}[self.schedule]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Means over the steps that count."""

    step: float
    """Seconds."""
    turns: float
    """Learned from in a step, those too old not counted."""
    rollout_idle: float
    """Share of the workers' time in which they neither play nor load weights."""
    learner_idle: float
    """Share of the time without an update."""
    in_flight: float
    """Replies being decoded by a worker, mean over time."""
    staleness: float
    """Updates, mean over turns."""
    staleness_max: int
    dropped: float
    """Share of turns too old to learn from."""


class _Cluster:
    """Workers and the driver's bookkeeping; time advances when the driver or the learner waits."""

    def __init__(self, setting: Setting, games: int) -> None:
        """`games` is those of a step."""
        self.setting = setting
        self.finished: dict[int, list[Table]] = {}
        """By step."""
        self.done = 0
        """Games that are in `finished`."""
        self.waiting: deque[Chunk] = deque()
        self.workers = [
            Worker(setting.engine, setting.prompt, way=setting.way, load=setting.load, answer=self._answered)
            for _ in range(setting.workers)
        ]
        chunk_games = -(-games // min(games, setting.chunks_per_worker * setting.workers))
        self._hand = setting.in_flight + 2 * chunk_games
        self._indices = {worker: index for index, worker in enumerate(self.workers)}
        self._chunks = [0] * setting.workers
        self._games = [0] * setting.workers
        self._spare = [(0, index) for index in range(setting.workers)]
        self._handled = 0.0
        self._count = 0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._turns: list[tuple[float, int]] = []
        """When something happens in which worker; at most one entry of a worker is true, the others are of before."""

    def hand_out(self, now: float) -> None:
        """Waiting chunks to the workers with the least in hand."""
        while self.waiting and self._spare:
            held, index = heapq.heappop(self._spare)
            if held != self._held(index) or not self._has_room(index):
                continue  # an older note of the same worker
            chunk = self.waiting.popleft()
            self._chunks[index] += 1
            self._games[index] += len(chunk.tables)
            worker = self.workers[index]
            planned = worker.next
            worker.give(chunk, now)
            if worker.next != planned:
                heapq.heappush(self._turns, (worker.next, index))
            self._note(index)

    def notify(self, version: int, now: float) -> None:
        """Notifies every worker of newer weights."""
        for index, worker in enumerate(self.workers):
            planned = worker.next
            worker.notify(version, now)
            if worker.next != planned:
                heapq.heappush(self._turns, (worker.next, index))

    def wait(self, ready: Callable[[], bool], now: float) -> float:
        """When `ready()` holds first."""
        self.run(now)
        while not ready():
            now = self._next(math.inf)
        return now

    def run(self, until: float) -> None:
        """Everything that happens up to some time."""
        while self._next(until) <= until:
            pass

    def _next(self, until: float) -> float:
        """Lets workers play up to the driver's next event up to some time, which then happens; when it did."""
        turns, workers = self._turns, self.workers
        while True:
            event = self._events[0][0] if self._events else math.inf
            last = min(event, until)
            if turns and turns[0][0] <= last:
                time, index = turns[0]
                worker = workers[index]
                if worker.next != time:
                    heapq.heappop(turns)
                    continue
                worker.turn()
                if worker.next < math.inf:
                    heapq.heapreplace(turns, (worker.next, index))
                else:
                    heapq.heappop(turns)
            elif event <= until:
                assert event < math.inf, "waiting for an event that never happens"
                _, _, action = heapq.heappop(self._events)
                action(event)
                return event
            else:
                return math.inf

    def _answered(self, worker: Worker, chunk: Chunk, now: float) -> None:
        """A worker gives a chunk back; the driver takes it up when it has handled those before."""
        self._handled = max(self._handled, now) + self.setting.handling * chunk.turns
        self._count += 1
        settle: Callable[[float], None] = functools.partial(self._settle, self._indices[worker], chunk)
        heapq.heappush(self._events, (self._handled, self._count, settle))

    def _settle(self, index: int, chunk: Chunk, now: float) -> None:
        self.finished.setdefault(chunk.step, []).extend(chunk.tables)
        self.done += len(chunk.tables)
        self._chunks[index] -= 1
        self._games[index] -= len(chunk.tables)
        self._note(index)
        self.hand_out(now)

    def _held(self, index: int) -> int:
        return self._chunks[index] if self.setting.way == "chunks" else self._games[index]

    def _has_room(self, index: int) -> bool:
        if self.setting.way == "chunks":
            return self._chunks[index] < FORMER_CHUNKS
        return self._games[index] < self._hand and self._chunks[index] < MAX_CHUNKS

    def _note(self, index: int) -> None:
        """Notes that a worker has room, and how much it has in hand."""
        if self._has_room(index):
            heapq.heappush(self._spare, (self._held(index), index))

    def take(self, step: int, games: int) -> list[Table]:
        """A step's games; with async the first that are there, in the order of dealing."""
        self.done -= games
        if self.setting.schedule != "async":
            return self.finished.pop(step)
        taken: list[Table] = []
        for number in sorted(self.finished):
            tables = sorted(self.finished.pop(number), key=lambda table: table.index)
            room = games - len(taken)
            taken += tables[:room]
            if tables[room:]:
                self.finished[number] = tables[room:]
                break
        return taken

    def ready(self, step: int, games: int) -> bool:
        """Whether `take` has what it takes."""
        if self.setting.schedule == "async":
            return self.done >= games
        return len(self.finished.get(step, ())) == games


def simulate(setting: Setting, draw: Callable[[int], Sequence[Game]], steps: int, warm_up: int = 2) -> Result:
    """Runs `spiral.training.loop` over the games `draw(0)`, `draw(1)`, ...; the first steps do not count.

    Raises `ValueError` when there are too few steps.
    """
    if steps <= warm_up:
        raise ValueError(f"{steps} steps were given; expected more than {warm_up}, the first of which do not count")
    games = len(draw(0))
    cluster = _Cluster(setting, games)
    now = began = rows_began = 0.0
    dealt = 0
    ages: Counter[int] = Counter()
    for step in range(steps):
        if step == warm_up:
            began, rows_began = now, _row_seconds(cluster)
        for following in range(dealt, step + setting.steps_ahead + 1):
            version = None if setting.schedule == "async" else step
            chunks = deal(list(enumerate(draw(following))), setting.workers, setting.chunks_per_worker)
            cluster.waiting.extend(Chunk(following, number, chunk, version) for number, chunk in enumerate(chunks))
        dealt = step + setting.steps_ahead + 1
        cluster.hand_out(now)
        now = cluster.wait(functools.partial(cluster.ready, step, games), now)
        taken = cluster.take(step, games)
        if step >= warm_up:
            ages.update(step - version for table in taken for version in table.versions)
        turns = sum(len(table.lengths) for table in taken)
        now += setting.batching * turns + setting.learn + setting.hand_out
        cluster.run(now)
        if setting.schedule == "async":
            cluster.notify(step + 1, now)
    rows = _row_seconds(cluster) - rows_began
    return _result(setting, cluster, ages, now, began, rows, steps - warm_up)


def _row_seconds(cluster: _Cluster) -> float:
    return sum(worker.row_seconds for worker in cluster.workers)


def _result(
    setting: Setting, cluster: _Cluster, ages: Counter[int], now: float, began: float, rows: float, steps: int
) -> Result:
    elapsed = now - began
    busy = [
        max(0.0, min(end, now) - max(begin, began))
        for worker in cluster.workers
        for begin, end in (*worker.busy, *([] if worker.busy_since is None else [(worker.busy_since, now)]))
    ]
    turns = ages.total()
    kept = sum(count for age, count in ages.items() if age <= setting.max_staleness)
    return Result(
        step=elapsed / steps,
        turns=kept / steps,
        rollout_idle=1 - sum(busy) / (elapsed * setting.workers),
        learner_idle=1 - steps * setting.learn / elapsed,
        in_flight=rows / (elapsed * setting.workers),
        staleness=sum(age * count for age, count in ages.items()) / turns,
        staleness_max=max(ages),
        dropped=1 - kept / turns,
    )
