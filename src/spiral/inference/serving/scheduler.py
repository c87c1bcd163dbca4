"""Generates the replies of many requests in one batch, in a thread that owns the engine.

Requests join and leave the batch at every token. Each reply has its own seed and sampling, so it does not depend on
which others are generated beside it.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spiral.core.policy import SamplingConfig
from spiral.core.records import IntArray
from spiral.inference.base import PromptRequest
from spiral.inference.serving.protocol import ApiError, Choice, FinishReason, TokenText
from spiral.text import ChatCodec

if TYPE_CHECKING:
    from spiral.core.policy import TurnReply
    from spiral.inference.transformers import TransformersPolicy

logger = logging.getLogger(__name__)

REPLACEMENT = "\ufffd"
"""What a tokenizer writes for the first bytes of a character whose last ones are still to come."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A further part of a reply."""

    text: str
    detail: tuple[TokenText, ...] = ()


Event = Piece | Choice | ApiError
"""A part of a reply; its end; or why there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One reply to generate."""

    codec: ChatCodec
    """Reads the reply."""
    prompt_ids: IntArray
    """[P]"""
    seed: int
    sampling: SamplingConfig
    stops: tuple[str, ...]
    stream: bool
    """Whether parts are delivered as they are generated."""
    logprobs: bool
    deliver: Callable[[Event], None]
    """Called in the scheduler's thread."""


class Scheduler:
    """Owns the engine and its thread."""

    def __init__(self, policy: TransformersPolicy, *, in_flight: int, queue: int) -> None:
        """Starts the thread.

        Args:
            policy: The engine. The scheduler's thread alone may use it from now on.
            in_flight: Maximum number of replies that are generated at once.
            queue: Maximum number of further replies that wait; beyond it requests are refused.
        """
        self.policy = policy
        self.in_flight = in_flight
        self.queue = queue
        self._waiting: collections.deque[Job] = collections.deque()
        self._dropped: set[Job] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._active: dict[int, tuple[Job, ReplyText]] = {}
        self._next_key = 0
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)
        self._thread.start()

    def add(self, jobs: Sequence[Job]) -> None:
        """Queues jobs. Raises `ApiError` when the queue is full."""
        with self._changed:
            if len(self._waiting) + len(jobs) > self.queue:
                raise ApiError(
                    f"{len(self._waiting)} replies are waiting already and {len(jobs)} more do not fit into the queue"
                    f" of {self.queue}; try again later",
                    status=429,
                    kind="rate_limit_error",
                    code="rate_limit_exceeded",
                )
            self._waiting.extend(jobs)
            self._changed.notify()

    def drop(self, jobs: Sequence[Job]) -> None:
        """Drops jobs whose client is gone; those already done are ignored."""
        with self._changed:
            self._dropped.update(jobs)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the present token."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._waiting or self._active):
                    self._dropped.clear()
                    self._changed.wait()
                if self._closed:
                    return
                new = self._taken()
            try:
                self._generate(new)
            except Exception as error:
                logger.exception("the engine failed")
                self._fail(f"the engine failed: {type(error).__name__}: {error}")

    def _taken(self) -> list[tuple[int, Job]]:
        """The jobs that join the batch now; forgets those that were dropped."""
        gone, self._dropped = self._dropped, set()
        if gone:
            self._waiting = collections.deque(job for job in self._waiting if job not in gone)
            keys = [key for key, (job, _) in self._active.items() if job in gone]
            self.policy.drop(keys)
            for key in keys:
                del self._active[key]
        new = []
        while self._waiting and len(self._active) < self.in_flight:
            job = self._waiting.popleft()
            key, self._next_key = self._next_key, self._next_key + 1
            self._active[key] = job, ReplyText(job)
            new.append((key, job))
        return new

    def _generate(self, new: Sequence[tuple[int, Job]]) -> None:
        """One token more for every reply."""
        self.policy.submit_prompts(
            [
                PromptRequest(key=key, prompt_ids=job.prompt_ids, seed=job.seed, sampling=job.sampling)
                for key, job in new
            ]
        )
        for reply in self.policy.step():
            self._finish(reply)
        for key, (token_ids, logprobs) in self.policy.in_flight().items():
            job, text = self._active[key]
            if not (job.stream or job.stops):
                continue
            text.read(token_ids, logprobs)
            if text.stopped:
                self.policy.drop([key])
                self._end(key, text.choice("stop"))
            elif job.stream and (piece := text.new()):
                job.deliver(piece)

    def _finish(self, reply: TurnReply) -> None:
        generation = reply.generation
        if generation is None:
            raise RuntimeError("the engine gave a reply without tokens")
        _, text = self._active[reply.key]
        text.read(generation.token_ids.tolist(), generation.logprobs.tolist(), ended=True)
        finish: FinishReason = "stop" if text.stopped or generation.stop_reason == "stop" else "length"
        self._end(reply.key, text.choice(finish))

    def _end(self, key: int, choice: Choice) -> None:
        job, text = self._active.pop(key)
        if job.stream and (piece := text.new(rest=True)):
            job.deliver(piece)
        job.deliver(choice)

    def _fail(self, message: str) -> None:
        """Answers all requests of the batch with an error, and begins anew."""
        self.policy.cancel()
        active, self._active = list(self._active.values()), {}
        for job, _ in active:
            job.deliver(ApiError(message, status=500, kind="server_error"))


class ReplyText:
    """The text of a reply while its tokens come in, cut off before the first stop text."""

    def __init__(self, job: Job) -> None:
        self._codec = job.codec
        self._stops = job.stops
        self._logprobs = job.logprobs
        self._opened = job.codec.opened
        self._ids: list[int] = []
        self._values: list[float] = []
        self._text = ""
        self._safe = 0
        self._sent = self._sent_tokens = 0
        self._sent_opening = False
        self.stopped = False
        """Whether a stop text has come."""

    def read(self, token_ids: Sequence[int], logprobs: Sequence[float], *, ended: bool = False) -> None:
        """Takes all tokens so far."""
        before = len(self._text)
        self._ids, self._values = list(token_ids), list(logprobs)
        self._text = self._codec.decode(np.asarray(self._ids, dtype=np.int64))
        longest = max(map(len, self._stops), default=0)
        found = [at for stop in self._stops if (at := self._text.find(stop, max(0, before - longest))) >= 0]
        if found:
            self._text, self.stopped = self._text[: min(found)], True
        whole = len(self._text) if ended or self.stopped else len(self._text.rstrip(REPLACEMENT))
        self._safe = whole if ended or self.stopped else whole - self._held_back(self._text[:whole])

    def _held_back(self, text: str) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:length])
            ),
            default=0,
        )

    def new(self, *, rest: bool = False) -> Piece | None:
        """What has been added since the last call; None for nothing. With `rest` also tokens that have no text."""
        opening = "" if self._sent_opening else self._opened
        text = opening + self._text[self._sent : self._safe]
        if not text and not (rest and self._logprobs):
            return None
        self._sent_opening, self._sent = True, max(self._sent, self._safe)
        return Piece(text=text, detail=self._tokens(self._safe) if self._logprobs else ())

    def _tokens(self, length: int) -> tuple[TokenText, ...]:
        """The tokens within the first `length` characters that were not given yet."""
        last = bisect.bisect_right(
            range(len(self._ids) + 1),
            length,
            key=lambda count: len(self._codec.decode(np.asarray(self._ids[:count], dtype=np.int64))),
        )
        end = len(self._ids) if length >= len(self._text) and not self.stopped else last - 1
        first, self._sent_tokens = self._sent_tokens, max(self._sent_tokens, end)
        return self._detail(first, end)

    def _detail(self, first: int, end: int) -> tuple[TokenText, ...]:
        """Text and log-probability of some tokens, without those that have no text, such as the end of the turn."""
        texts = [self._codec.decode(np.asarray([id_], dtype=np.int64)) for id_ in self._ids[first:end]]
        return tuple(
            TokenText(text=text, logprob=value)
            for text, value in zip(texts, self._values[first:end], strict=True)
            if text
        )

    def choice(self, finish: FinishReason) -> Choice:
        """The finished reply."""
        reading = self._codec.read(np.asarray(self._ids, dtype=np.int64))
        sent, self._sent_tokens = self._sent_tokens, 0
        detail = self._tokens(len(self._text)) if self._logprobs else ()
        self._sent_tokens = sent
        return Choice(
            text=self._opened + self._text,
            finish_reason=finish,
            tokens=len(self._ids),
            thinking_tokens=min(len(self._ids), reading.thinking_tokens),
            detail=detail,
        )
