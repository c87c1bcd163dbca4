"""Sends one chat completion and reads its result: a reply, or a failure and what to do about it.

Worth another attempt: errors that the server calls temporary (408, 409, 425, 429, 5xx), lost connections, timeouts, and
bodies that are not replies. A missing key, credit or model fails every request. A parameter that the server does not
accept is left out or renamed, and the request is sent again.

Everything that comes back is bounded. The bytes of a body are counted as they arrive and again as they are
decompressed, whatever the status, and the whole exchange has a time limit. Redirects to other hosts are not followed.
The HTTP library limits headers to 100 KB.
"""

from __future__ import annotations

import asyncio
import dataclasses
import http
import http.cookiejar
import json
import ssl
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from spiral.core.policy import SamplingConfig
from spiral.core.printable import one_line
from spiral.policies.endpoint.budget import FREE
from spiral.policies.endpoint.config import EndpointConfig
from spiral.policies.endpoint.parameters import NotAcceptedError, Parameters
from spiral.policies.endpoint.reply import (
    Answer,
    BadBodyError,
    Bill,
    FilteredError,
    Refusal,
    read_body,
    read_refusal,
    retry_after,
)
from spiral.text.prompts import Message

TEMPORARY = frozenset({408, 409, 425, 429})
"""Statuses that are worth a retry, besides 5xx."""
FATAL = frozenset({401, 402, 404, 405, 407})
"""Statuses with which every other request would fail too."""
UNPROCESSABLE = frozenset({400, 422, 500, 501})
"""Statuses that servers use for a parameter that they do not accept."""
AMBIGUOUS = frozenset({400, 403, 422, 451})
"""Statuses that can be about one prompt or about every request, which only the message shows."""
MAX_RETRY_AFTER = 120.0
"""Seconds. A request is given up when the server asks for a longer pause."""
MAX_BYTES = 16 * 2**20
"""Limit on the size of any reply."""
BYTES_PER_TOKEN = 400
"""Far above the size of a token in JSON; bounds a reply by its budget."""
OVERHEAD_BYTES = 2**20
"""Size of a reply besides its text."""
MAX_ERROR_BYTES = 2**16
"""Limit on the body of an error; the rest is not read."""
MAX_REDIRECTS = 3
CONNECT_SECONDS = 10.0
"""Time limit for a connection. A running server answers much sooner."""
REDIRECTS = frozenset({307, 308})
"""Redirects that keep the method and body of a request."""
ZLIB_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Encodings that some servers use without being asked, and zlib's `wbits` for each."""


class FailedError(Exception):
    """A request that got no reply."""

    def __init__(
        self,
        reason: str,
        *,
        retry: bool,
        bill: Bill | None = FREE,
        wait_seconds: float | None = None,
        fatal: bool = False,
        adapted: bool = False,
        unreachable: bool = False,
        filtered: bool = False,
    ) -> None:
        """Describes the failure.

        Args:
            reason: The message.
            retry: Whether another attempt may succeed.
            bill: What the request cost; None when that is unknown.
            wait_seconds: The pause that the server asks for.
            fatal: Whether every other request would fail too.
            adapted: Whether the parameters changed, so that the next attempt is a different request.
            unreachable: Whether there was no connection.
            filtered: Whether the server's content filter blocked this prompt or its reply.
        """
        super().__init__(reason)
        self.reason = reason
        self.retry = retry
        self.bill = bill
        self.wait_seconds = wait_seconds
        self.fatal = fatal
        self.adapted = adapted
        self.unreachable = unreachable
        self.filtered = filtered


class Requester:
    """Sends requests to one server with the parameters that it accepts."""

    def __init__(
        self,
        config: EndpointConfig,
        key: str | None,
        parameters: Parameters,
        *,
        pause: Callable[[float], None],
        count: Callable[[], None],
    ) -> None:
        """Prepares the connections.

        Args:
            config: The endpoint's settings.
            key: The API key, if the server needs one.
            parameters: The parameters that the server accepts, adapted to its errors.
            pause: Called with the seconds that the server asks all requests to wait.
            count: Called for each additional request after a redirect.

        Raises:
            ValueError: The `httpx2` package is missing.
        """
        self._config = config
        self._parameters = parameters
        self._pause = pause
        self._count = count
        self._transport = Transport(config, key)

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def send(self, messages: list[Message], sampling: SamplingConfig, seed: int) -> Answer:
        """Sends a request and reads its reply within the time limit. Raises `FailedError`."""
        sent = self._parameters.values(sampling, seed)
        request: dict[str, Any] = {"model": self._config.model, "messages": messages, **sent}
        if self._config.host == "openrouter.ai":
            request["usage"] = {"include": True}  # asks for the cost in dollars
        try:
            return await self._exchange(request, sampling.max_new_tokens, sent)
        except NotAcceptedError as error:
            raise FailedError(one_line(str(error)), retry=False, fatal=True) from error

    async def _exchange(self, request: dict[str, Any], max_tokens: int, sent: Mapping[str, Any]) -> Answer:
        seconds, host = self._config.timeout_seconds, self._config.host
        try:
            async with asyncio.timeout(seconds):
                response = await self._response(request, max_tokens)
            if not response.is_reply:
                raise self._refused(response.status, read_refusal(response.body), response.headers, sent)
            return read_body(response.body)
        except TimeoutError as error:
            raise FailedError(f"no reply from {host} within {seconds:g} s", retry=True, bill=None) from error
        except ConnectionFailedError as error:
            bill = None if error.sent else FREE
            raise FailedError(one_line(error.reason), retry=True, bill=bill, unreachable=not error.sent) from error
        except OversizedError as error:
            raise FailedError(f"{host}: {error}", retry=True, bill=None) from error
        except FilteredError as error:
            raise FailedError(error.reason, retry=False, bill=error.bill, filtered=True) from error
        except BadBodyError as error:
            status = error.status or (402 if error.refusal.is_out_of_money else None)
            if status is not None:
                raise self._refused(status, error.refusal, {}, sent, error.bill) from error
            raise FailedError(f"{host}: {error.reason}", retry=True, bill=error.bill) from error

    async def _response(self, request: dict[str, Any], max_tokens: int) -> Response:
        """The server's response, after redirects on the same host."""
        url = self._transport.url
        for _ in range(MAX_REDIRECTS):
            response = await self._transport.post(request, max_tokens, url)
            target = self._transport.redirect_target(response, url)
            if target is None:
                return response
            self._count()
            url = target
        return await self._transport.post(request, max_tokens, url)

    def _refused(
        self, status: int, refusal: Refusal, headers: Mapping[str, str], sent: Mapping[str, Any], bill: Bill = FREE
    ) -> FailedError:
        """Decides what an HTTP status and its message mean. Raises `NotAcceptedError`."""
        reason = self._reason(status, refusal, headers)
        if status in UNPROCESSABLE and self._parameters.learn(sent, refusal):
            return FailedError(reason, retry=True, bill=bill, adapted=True)
        ambiguous = status in AMBIGUOUS
        no_money = 400 <= status < 500 and refusal.is_out_of_money
        filtered = ambiguous and refusal.is_about_prompt and not no_money
        fatal = status in FATAL or 300 <= status < 400 or (ambiguous and refusal.is_about_key)
        if no_money or filtered or fatal:
            return FailedError(reason, retry=False, bill=bill, fatal=not filtered, filtered=filtered)
        retry, wait_seconds = status in TEMPORARY or status >= 500, retry_after(headers)
        if retry and wait_seconds is not None and wait_seconds > MAX_RETRY_AFTER:
            reason = f"{reason} (and asks to wait more than {MAX_RETRY_AFTER:g} s)"
            return FailedError(reason, retry=False, bill=bill)
        if status == 429 and wait_seconds is not None:
            self._pause(wait_seconds)
        return FailedError(reason, retry=retry, bill=bill, wait_seconds=wait_seconds)

    def _reason(self, status: int, refusal: Refusal, headers: Mapping[str, str]) -> str:
        try:
            name = f"HTTP {status} {http.HTTPStatus(status).phrase}"
        except ValueError:
            name = f"HTTP {status}"
        reason = f"{self._config.host} answers {name}" + (f": {refusal.text}" if refusal.text else "")
        target = one_line(headers.get("location", "")) if 300 <= status < 400 else ""
        return f"{reason}, to {target}, which is not followed; set base_url to the right address" if target else reason


class ConnectionFailedError(Exception):
    """There was no connection (`sent` is false), or it broke after the request was sent."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class OversizedError(Exception):
    """A body that is larger than any reply, or in an encoding whose size cannot be bounded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """Decompressed; of an error only the beginning."""

    @property
    def is_reply(self) -> bool:
        """Whether the status says that the body is a reply."""
        return 200 <= self.status < 300


class Transport:
    """Owns the connections to one server."""

    def __init__(self, config: EndpointConfig, key: str | None) -> None:
        """Raises `ValueError` when the `httpx2` package is missing."""
        try:
            import httpx2  # the extra `endpoint`
        except ImportError as error:
            raise ValueError("endpoints need the package httpx2; run `pip install httpx2`") from error
        self._httpx = httpx2
        self._config = config
        self.url = f"{config.base_url.rstrip('/')}/chat/completions"
        headers = {"User-Agent": "spiral-selfplay", "Content-Type": "application/json", "Accept": "application/json"}
        headers |= {"Accept-Encoding": "identity"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        self._proxy = _proxy(config)
        # Without TLS the system's certificates are not needed, and reading them takes time.
        verify = config.base_url.startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx2.AsyncClient(
            headers=headers,
            # A server on this machine is reached without the proxies of the environment.
            transport=httpx2.AsyncHTTPTransport(verify=verify, limits=httpx2.Limits()) if config.is_local else None,
            verify=verify,
            limits=httpx2.Limits(),
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def post(self, request: Mapping[str, Any], max_tokens: int, url: str) -> Response:
        """Sends a request and reads the response; the caller limits the time.

        Args:
            request: The JSON object to send.
            max_tokens: The budget of the reply, which bounds its size.
            url: The address.

        Raises:
            ConnectionFailedError: There was no connection, or it broke.
            OversizedError: The reply is too large.
        """
        content = json.dumps(request).encode()
        max_size = min(MAX_BYTES, OVERHEAD_BYTES + BYTES_PER_TOKEN * max_tokens)
        sent = False
        seconds = dict.fromkeys(("connect", "read", "write", "pool"), CONNECT_SECONDS)

        async def watch(event: str, info: Mapping[str, Any]) -> None:
            """Replaces the time limit for connecting, also through a proxy, when the request itself is sent."""
            nonlocal sent
            if event.endswith("send_request_headers.started") and info["request"].method == b"POST":
                sent = True
                seconds.update(read=self._config.timeout_seconds, write=self._config.timeout_seconds)

        extensions = {"trace": watch, "timeout": seconds}
        try:
            async with self._client.stream("POST", url, content=content, extensions=extensions) as response:
                found = Response(status=response.status_code, headers=response.headers, body=b"")
                body = await self._read(response, max_size if found.is_reply else MAX_ERROR_BYTES, whole=found.is_reply)
                return dataclasses.replace(found, body=body)
        except OversizedError:
            raise
        except Exception as error:  # errors of the HTTP library and of the layers below it
            if sent and isinstance(error, self._httpx.TimeoutException):
                raise TimeoutError from error
            raise self._connection_failed(error, sent=sent) from error

    async def _read(self, response: Any, max_size: int, *, whole: bool) -> bytes:
        """The decompressed body. A body above `max_size` bytes is an error with `whole`, and cut off otherwise."""
        parts = [name for part in response.headers.get("content-encoding", "").split(",") if (name := part.strip())]
        encodings = [name.lower() for name in parts if name.lower() != "identity"]
        if len(encodings) > 1 or any(name not in ZLIB_BITS for name in encodings):
            if not whole:
                return b""
            raise OversizedError(f"the reply is encoded as {', '.join(encodings)[:40]!r}, which was not requested")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > max_size:
                if whole:
                    raise OversizedError(f"the reply is longer than {max_size:,} bytes")
                break
        if encodings:
            return self._decompress(bytes(body), encodings[0], max_size, whole=whole)
        return bytes(body[: max_size + 1])

    def _decompress(self, body: bytes, encoding: str, max_size: int, *, whole: bool) -> bytes:
        try:
            content = zlib.decompressobj(ZLIB_BITS[encoding]).decompress(body, max_size + 1)
        except zlib.error:
            if not whole:
                return b""
            raise OversizedError(f"the reply cannot be decompressed as {encoding}, its declared encoding") from None
        if whole and len(content) > max_size:
            raise OversizedError(f"the reply is longer than {max_size:,} bytes")
        return content

    def redirect_target(self, response: Response, url: str) -> str | None:
        """The address to which the response redirects the same request; None without one on the same host."""
        try:
            target = urljoin(url, response.headers.get("location", ""))
            same = _origin(target) == _origin(url)
        except ValueError:
            return None
        return target if response.status in REDIRECTS and same else None

    def _connection_failed(self, error: Exception, *, sent: bool) -> ConnectionFailedError:
        host = self._config.host
        if sent:
            return ConnectionFailedError(f"the connection to {host} broke ({type(error).__name__})", sent=True)
        through = f" through the proxy {self._proxy}" if self._proxy else ""
        limit = f" within {CONNECT_SECONDS:g} s" if isinstance(error, self._httpx.TimeoutException) else ""
        message = str(error)
        why = f" ({message})" if message and "All connection attempts failed" not in message else ""
        return ConnectionFailedError(f"cannot connect to {host}{through}{limit}{why}", sent=False)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _proxy(config: EndpointConfig) -> str | None:
    """Host and port of the proxy for this server in the environment; None for none."""
    parts = urlsplit(config.base_url)
    if config.is_local or not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return urlsplit(found if "//" in found else f"//{found}").netloc.rpartition("@")[2] if found else None
