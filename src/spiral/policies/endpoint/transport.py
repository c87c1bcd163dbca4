"""One POST and its answer, with a bound on everything that comes back.

Whatever the status, the bytes of an answer are counted as they arrive and again as they are unpacked, and the time of
the whole exchange is limited. Nothing is followed to another host. Headers are bounded by the HTTP library, at 100 KB.
"""

from __future__ import annotations

import dataclasses
import http.cookiejar
import json
import ssl
import urllib.request
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from spiral.policies.endpoint.config import EndpointConfig

MAX_BYTES = 16 * 2**20
"""Of any reply."""
BYTES_A_TOKEN = 400
"""Far more than JSON takes for a token; a reply whose budget is small is bounded accordingly."""
ROOM_BYTES = 2**20
"""What a reply may have beside its text."""
MAX_ERROR_BYTES = 2**16
"""Of the body of an error; the rest is not read."""
MAX_REDIRECTS = 3
CONNECT_SECONDS = 10.0
"""A server that is there answers much sooner; one that is not costs this much."""
KEPT_METHOD = frozenset({307, 308})
"""Redirects that ask for the same request again."""
UNPACKED_BY = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Encodings that some servers use though none is asked for, and zlib's number for each."""


class LostError(Exception):
    """A connection that was never made (`sent` is false), or one that broke."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class TooMuchError(Exception):
    """An answer that is longer than any reply, or packed in a way that cannot be bounded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """Unpacked; of an error only the beginning."""

    @property
    def is_reply(self) -> bool:
        """Whether the body is meant to be a reply."""
        return 200 <= self.status < 300


class Transport:
    """Owns the connections."""

    def __init__(self, config: EndpointConfig, key: str | None) -> None:
        """Raises `ValueError` when the `httpx2` package is missing."""
        try:
            import httpx2  # the extra `endpoint`
        except ImportError as error:
            raise ValueError(
                'an endpoint needs the package httpx2; run `pip install "spiral-selfplay[endpoint]"`'
            ) from error
        self._httpx = httpx2
        self._config = config
        self.url = f"{config.base_url.rstrip('/')}/chat/completions"
        headers = {"User-Agent": "spiral-selfplay", "Content-Type": "application/json", "Accept": "application/json"}
        headers |= {"Accept-Encoding": "identity"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        self._proxy = _proxy(config)
        # Reading the system's certificates takes a while; without TLS nothing is trusted by them.
        verify = config.base_url.startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx2.AsyncClient(
            headers=headers,
            # What the environment says of proxies is not for this machine itself.
            transport=httpx2.AsyncHTTPTransport(verify=verify, limits=httpx2.Limits()) if config.is_local else None,
            verify=verify,
            limits=httpx2.Limits(),
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        )

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.aclose()

    async def post(self, request: Mapping[str, Any], max_tokens: int, url: str) -> Response:
        """Sends a request to `url` and reads what comes back, for a reply of at most `tokens` tokens.

        The time is the caller's to limit. Raises `LostError` and `TooMuchError`.
        """
        content = json.dumps(request).encode()
        most = min(MAX_BYTES, ROOM_BYTES + BYTES_A_TOKEN * max_tokens)
        sent = False
        seconds = dict.fromkeys(("connect", "read", "write", "pool"), CONNECT_SECONDS)

        async def watch(event: str, info: Mapping[str, Any]) -> None:
            """Ends the time for connecting, which also a proxy may use up, when the request itself is sent."""
            nonlocal sent
            if event.endswith("send_request_headers.started") and info["request"].method == b"POST":
                sent = True
                seconds.update(read=self._config.timeout_seconds, write=self._config.timeout_seconds)

        extensions = {"trace": watch, "timeout": seconds}
        try:
            async with self._client.stream("POST", url, content=content, extensions=extensions) as response:
                found = Response(status=response.status_code, headers=response.headers, body=b"")
                body = await self._read(response, most if found.is_reply else MAX_ERROR_BYTES, whole=found.is_reply)
                return dataclasses.replace(found, body=body)
        except TooMuchError:
            raise
        except Exception as error:  # the HTTP library's own errors, and whatever it lets through from below
            if sent and isinstance(error, self._httpx.TimeoutException):
                raise TimeoutError from error
            raise self._lost(error, sent=sent) from error

    async def _read(self, response: Any, most: int, *, whole: bool) -> bytes:
        """The body, unpacked. What is longer than `most` bytes is an error if the `whole` is wanted, and else cut."""
        packing = [name for part in response.headers.get("content-encoding", "").split(",") if (name := part.strip())]
        packing = [name.lower() for name in packing if name.lower() != "identity"]
        if len(packing) > 1 or any(name not in UNPACKED_BY for name in packing):
            if not whole:
                return b""
            raise TooMuchError(f"the reply is packed as {', '.join(packing)[:40]!r}, which was not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > most:
                if whole:
                    raise TooMuchError(f"the reply is longer than {most:,} bytes")
                break
        return self._unpacked(bytes(body), packing[0], most, whole=whole) if packing else bytes(body[: most + 1])

    def _unpacked(self, body: bytes, packing: str, most: int, *, whole: bool) -> bytes:
        try:
            found = zlib.decompressobj(UNPACKED_BY[packing]).decompress(body, most + 1)
        except zlib.error:
            if not whole:
                return b""
            raise TooMuchError(f"the reply cannot be unpacked, though it says that it is {packing}") from None
        if whole and len(found) > most:
            raise TooMuchError(f"the reply is longer than {most:,} bytes")
        return found

    def redirected(self, response: Response, url: str) -> str | None:
        """Where the same request is to be sent again, if that is on the same host; None for anywhere else."""
        try:
            there = urljoin(url, response.headers.get("location", ""))
            same = _origin(there) == _origin(url)
        except ValueError:
            return None
        return there if response.status in KEPT_METHOD and same else None

    def _lost(self, error: Exception, *, sent: bool) -> LostError:
        host = self._config.host
        if sent:
            return LostError(f"the connection to {host} broke ({type(error).__name__})", sent=True)
        through = f" through the proxy {self._proxy}" if self._proxy else ""
        waited = f" within {CONNECT_SECONDS:g} s" if isinstance(error, self._httpx.TimeoutException) else ""
        said = str(error)
        why = f" ({said})" if said and "All connection attempts failed" not in said else ""
        return LostError(f"cannot connect to {host}{through}{waited}{why}", sent=False)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _proxy(config: EndpointConfig) -> str | None:
    """Host and port of the proxy that the environment puts between us and the server."""
    parts = urlsplit(config.base_url)
    if config.is_local or not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return urlsplit(found if "//" in found else f"//{found}").netloc.rpartition("@")[2] if found else None
