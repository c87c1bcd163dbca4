"""Chat completions of one server, many at once, each sent again until it succeeds or is given up.

An event loop in a thread of its own does the waiting, so that replies come in while other players think. The pauses
before a request is sent again double each time, with jitter, and are never shorter than the server asks for
(Retry-After, RFC 9110). A server that refuses everybody, cannot be reached, or has not answered any of the first turns
is asked nothing more at all. The first failure is reported while the request is sent again.

Requests of older games go first. When the money runs out, few games are then under way and most are either finished
or not begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import logging
import queue
import random
import threading
import time
from collections.abc import Sequence

from spiral.core.policy import SamplingConfig
from spiral.core.seeds import derive_seed
from spiral.policies.endpoint.budget import FREE, Ledger, account_of
from spiral.policies.endpoint.config import EndpointConfig
from spiral.policies.endpoint.parameters import Parameters
from spiral.policies.endpoint.refusal import shorten
from spiral.policies.endpoint.reply import Answer, Bill
from spiral.policies.endpoint.request import FailedError, Requester
from spiral.text.prompts import Message

logger = logging.getLogger(__name__)

HOPELESS = 8
"""Turns given up without any ever answered, after which nothing more is asked."""
SCOUT_SECONDS = 2.0
"""How long the others wait for the first request; a refusal comes sooner."""
BACKOFF_SECONDS = 1.0
UNREACHABLE_SECONDS = 15.0
"""A server to which there never was a connection is tried for so long."""
LONGEST_BACKOFF = 60.0
CHARACTERS_A_TOKEN = 32
"""Far more than the mean of any text worth reading; what a server says beyond its budget was not asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Ask:
    """A reply that is wanted: `game` is served lowest first, and `number` comes back with the reply."""

    game: int
    number: int
    seed: int = dataclasses.field(compare=False)
    messages: list[Message] = dataclasses.field(compare=False)
    sampling: SamplingConfig = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """Why there is no reply."""

    reason: str
    filtered: bool = False
    """Whether the server would answer, but not this."""


class EndpointClient:
    """Owns the thread, the connections and the ledger. `done` gives `(number, Answer | Fault)`, or an error of ours."""

    def __init__(
        self, config: EndpointConfig, backoff_seconds: float, *, name: str, required: frozenset[str] = frozenset()
    ) -> None:
        """`required` as in `Parameters`. Raises `ValueError` when the key or the `httpx2` package is missing."""
        self._config = config
        self._backoff = backoff_seconds
        self._key = config.api_key()
        account = account_of(name, config)
        self.ledger = Ledger(config.budget, account)
        self.parameters = Parameters(config, required)
        self.done: queue.SimpleQueue[tuple[int, Answer | Fault | BaseException]] = queue.SimpleQueue()
        self._pace = account.pace
        self._waiting: list[Ask] = []
        self._running: set[asyncio.Task[None]] = set()
        self._given_up = ""
        self._reached = self._told = False
        self._scout: int | None = None
        self._scouted = asyncio.Event()
        self._requester = Requester(
            config, self._key, self.parameters, hold_back=self._pace.hold_back, count=self._count
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._thread.start()

    def send(self, asks: Sequence[Ask]) -> None:
        """Takes on requests; returns at once."""
        self._loop.call_soon_threadsafe(self._take, asks)

    def forget(self) -> None:
        """Gives up every request, those under way too; whatever they cost counts."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()

    def close(self) -> None:
        """Ends the connections and the thread."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        if threading.current_thread() is not self._thread:  # garbage is collected in any thread
            self._thread.join()

    def _run(self) -> None:
        """The thread."""
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _take(self, asks: Sequence[Ask]) -> None:
        for ask in asks:
            heapq.heappush(self._waiting, ask)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._config.max_in_flight:
            task = self._loop.create_task(self._serve(heapq.heappop(self._waiting)))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    async def _serve(self, ask: Ask) -> None:
        try:
            self.done.put((ask.number, await self._answer(ask)))
        except Exception as error:  # a mistake of ours; it is raised where the reply is waited for
            self.done.put((ask.number, error))

    async def _drop(self) -> None:
        self._waiting.clear()
        self._scout = None
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _close(self) -> None:
        await self._drop()
        with contextlib.suppress(Exception):  # there is nothing left to lose
            await self._requester.close()
        await asyncio.sleep(0.01)  # connections that were broken off close themselves
        self._loop.stop()

    async def _answer(self, ask: Ask) -> Answer | Fault:
        """A reply, however often it has to be asked for, or why there is none."""
        attempt, again, begun = 0, False, time.monotonic()
        while True:
            await self._scouted_by(ask)
            if self._given_up:
                return self._fault(self._given_up)
            try:
                answer = await self._try(ask, again=again)
            except FailedError as failure:
                again = True
                if not failure.learnt:
                    self._scouted.set()
                self._reached = self._reached or not failure.unreachable
                if failure.for_all:
                    self._given_up = failure.reason
                if not failure.again:
                    return self._fault(failure.reason, filtered=failure.filtered)
                if failure.learnt:
                    continue
                pause = self._pause(ask, attempt, failure.wait)
                late = not self._reached and time.monotonic() - begun + pause > UNREACHABLE_SECONDS
                if late or attempt == self._config.retries:
                    reason = f"{failure.reason}; given up after {attempt + 1} attempts"
                    self._given_up = reason if late else ""
                    return self._fault(reason)
                self._tell(failure.reason)
                await asyncio.sleep(pause)
                attempt += 1
            else:
                self._scouted.set()
                self._reached = True
                self.ledger.answers += 1
                return self._tidied(answer, ask.sampling.max_new_tokens)

    async def _scouted_by(self, ask: Ask) -> None:
        """Lets one request find out what the server takes before many are refused; a slow one is not waited for."""
        if self._scout is None:
            self._scout = ask.number
        if self._scout != ask.number and not self._scouted.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._scouted.wait(), SCOUT_SECONDS)
            self._scouted.set()

    def _tell(self, reason: str) -> None:
        """The first failure that is tried again, once; the others end up in the usage."""
        if not self._told:
            self._told = True
            logger.warning("%s; trying again", shorten(self._redact(reason)))

    def _count(self) -> None:
        self.ledger.requests += 1

    def _fault(self, reason: str, *, filtered: bool = False) -> Fault:
        self.ledger.faults += 1
        self.ledger.answers += filtered
        if self.ledger.faults >= HOPELESS and not self.ledger.answers:
            self._given_up = self._given_up or reason
        return Fault(reason=shorten(self._redact(reason)), filtered=filtered)

    def _pause(self, ask: Ask, attempt: int, wait: float | None) -> float:
        """Seconds until the next attempt: twice as many as before, less some jitter, and no fewer than asked for."""
        jitter = random.Random(derive_seed(ask.seed, "backoff", attempt)).uniform(0.5, 1.0)
        return max(min(LONGEST_BACKOFF, self._backoff * 2.0**attempt) * jitter, wait or 0.0)

    async def _try(self, ask: Ask, *, again: bool) -> Answer:
        """One request, paid for. Raises `FailedError`."""
        size = sum(len(message["content"].encode()) for message in ask.messages)
        account = self.ledger.account
        held = self.ledger.most(size, ask.sampling.max_new_tokens)
        if not await account.hold(held):
            raise FailedError(f"the spend limit of ${account.limit} is reached", again=False)
        bill: Bill | None = FREE
        try:
            await self._pace.turn()
            bill = None  # from here on whoever is interrupted does not know
            self._count()
            self.ledger.retries += again
            answer = await self._requester.send(ask.messages, ask.sampling, ask.seed)
            bill = answer.bill
        except FailedError as failure:
            bill = failure.bill
            raise
        finally:
            self.ledger.settle(held, bill)
        return answer

    def _tidied(self, answer: Answer, max_new_tokens: int) -> Answer:
        """The reply without our own key, should a server send it back, and no longer than its tokens can have been."""
        most = CHARACTERS_A_TOKEN * max_new_tokens
        return dataclasses.replace(
            answer, thinking=self._redact(answer.thinking)[:most], content=self._redact(answer.content)[:most]
        )

    def _redact(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "[key]")
