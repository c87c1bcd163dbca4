"""Sends many chat completions to one server at once, and retries each until it succeeds or is given up.

The requests run in an event loop in a separate thread, so replies arrive while other policies compute. The pauses
before retries double each time, with jitter, and are never shorter than the server requests (Retry-After, RFC 9110).
The client stops for good when the server refuses every request, cannot be reached, or has answered none of the first
turns. The first failure is logged while the request is retried.

Requests of older games go first. When the money runs out, few games are then in progress, and most are either finished
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
from spiral.policies.endpoint.budget import FREE, Ledger, shared_account
from spiral.policies.endpoint.config import EndpointConfig
from spiral.policies.endpoint.parameters import Parameters
from spiral.policies.endpoint.reply import Answer, Bill, shorten
from spiral.policies.endpoint.request import FailedError, Requester
from spiral.text.prompts import Message

logger = logging.getLogger(__name__)

MAX_FAULTS = 8
"""Turns without a reply, and no turn with one, after which the client stops."""
PROBE_SECONDS = 2.0
"""Time that other requests wait for the first one; a server refuses a parameter sooner."""
BACKOFF_SECONDS = 1.0
"""The first pause before a retry."""
MAX_BACKOFF_SECONDS = 60.0
"""The longest pause that the client chooses itself."""
UNREACHABLE_SECONDS = 15.0
"""Time for which the client tries to reach a server that it never connected to."""
MAX_CHARACTERS_PER_TOKEN = 32
"""Far above the mean of any readable text. A reply that is longer went beyond its budget and is cut off."""


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class ReplyRequest:
    """One reply to request."""

    game: int
    """The lowest game is served first."""
    number: int
    """Identifies the reply."""
    seed: int = dataclasses.field(compare=False)
    messages: list[Message] = dataclasses.field(compare=False)
    sampling: SamplingConfig = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """Why there is no reply."""

    reason: str
    filtered: bool = False
    """Whether the server's content filter blocked this prompt or its reply."""


class EndpointClient:
    """Owns the thread, the connections and the ledger.

    The queue `done` yields `(number, result)` for each request; the result is an `Answer`, a `Fault`, or an exception
    of our own code.
    """

    def __init__(
        self, config: EndpointConfig, backoff_seconds: float, *, name: str, required: frozenset[str] = frozenset()
    ) -> None:
        """`required` is as in `Parameters`. Raises `ValueError` when the key or the `httpx2` package is missing."""
        self._config = config
        self._backoff = backoff_seconds
        self._key = config.api_key()
        account = shared_account(name, config)
        self.ledger = Ledger(config.budget, account)
        self.parameters = Parameters(config, required)
        self.done: queue.SimpleQueue[tuple[int, Answer | Fault | BaseException]] = queue.SimpleQueue()
        self._rate_limiter = account.rate_limiter
        self._waiting: list[ReplyRequest] = []
        self._running: set[asyncio.Task[None]] = set()
        self._stop_reason = ""
        self._reached = self._logged = False
        self._probe: int | None = None
        self._probed = asyncio.Event()
        self._requester = Requester(
            config, self._key, self.parameters, pause=self._rate_limiter.pause, count=self._count
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._thread.start()

    def send(self, requests: Sequence[ReplyRequest]) -> None:
        """Queues requests and returns at once."""
        self._loop.call_soon_threadsafe(self._queue, requests)

    def cancel(self) -> None:
        """Drops every request, also those in flight; their cost still counts."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()

    def close(self) -> None:
        """Closes the connections and ends the thread."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        if threading.current_thread() is not self._thread:  # the garbage collector may call this in any thread
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _queue(self, requests: Sequence[ReplyRequest]) -> None:
        for request in requests:
            heapq.heappush(self._waiting, request)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._config.max_in_flight:
            task = self._loop.create_task(self._serve(heapq.heappop(self._waiting)))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    async def _serve(self, request: ReplyRequest) -> None:
        try:
            self.done.put((request.number, await self._answer(request)))
        except Exception as error:  # an error of our own code; `EndpointPolicy.poll` raises it
            self.done.put((request.number, error))

    async def _drop(self) -> None:
        self._waiting.clear()
        self._probe = None
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _close(self) -> None:
        await self._drop()
        with contextlib.suppress(Exception):  # the connections are abandoned anyway
            await self._requester.close()
        await asyncio.sleep(0.01)  # aborted connections close themselves
        self._loop.stop()

    async def _answer(self, request: ReplyRequest) -> Answer | Fault:
        """The reply to a request, after retries if needed, or the reason why there is none."""
        attempt, is_retry, started = 0, False, time.monotonic()
        while True:
            await self._wait_for_probe(request)
            if self._stop_reason:
                return self._fault(self._stop_reason)
            try:
                answer = await self._send_once(request, is_retry=is_retry)
            except FailedError as failure:
                is_retry = True
                if not failure.adapted:
                    self._probed.set()
                self._reached = self._reached or not failure.unreachable
                if failure.fatal:
                    self._stop_reason = failure.reason
                if not failure.retry:
                    return self._fault(failure.reason, filtered=failure.filtered)
                if failure.adapted:
                    continue
                pause = self._pause(request, attempt, failure.wait_seconds)
                unreachable = not self._reached and time.monotonic() - started + pause > UNREACHABLE_SECONDS
                if unreachable or attempt == self._config.retries:
                    reason = f"{failure.reason}; given up after {attempt + 1} attempts"
                    self._stop_reason = reason if unreachable else ""
                    return self._fault(reason)
                self._log_retry(failure.reason)
                await asyncio.sleep(pause)
                attempt += 1
            else:
                self._probed.set()
                self._reached = True
                self.ledger.answers += 1
                return self._bounded(answer, request.sampling.max_new_tokens)

    async def _wait_for_probe(self, request: ReplyRequest) -> None:
        """Lets the first request find out which parameters the server accepts, for at most `PROBE_SECONDS`."""
        if self._probe is None:
            self._probe = request.number
        if self._probe != request.number and not self._probed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._probed.wait(), PROBE_SECONDS)
            self._probed.set()

    def _log_retry(self, reason: str) -> None:
        """Logs the first failure that is retried; the usage counts the others."""
        if not self._logged:
            self._logged = True
            logger.warning("%s; trying again", shorten(self._redact(reason)))

    def _count(self) -> None:
        self.ledger.requests += 1

    def _fault(self, reason: str, *, filtered: bool = False) -> Fault:
        self.ledger.faults += 1
        self.ledger.answers += filtered
        if self.ledger.faults >= MAX_FAULTS and not self.ledger.answers:
            self._stop_reason = self._stop_reason or reason
        return Fault(reason=shorten(self._redact(reason)), filtered=filtered)

    def _pause(self, request: ReplyRequest, attempt: int, wait_seconds: float | None) -> float:
        """Seconds until the next attempt: exponential backoff with jitter, at least `wait_seconds`."""
        jitter = random.Random(derive_seed(request.seed, "backoff", attempt)).uniform(0.5, 1.0)
        return max(min(MAX_BACKOFF_SECONDS, self._backoff * 2.0**attempt) * jitter, wait_seconds or 0.0)

    async def _send_once(self, request: ReplyRequest, *, is_retry: bool) -> Answer:
        """Sends one request and books its cost. Raises `FailedError`."""
        size = sum(len(message["content"].encode()) for message in request.messages)
        account = self.ledger.account
        reserved = self.ledger.max_cost(size, request.sampling.max_new_tokens)
        if not await account.reserve(reserved):
            raise FailedError(f"the spend limit of ${account.limit} is reached", retry=False)
        bill: Bill | None = FREE
        try:
            await self._rate_limiter.wait()
            bill = None  # from here on the cost of a cancelled request is unknown
            self._count()
            self.ledger.retries += is_retry
            answer = await self._requester.send(request.messages, request.sampling, request.seed)
            bill = answer.bill
        except FailedError as failure:
            bill = failure.bill
            raise
        finally:
            self.ledger.settle(reserved, bill)
        return answer

    def _bounded(self, answer: Answer, max_new_tokens: int) -> Answer:
        """The reply without the API key, in case a server sends it back, cut off at the length of its budget."""
        size = MAX_CHARACTERS_PER_TOKEN * max_new_tokens
        return dataclasses.replace(
            answer, thinking=self._redact(answer.thinking)[:size], content=self._redact(answer.content)[:size]
        )

    def _redact(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "[key]")
