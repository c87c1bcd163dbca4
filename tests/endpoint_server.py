"""A small local OpenAI-compatible server that plays games, and misbehaves on demand.

Its behaviour is a function of the request and its number; every request is kept. Its moves depend only on the
observation and the seed, not on the number or order of requests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LEGAL = re.compile(r"Your legal actions[^:]*: (.*)\.")
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """A response to send."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the first byte."""
    trickle: float = 0.0
    """Seconds between two bytes."""
    cut: bool = False
    """Whether to break the connection half way through the body."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A request that arrived."""

    number: int
    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    time_s: float

    @property
    def observation(self) -> str:
        """The user's last message."""
        return str(self.body["messages"][-1]["content"])


Behaviour = Callable[[Request], Response]


def chosen(request: Request) -> str:
    """The legal action that this server plays."""
    actions = LEGAL.findall(request.observation)[-1].split(", ")
    digest = hashlib.sha256(f"{request.body['seed']}:{request.observation}".encode()).digest()
    return str(actions[digest[0] % len(actions)])


def completion(content: object, *, finish: str | None = "stop", usage: object = None, **message: object) -> bytes:
    """The body of a chat completion."""
    counted = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
    counted["total_tokens"] = PROMPT_TOKENS + COMPLETION_TOKENS
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "x",
            "choices": [
                {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
            ],
            "usage": counted if usage is None else usage,
        }
    ).encode()


def good(request: Request) -> Response:
    """A legal move with a thought before it."""
    return Response(body=completion(f"This looks best. \\boxed{{{chosen(request)}}}"))


def slow(seconds: float) -> Behaviour:
    """A legal move after some seconds."""
    return lambda request: dataclasses.replace(good(request), delay=seconds)


def saying(content: object, **fields: Any) -> Behaviour:
    """Always the same message."""
    return lambda request: Response(body=completion(content, **fields))


def refusing(status: int, message: str = "", **headers: str) -> Behaviour:
    """Always the same HTTP error; the underscores of header names stand for hyphens."""
    body = json.dumps({"error": {"message": message}}).encode() if message else b""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: Response(status=status, body=body, headers=named)


def raw(body: bytes, content_type: str = "application/json") -> Behaviour:
    """Always the same bytes."""
    return lambda request: Response(body=body, headers={"Content-Type": content_type})


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The behaviours in turn, then the last one forever."""
    return lambda request: behaviours[min(request.number, len(behaviours) - 1)](request)


def flaky(share: float, *failures: Behaviour, seed: int = 0) -> Behaviour:
    """Fails a share of the requests, each in one of the given ways."""
    rng = random.Random(seed)

    def behave(request: Request) -> Response:
        return (rng.choice(failures) if rng.random() < share else good)(request)

    return behave


class _Server(ThreadingHTTPServer):
    """Accepts as many connections at once as there are games; the default backlog of five is too short."""

    request_queue_size = 256


class EndpointServer:
    """Context manager that listens on a free port."""

    def __init__(self, behaviour: Behaviour = good) -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> EndpointServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            request = Request(
                number=len(self.requests),
                body=body,
                headers={name.lower(): value for name, value in handler.headers.items()},
                path=handler.path,
                time_s=time.monotonic(),
            )
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            response = self.behaviour(request)
        self._ended.wait(response.delay)
        with self._lock:
            self._at_once -= 1
        try:
            self._respond(handler, response)
        except OSError:  # the client has gone
            handler.close_connection = True

    def _respond(self, handler: BaseHTTPRequestHandler, response: Response) -> None:
        handler.send_response(response.status)
        for name, value in {"Content-Type": "application/json", **response.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(response.body)))
        handler.end_headers()
        if response.cut:
            handler.wfile.write(response.body[: len(response.body) // 2])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
        elif response.trickle:
            for offset in range(len(response.body)):
                handler.wfile.write(response.body[offset : offset + 1])
                handler.wfile.flush()
                self._ended.wait(response.trickle)
        else:
            handler.wfile.write(response.body)
