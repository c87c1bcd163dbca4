"""One chat completion: a request sent, and what came back as a reply or as a failure that says what to do about it.

Worth sending again is what a server says is temporary (408, 409, 425, 429, 5xx), a lost connection, a request whose
time is up, and a body that is no reply. A missing key, money or model is missing for every request. A parameter that
is not taken is left out or renamed, and the request sent again.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable, Mapping
from typing import Any

from spiral.core.policy import SamplingConfig
from spiral.core.printable import one_line
from spiral.policies.endpoint.budget import FREE
from spiral.policies.endpoint.config import EndpointConfig
from spiral.policies.endpoint.parameters import NotTakenError, Parameters
from spiral.policies.endpoint.refusal import Refusal, read_refusal
from spiral.policies.endpoint.reply import Answer, BadBodyError, Bill, FilteredError, read_body, retry_after
from spiral.policies.endpoint.transport import MAX_REDIRECTS, LostError, Response, TooMuchError, Transport
from spiral.text.prompts import Message

TEMPORARY = frozenset({408, 409, 425, 429})
FOR_ALL = frozenset({401, 402, 404, 405, 407})
UNPROCESSABLE = frozenset({400, 422, 500, 501})
"""How servers answer a parameter that they do not take."""
ABOUT_WORDS = frozenset({400, 403, 422, 451})
"""Statuses that may be about one prompt or about every request; the words with them tell."""
LONGEST_WAIT = 120.0
"""A server that asks for a longer pause in seconds is not waited for."""


class FailedError(Exception):
    """One request that gave no reply."""

    def __init__(
        self,
        reason: str,
        *,
        again: bool,
        bill: Bill | None = FREE,
        wait: float | None = None,
        for_all: bool = False,
        learnt: bool = False,
        unreachable: bool = False,
        filtered: bool = False,
    ) -> None:
        """`again`: worth another try, after `wait` seconds if given; `for_all`: so will every other request fail.

        `bill` is what it cost; None when it is not known. `learnt`: the next try will be another request.
        `unreachable`: there was no connection. `filtered`: the server will not answer this prompt, though it could.
        """
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.bill = bill
        self.wait = wait
        self.for_all = for_all
        self.learnt = learnt
        self.unreachable = unreachable
        self.filtered = filtered


class Requester:
    """Asks one server, by what is known of the parameters that it takes."""

    def __init__(
        self,
        config: EndpointConfig,
        key: str | None,
        parameters: Parameters,
        *,
        hold_back: Callable[[float], None],
        count: Callable[[], None],
    ) -> None:
        """`hold_back(seconds)` is called when the server asks everyone to wait, `count()` for each request sent.

        Raises `ValueError` when the `httpx2` package is missing.
        """
        self._config = config
        self._parameters = parameters
        self._hold_back = hold_back
        self._count = count
        self._transport = Transport(config, key)

    async def close(self) -> None:
        """Ends the connections."""
        await self._transport.close()

    async def send(self, messages: list[Message], sampling: SamplingConfig, seed: int) -> Answer:
        """Sends a request and reads the reply, in the time allowed. Raises `FailedError`."""
        sent = self._parameters.values(sampling, seed)
        request: dict[str, Any] = {"model": self._config.model, "messages": messages, **sent}
        if self._config.host == "openrouter.ai":
            request["usage"] = {"include": True}  # what it cost, in dollars
        try:
            return await self._exchange(request, sampling.max_new_tokens, sent)
        except NotTakenError as error:
            raise FailedError(one_line(str(error)), again=False, for_all=True) from error

    async def _exchange(self, request: dict[str, Any], max_tokens: int, sent: Mapping[str, Any]) -> Answer:
        seconds, host = self._config.timeout_seconds, self._config.host
        try:
            async with asyncio.timeout(seconds):
                response = await self._response(request, max_tokens)
            if not response.is_reply:
                raise self._refused(response.status, read_refusal(response.body), response.headers, sent)
            return read_body(response.body)
        except TimeoutError as error:
            raise FailedError(f"no reply from {host} within {seconds:g} s", again=True, bill=None) from error
        except LostError as error:
            bill = None if error.sent else FREE
            raise FailedError(one_line(error.reason), again=True, bill=bill, unreachable=not error.sent) from error
        except TooMuchError as error:
            raise FailedError(f"{host}: {error}", again=True, bill=None) from error
        except FilteredError as error:
            raise FailedError(error.reason, again=False, bill=error.bill, filtered=True) from error
        except BadBodyError as error:
            status = error.status or (402 if error.refusal.is_money else None)
            if status is not None:
                raise self._refused(status, error.refusal, {}, sent, error.bill) from error
            raise FailedError(f"{host}: {error.reason}", again=True, bill=error.bill) from error

    async def _response(self, request: dict[str, Any], max_tokens: int) -> Response:
        """What the server answers, at the place on the same host to which it redirects."""
        url = self._transport.url
        for _ in range(MAX_REDIRECTS):
            response = await self._transport.post(request, max_tokens, url)
            there = self._transport.redirected(response, url)
            if there is None:
                return response
            self._count()
            url = there
        return await self._transport.post(request, max_tokens, url)

    def _refused(
        self, status: int, refusal: Refusal, headers: Mapping[str, str], sent: Mapping[str, Any], bill: Bill = FREE
    ) -> FailedError:
        """What an HTTP status and the words with it mean. Raises `NotTakenError`."""
        reason = self._reason(status, refusal, headers)
        if status in UNPROCESSABLE and self._parameters.learn(sent, refusal):
            return FailedError(reason, again=True, bill=bill, learnt=True)
        is_about_words = status in ABOUT_WORDS
        no_money = 400 <= status < 500 and refusal.is_money
        filtered = is_about_words and refusal.is_of_one_prompt and not no_money
        no_right = status in FOR_ALL or 300 <= status < 400 or (is_about_words and refusal.is_key)
        if no_money or filtered or no_right:
            return FailedError(reason, again=False, bill=bill, for_all=not filtered, filtered=filtered)
        again, wait = status in TEMPORARY or status >= 500, retry_after(headers)
        if again and wait is not None and wait > LONGEST_WAIT:
            return FailedError(f"{reason} (and asks to wait more than {LONGEST_WAIT:g} s)", again=False, bill=bill)
        if status == 429 and wait is not None:
            self._hold_back(wait)
        return FailedError(reason, again=again, bill=bill, wait=wait)

    def _reason(self, status: int, refusal: Refusal, headers: Mapping[str, str]) -> str:
        try:
            name = f"HTTP {status} {http.HTTPStatus(status).phrase}"
        except ValueError:
            name = f"HTTP {status}"
        reason = f"{self._config.host} answers {name}" + (f": {refusal.text}" if refusal.text else "")
        there = one_line(headers.get("location", "")) if 300 <= status < 400 else ""
        return f"{reason}, to {there}, which is not followed; set base_url to the right address" if there else reason
