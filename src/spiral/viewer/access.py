"""Which requests the viewer answers: those with the token, from the page itself.

The page is open to every program of this machine, and a web site in the same browser can send requests to it. So each
request needs the token, in a cookie that other sites cannot use or as a bearer token; the name in `Host` must be this
machine's, against names that another site points here (DNS rebinding); and an `Origin` must be the page's own.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spiral.viewer.responses import TextResponse, error_response

COOKIE = "spiral_token"
MAX_BODY = 64 * 1024
"""Bytes of a request's body; the longest is a message in a game."""
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class AccessCheck:
    """Refuses requests without the token, for another host or of another origin; adds headers to every response."""

    def __init__(self, app: ASGIApp, *, token: str, host: str) -> None:
        """`host` is the address that the server listens on."""
        self._app = app
        self._token = token
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refused(scope) if scope["type"] == "http" else _refuse_websocket
        await (refused or self._app)(scope, receive, with_headers)

    def _refused(self, scope: Scope) -> ASGIApp | None:
        """What is answered in place of the page; None for a request that may pass."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        foreign = ""
        if not self._is_own(host):
            foreign = f"this is no page of {_name(host)!r}; open the address that `spiral view` printed"
        elif origin is not None and origin.lower() != f"http://{host}".lower():
            foreign = "another web site sent this request, and only the page itself may ask"
        if foreign:
            return error_response(403, foreign)
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token")
        if scope["path"] == "/" and given and scope["method"] in ("GET", "HEAD"):
            return self._with_cookie() if self._right(given[0]) else self._no_token()
        if not self._right(_bearer(headers)) and not self._right(self._cookie(headers)):
            return self._no_token()
        length = headers.get("content-length", "0")
        if headers.get("transfer-encoding") or not length.isdigit() or int(length) > MAX_BODY:
            return error_response(413, f"the request is too large; at most {MAX_BODY:,} bytes are read")
        return None

    def _is_own(self, host: str) -> bool:
        """Whether a `Host` header names this machine as the server listens to it; any port, as a tunnel changes it."""
        name = _name(host)
        if name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not _is_loopback(self._host) and name in {self._host.lower(), *_own_names()}
        return address.is_loopback or not _is_loopback(self._host)

    def _right(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def _cookie(self, headers: Headers) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie_name())
        except CookieError:
            return ""
        return found.value if found is not None else ""

    def _cookie_name(self) -> str:
        """A name of this server's own: cookies belong to a host, whatever the port, and two viewers may run on it."""
        return f"{COOKIE}_{self._token[:8]}"

    def _with_cookie(self) -> ASGIApp:
        cookie = f"{self._cookie_name()}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        return TextResponse(b"", status_code=303, headers={"Location": "/", "Set-Cookie": cookie})

    def _no_token(self) -> ASGIApp:
        return error_response(401, "this page needs its token; open the address that `spiral view` printed")


async def _refuse_websocket(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 1008})


def _bearer(headers: Headers) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _name(host: str) -> str:
    """The name in a `Host` header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _own_names() -> set[str]:
    return {socket.gethostname().lower(), socket.getfqdn().lower()}
