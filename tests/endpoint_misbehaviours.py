"""Misbehaviours of a server, each as the bytes that it sends and the expected result.

The server uses plain sockets, because no HTTP library sends such responses. A misbehaviour is a function of the
connection and the request, and is the same for every attempt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import json
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator

from endpoint_server import Request, chosen, completion

Act = Callable[["Connection"], None]
PLAYS = "plays"
"""The reply is read and its move played."""
OWN = "own"
"""The reply is read and is an illegal move."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Misbehaviour:
    """One misbehaviour."""

    act: Act
    expect: str
    """Part of the fault's message; `PLAYS` or `OWN` when there is a reply after all."""
    attempts: int | None = None
    """Number of requests, at most two; None when it may vary."""
    slow: bool = False
    """Whether it uses the whole time limit of a request."""
    scheme: str = "http"


class Connection:
    """One client whose request has been read."""

    def __init__(self, raw: socket.socket, request: Request, ended: threading.Event) -> None:
        self.raw = raw
        self.request = request
        self.ended = ended

    @property
    def good(self) -> bytes:
        """The body of a reply with a legal move."""
        return completion(f"\\boxed{{{chosen(self.request)}}}")

    def send(self, data: bytes) -> None:
        self.raw.sendall(data)

    def reset(self) -> None:
        """Breaks the connection with a reset."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.raw.detach())


class RawServer:
    """Context manager that misbehaves on a free port, with one thread for each connection."""

    def __init__(self) -> None:
        self.act: Act = lambda connection: None
        self.requests = 0
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), raw:
            for request in self._requests(raw):
                self.requests += 1
                self.act(Connection(raw, request, self._ended))

    def _requests(self, raw: socket.socket) -> Iterator[Request]:
        if raw.recv(1, socket.MSG_PEEK) == b"\x16":  # TLS, as plain servers answer it
            raw.sendall(head("400 Bad Request", 0))
            return
        stream = raw.makefile("rb")
        while line := stream.readline():
            path = line.split()[1].decode() if line.count(b" ") == 2 else ""
            headers = {}
            while (line := stream.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            body = json.loads(stream.read(int(headers.get("content-length", 0))) or b"{}")
            yield Request(number=self.requests, body=body, headers=headers, path=path, time_s=time.monotonic())


def head(status: object = "200 OK", length: int | None = None, **headers: object) -> bytes:
    """The head of a response; underscores in names stand for hyphens."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def whole(body: bytes | str, status: object = "200 OK", **headers: object) -> Act:
    """A well-formed response with any body."""
    content = body.encode() if isinstance(body, str) else body
    return lambda connection: connection.send(head(status, len(content), **headers) + content)


def error(status: object, message: object = None, **headers: object) -> Act:
    """A status with OpenAI's error object."""
    return whole(b"" if message is None else json.dumps({"error": message}).encode(), status, **headers)


def changed(change: Callable[[dict], object]) -> Act:
    """A good completion, modified by `change`."""

    def act(connection: Connection) -> None:
        body = json.loads(connection.good)
        change(body)
        content = json.dumps(body).encode()
        connection.send(head(length=len(content)) + content)

    return act


def of_good(make: Callable[[bytes], bytes]) -> Act:
    """The bytes, with head, that `make` returns for a good body."""
    return lambda connection: connection.send(make(connection.good))


def endless(start: bytes, more: bytes, pause: float = 0.0) -> Act:
    """Never stops sending."""

    def act(connection: Connection) -> None:
        connection.send(start)
        while not connection.ended.wait(pause) if pause else not connection.ended.is_set():
            connection.send(more)

    return act


def closing(make: Callable[[bytes], bytes]) -> Act:
    """Sends bytes and closes."""

    def act(connection: Connection) -> None:
        connection.send(make(connection.good))
        connection.raw.shutdown(socket.SHUT_RDWR)

    return act


def resetting(make: Callable[[bytes], bytes]) -> Act:
    """Sends bytes and breaks the connection."""

    def act(connection: Connection) -> None:
        connection.send(make(connection.good))
        time.sleep(0.02)
        connection.reset()

    return act


def silent(connection: Connection) -> None:
    """Sends nothing more."""
    connection.ended.wait(30)


@functools.cache
def bomb(layers: int, mib: int) -> bytes:
    """Zeros, compressed one or more times."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(2**20)
    if layers > 1:
        return gzip.compress(bomb(layers - 1, mib))
    return b"".join(packer.compress(block) for _ in range(mib)) + packer.flush()


def content(value: object) -> Act:
    def change(body: dict) -> None:
        body["choices"][0]["message"]["content"] = value

    return changed(change)


def usage(value: object) -> Act:
    return changed(lambda body: body.update(usage=value))


def choice(**fields: object) -> Act:
    return changed(lambda body: body["choices"][0].update(fields))


def choices(value: object) -> Act:
    return changed(lambda body: body.update(choices=value))


def packed(pack: Callable[[bytes], bytes], name: str, status: str = "200 OK") -> Act:
    return of_good(lambda good: head(status, len(body := pack(good)), Content_Encoding=name) + body)


def chunked(make: Callable[[bytes], bytes]) -> Act:
    return of_good(lambda good: head(Transfer_Encoding="chunked") + make(good))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_ONE, _BOTH = 1, 2
NOT_JSON, NO_MESSAGE, BROKE = "the reply is not JSON", "the reply has no message", "broke ("
TIME_UP, TOO_LONG = "no reply from", "is longer than"
QUOTA = {"message": "You exceeded your current quota, please check your plan and billing details.", "type": "x"}


def _it(act: Act, expect: str, attempts: int | None = None, **more: object) -> Misbehaviour:
    return Misbehaviour(act=act, expect=expect, attempts=attempts, **more)


STATUSES = {
    "400 without a word": _it(error("400 Bad Request"), "HTTP 400 Bad Request", _ONE),
    "400 in plain text": _it(whole("no, thanks\n", "400 Bad Request"), "Bad Request: no, thanks", _ONE),
    "400 as a page": _it(
        whole("<html><title>Too &amp; bad</title><p>x", "400 Bad Request"), "Bad Request: Too & bad", _ONE
    ),
    "400 as a list": _it(
        whole('[{"error": {"code": 400, "message": "odd", "status": "INVALID_ARGUMENT"}}]', "400 Bad Request"),
        "Bad Request: odd",
        _ONE,
    ),
    "400 nested": _it(error("400 Bad Request", {"message": {"detail": [{"msg": "why"}]}}), "Bad Request: why", _ONE),
    "400 quoting another": _it(
        error("400 Bad Request", {"message": "upstream", "metadata": {"raw": '{"error": {"message": "inner"}}'}}),
        "upstream: inner",
        _ONE,
    ),
    "400 by field": _it(whole('{"messages": ["too many"]}', "400 Bad Request"), "messages: too many", _ONE),
    "400 of numbers": _it(whole('{"error": 7, "detail": 8}', "400 Bad Request"), "HTTP 400 Bad Request", _ONE),
    "400 deep": _it(whole("[" * 90_000, "400 Bad Request"), "HTTP 400 Bad Request", _ONE),
    "400 with escapes": _it(error("400 Bad Request", {"message": "\x1b[2J\u202ea\x07\nb"}), "\\u202ea\\u0007 b", _ONE),
    "401": _it(error("401 Unauthorized", {"message": "bad key"}), "Unauthorized: bad key", _ONE),
    "402": _it(error("402 Payment Required"), "HTTP 402 Payment Required", _ONE),
    "403": _it(error("403 Forbidden", {"message": "no permission"}), "Forbidden: no permission", _ONE),
    "404 as a page": _it(whole("<html>nothing here", "404 Not Found"), "HTTP 404 Not Found", _ONE),
    "405": _it(error("405 Method Not Allowed"), "HTTP 405", _ONE),
    "408": _it(error("408 Request Timeout"), "HTTP 408", _BOTH),
    "413": _it(error("413 Content Too Large"), "HTTP 413", _ONE),
    "418": _it(error("418 I'm a teapot"), "HTTP 418", _ONE),
    "422 with reasons": _it(
        whole(
            '{"detail": [{"loc": ["body", "messages", 0], "msg": "odd"}, {"loc": ["body"], "msg": "bad"}]}',
            "422 Unprocessable Entity",
        ),
        "body.messages.0: odd; body: bad",
        _ONE,
    ),
    "429": _it(error("429 Too Many Requests", {"message": "slower"}, Retry_After="0"), "Requests: slower", _BOTH),
    "429 without money": _it(error("429 Too Many Requests", QUOTA | {"code": "insufficient_quota"}), "quota", _ONE),
    "429 quota, in a while": _it(
        error("429 Too Many Requests", QUOTA | {"details": [{"retryDelay": "1s"}]}), "quota", _BOTH
    ),
    "429 for a year": _it(error("429 Too Many Requests", Retry_After=31536000), "asks to wait more", _ONE),
    "429 before now": _it(error("429 Too Many Requests", Retry_After=-5), "HTTP 429", _BOTH),
    "429 for nan": _it(error("429 Too Many Requests", Retry_After="nan"), "HTTP 429", _BOTH),
    "429 until long ago": _it(
        error("429 Too Many Requests", Retry_After="Sun, 06 Nov 1994 08:49:37 GMT"), "HTTP 429", _BOTH
    ),
    "429 until soon": _it(error("429 Too Many Requests", Retry_After="soon"), "HTTP 429", _BOTH),
    "500 as a page": _it(
        whole("<!doctype html><h1>Oh\nno</h1>", "500 Internal Server Error"), "Server Error: Oh no", _BOTH
    ),
    "501": _it(error("501 Not Implemented"), "HTTP 501", _BOTH),
    "503": _it(whole(b"\xff\xfe\x00", "503 Service Unavailable"), "HTTP 503", _BOTH),
    "529": _it(error("529 Overloaded"), "HTTP 529", _BOTH),
    "999": _it(error("999 Denied"), "HTTP 999", None),
    "a status of two digits": _it(error("99 Odd"), BROKE, _BOTH),
    "a status of letters": _it(error("abc Odd"), BROKE, _BOTH),
    "101": _it(error("101 Switching Protocols", Upgrade="x", Connection="upgrade"), "", None),
    "102 and 103 first": _it(
        of_good(lambda b: b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + head(length=len(b)) + b),
        PLAYS,
        _ONE,
    ),
    "100 without end": _it(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99), TIME_UP, slow=True),
    "204": _it(lambda c: c.send(b"HTTP/1.1 204 No Content\r\n\r\n"), NOT_JSON, _BOTH),
    "201 with a reply": _it(of_good(lambda b: head("201 Created", len(b)) + b), PLAYS, _ONE),
    "206": _it(of_good(lambda b: head("206 Partial Content", 40) + b[:40]), NOT_JSON, _BOTH),
    "304": _it(lambda c: c.send(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "HTTP 304", _ONE),
    "301 elsewhere": _it(error("301 Moved", Location="http://127.0.0.2:1/x"), "127.0.0.2:1/x, which is not", _ONE),
    "302 here": _it(error("302 Found", Location="/v2"), "which is not followed", _ONE),
    "307 elsewhere": _it(error("307 Temporary", Location="http://127.0.0.2:1/x"), "which is not followed", _ONE),
    "307 to another port": _it(error("307 Temporary", Location="http://127.0.0.1:1/x"), "which is not followed", _ONE),
    "307 in circles": _it(error("307 Temporary", Location="/v1/chat/completions"), "HTTP 307", None),
    "308 to a file": _it(error("308 Permanent", Location="file:///etc/passwd"), "which is not followed", _ONE),
    "308 to nonsense": _it(error("308 Permanent", Location="http://[::1:::/\x01"), "HTTP 308", _ONE),
    "308 nowhere": _it(error("308 Permanent"), "", None),
    "308 to where it is": _it(
        lambda c: (error("308 Permanent", Location="/there") if "there" not in c.request.path else of_good(
            lambda b: head(length=len(b)) + b
        ))(c),
        PLAYS,
        2,
    ),
}  # fmt: skip

BODIES = {
    "nothing": _it(whole(""), NOT_JSON, _BOTH),
    "white space": _it(whole(" \n\t "), NOT_JSON, _BOTH),
    "null": _it(whole("null"), "not a JSON object", _BOTH),
    "true": _it(whole("true"), "not a JSON object", _BOTH),
    "a text": _it(whole('"\\\\boxed{bet}"'), "not a JSON object", _BOTH),
    "a list": _it(whole("[]"), "not a JSON object", _BOTH),
    "deep": _it(whole('{"choices":' + "[" * 200_000), NOT_JSON, _BOTH),
    "deep objects": _it(whole('{"a":' * 100_000), NOT_JSON, _BOTH),
    "a number without end": _it(whole('{"choices": ' + "9" * 9000 + "}"), NOT_JSON, _BOTH),
    "infinity": _it(whole('{"choices": Infinity, "usage": NaN}'), NO_MESSAGE, _BOTH),
    "a float beyond all": _it(whole('{"choices": [], "usage": {"cost": 1e999}}'), NO_MESSAGE, _BOTH),
    "keys twice": _it(of_good(lambda b: head(length=len(b) + 13) + b'{"choices":1,' + b[1:] + b" "), PLAYS, _ONE),
    "byte order mark": _it(of_good(lambda b: head(length=len(b) + 3) + b"\xef\xbb\xbf" + b), PLAYS, _ONE),
    "utf-16": _it(of_good(lambda b: head(length=len(c := b.decode().encode("utf-16"))) + c), PLAYS, _ONE),
    "bad bytes": _it(whole(b'{"choices": "\xff\xfe"}'), NOT_JSON, _BOTH),
    "garbage after it": _it(of_good(lambda b: head(length=len(b) + 3) + b + b"}}}"), NOT_JSON, _BOTH),
    "two objects": _it(of_good(lambda b: head(length=2 * len(b) + 1) + b + b"\n" + b), NOT_JSON, _BOTH),
    "cut by itself": _it(of_good(lambda b: head(length=len(b) - 5) + b[:-5]), NOT_JSON, _BOTH),
    "a stream of events": _it(
        of_good(lambda b: head(length=len(b) + 22) + b"data: " + b + b"\n\ndata: [DONE]\n\n"), NOT_JSON, _BOTH
    ),
    "xml": _it(whole("<?xml version='1.0'?><a/>"), NOT_JSON, _BOTH),
    "a page": _it(whole("<html><title>Log in</title>"), "not JSON but an HTML page: Log in", _BOTH),
    "binary": _it(whole(bytes(range(256)) * 40), NOT_JSON, _BOTH),
    "comments": _it(of_good(lambda b: head(length=len(b) + 5) + b"//ok\n" + b), NOT_JSON, _BOTH),
    "long": _it(whole(b" " * 2**21), TOO_LONG, _BOTH),
    "a million lists": _it(whole('{"choices": [' + "[]," * 100_000 + "0]}"), NO_MESSAGE, _BOTH),
}

SHAPES = {
    "no choices": _it(whole("{}"), NO_MESSAGE, _BOTH),
    "choices null": _it(choices(None), NO_MESSAGE, _BOTH),
    "choices an object": _it(choices({"0": {}}), NO_MESSAGE, _BOTH),
    "choices empty": _it(choices([]), NO_MESSAGE, _BOTH),
    "choice null": _it(choices([None]), NO_MESSAGE, _BOTH),
    "choice a list": _it(choices([[]]), NO_MESSAGE, _BOTH),
    "message null": _it(choice(message=None), NO_MESSAGE, _BOTH),
    "message a text": _it(choice(message="\\boxed{bet}"), NO_MESSAGE, _BOTH),
    "delta for message": _it(choices([{"delta": {"content": "x"}, "finish_reason": "stop"}]), NO_MESSAGE, _BOTH),
    "text for message": _it(choices([{"text": "x", "finish_reason": "stop"}]), NO_MESSAGE, _BOTH),
    "content a number": _it(content(7), "content is not text", _BOTH),
    "content true": _it(content(True), "content is not text", _BOTH),
    "content an object": _it(content({"text": "x"}), "content is not text", _BOTH),
    "content null": _it(content(None), OWN, _ONE),
    "content empty": _it(content(""), OWN, _ONE),
    "content in parts": _it(
        changed(
            lambda b: b["choices"][0]["message"].update(
                content=[{"type": "text", "text": b["choices"][0]["message"]["content"]}]
            )
        ),
        PLAYS,
        _ONE,
    ),
    "thoughts in parts": _it(
        changed(
            lambda b: b["choices"][0]["message"].update(
                content=[
                    {"type": "thinking", "thinking": [{"type": "text", "text": "\\boxed{no}"}]},
                    {"type": "text", "text": b["choices"][0]["message"]["content"]},
                ]
            )
        ),
        PLAYS,
        _ONE,
    ),
    "parts of anything": _it(content([None, 3, [], {"text": None}, {"text": [{"text": "x"}]}]), OWN, _ONE),
    "a refusal": _it(choice(message={"content": None, "refusal": "I will not."}), OWN, _ONE),
    "a refusal of another type": _it(choice(message={"content": None, "refusal": [1]}), OWN, _ONE),
    "tool calls": _it(
        choice(message={"content": None, "tool_calls": [{"id": 1}]}, finish_reason="tool_calls"), OWN, _ONE
    ),
    "a function call": _it(choice(message={"content": "", "function_call": {"name": "x"}}), OWN, _ONE),
    "another role": _it(changed(lambda b: b["choices"][0]["message"].update(role="system", name="x")), PLAYS, _ONE),
    "a wrong index": _it(choice(index=-7), PLAYS, _ONE),
    "many choices": _it(changed(lambda b: b["choices"].extend([{"index": 0}] * 5000)), PLAYS, _ONE),
    "no reason to end": _it(choice(finish_reason=None), PLAYS, _ONE),
    "a number for the reason": _it(choice(finish_reason=7), PLAYS, _ONE),
    "an object for the reason": _it(choice(finish_reason={"a": []}), PLAYS, _ONE),
    "kept back by a filter": _it(choice(finish_reason="content_filter"), "filter removed the reply", _ONE),
    "thoughts of another type": _it(
        changed(lambda b: b["choices"][0]["message"].update(reasoning_content={"a": 1}, reasoning=[1])), PLAYS, _ONE
    ),
    "thoughts without end": _it(
        choice(message={"content": None, "reasoning": "\\boxed{bet} " * 999}, finish_reason="length"), OWN, _ONE
    ),
    "halves of surrogates": _it(content("\ud800\udfff \\boxed{"), OWN, _ONE),
    "control characters": _it(content("\x00\x1b[2J\x9b"), OWN, _ONE),
    "a long reply": _it(content("word " * 100_000), OWN, _ONE),
    "open braces": _it(content("\\boxed{" * 50_000), OWN, _ONE),
    "error null": _it(changed(lambda b: b.update(error=None)), PLAYS, _ONE),
    "error true": _it(changed(lambda b: b.update(error=True)), "the server reports an error", _BOTH),
    "error a text": _it(whole('{"error": "out of order"}'), "out of order", _BOTH),
    "error a list": _it(whole('{"error": [1, {"message": "odd"}]}'), "odd", _BOTH),
    "error with a status": _it(whole('{"error": {"code": "503", "message": "busy"}}'), "HTTP 503", _BOTH),
    "error with a mad status": _it(whole('{"error": {"code": 1e9, "message": "odd"}}'), "odd", _BOTH),
    "error without money": _it(whole('{"error": {"code": "insufficient_quota"}}'), "insufficient_quota", _ONE),
    "error of a choice": _it(choices([{"error": {"code": 502, "message": "cut"}}]), "Bad Gateway: cut", _BOTH),
}

USAGES = {
    "usage missing": _it(changed(lambda b: b.pop("usage")), PLAYS, _ONE),
    "usage null": _it(usage(None), PLAYS, _ONE),
    "usage a list": _it(usage([1, 2]), PLAYS, _ONE),
    "usage a text": _it(usage("12"), PLAYS, _ONE),
    "tokens negative": _it(usage({"prompt_tokens": -5, "completion_tokens": -5}), PLAYS, _ONE),
    "tokens as text": _it(usage({"prompt_tokens": "5", "completion_tokens": "6"}), PLAYS, _ONE),
    "tokens as floats": _it(usage({"prompt_tokens": 5.5, "completion_tokens": 1e300}), PLAYS, _ONE),
    "tokens not a number": _it(usage({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}), PLAYS, _ONE),
    "tokens without end": _it(usage({"prompt_tokens": 10**30, "completion_tokens": 10**30}), PLAYS, _ONE),
    "no tokens at all": _it(usage({"prompt_tokens": 0, "completion_tokens": 0}), PLAYS, _ONE),
    "tokens true": _it(usage({"prompt_tokens": True, "completion_tokens": True}), PLAYS, _ONE),
    "for nothing": _it(usage({"prompt_tokens": 9, "completion_tokens": 9, "cost": 0}), PLAYS, _ONE),
    "next to nothing": _it(usage({"prompt_tokens": 9, "completion_tokens": 9, "cost": 1e-300}), PLAYS, _ONE),
    "cost negative": _it(usage({"prompt_tokens": 9, "completion_tokens": 9, "cost": -9.5}), PLAYS, _ONE),
    "cost not a number": _it(usage({"prompt_tokens": 9, "completion_tokens": 9, "cost": float("nan")}), PLAYS, _ONE),
    "cost as text": _it(usage({"prompt_tokens": 9, "completion_tokens": 9, "cost": "1"}), PLAYS, _ONE),
    "thinking beyond all": _it(
        usage({"prompt_tokens": 9, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 10**8}}),
        PLAYS,
        _ONE,
    ),
    "details of another type": _it(
        usage({"prompt_tokens": 9, "completion_tokens": 9, "completion_tokens_details": [1]}), PLAYS, _ONE
    ),
}

PACKED = {
    "gzip": _it(packed(gzip.compress, "gzip"), PLAYS, _ONE),
    "deflate": _it(packed(zlib.compress, "deflate"), PLAYS, _ONE),
    "identity": _it(packed(bytes, "identity"), PLAYS, _ONE),
    "gzip in capitals": _it(packed(gzip.compress, "GZip"), PLAYS, _ONE),
    "gzip, but plain": _it(packed(bytes, "gzip"), "cannot be decompressed", _BOTH),
    "gzip, but cut": _it(packed(lambda b: gzip.compress(b)[:40], "gzip"), NOT_JSON, _BOTH),
    "brotli": _it(packed(bytes, "br"), "is encoded as 'br'", _BOTH),
    "zstd": _it(packed(bytes, "zstd"), "is encoded as 'zstd'", _BOTH),
    "an unknown packing": _it(packed(bytes, "x" * 9000), "is encoded as", _BOTH),
    "packed twice": _it(packed(lambda b: gzip.compress(gzip.compress(b)), "gzip, gzip"), "is encoded as", _BOTH),
    "a bomb": _it(packed(lambda b: bomb(1, 64), "gzip"), TOO_LONG, _BOTH),
    "a bomb in a bomb": _it(packed(lambda b: bomb(2, 64), "gzip, gzip"), "is encoded as", _BOTH),
    "a bomb as an error": _it(packed(lambda b: bomb(1, 64), "gzip", "500 Oh"), "HTTP 500", _BOTH),
    "a bomb in a bomb as an error": _it(
        packed(lambda b: bomb(2, 64), "gzip, gzip", "500 Oh"), "HTTP 500", _BOTH
    ),
    "a bomb of a proxy": _it(packed(lambda b: bomb(1, 64), "deflate", "403 No"), "HTTP 403", _ONE),
    "an error in gzip": _it(
        packed(lambda b: gzip.compress(b'{"error": "inside"}'), "gzip", "400 No"), "Bad Request: inside", _ONE
    ),
    "an error in brotli": _it(packed(bytes, "br", "400 No"), "HTTP 400", _ONE),
}  # fmt: skip

TRANSPORT = {
    "closed at once": _it(closing(lambda b: b""), BROKE, _BOTH),
    "reset at once": _it(resetting(lambda b: b""), BROKE, _BOTH),
    "closed in the head": _it(closing(lambda b: b"HTTP/1.1 200 OK\r\nContent-Le"), BROKE, _BOTH),
    "reset in the head": _it(resetting(lambda b: b"HTTP/1.1 200"), BROKE, _BOTH),
    "closed after the head": _it(closing(lambda b: head(length=len(b))), BROKE, _BOTH),
    "closed in the body": _it(closing(lambda b: head(length=len(b)) + b[:30]), BROKE, _BOTH),
    "reset in the body": _it(resetting(lambda b: head(length=len(b)) + b[:30]), BROKE, _BOTH),
    "closed in an error": _it(closing(lambda b: head("500 Oh", 90) + b"half"), BROKE, _BOTH),
    "longer than said": _it(of_good(lambda b: head(length=len(b) - 9) + b), "", None),
    "shorter than said": _it(of_good(lambda b: head(length=len(b) + 9) + b), TIME_UP, _BOTH, slow=True),
    "closed, length not said": _it(closing(lambda b: head(Connection="close") + b), PLAYS, _ONE),
    "HTTP/1.0": _it(closing(lambda b: b"HTTP/1.0 200 OK\r\n\r\n" + b), PLAYS, _ONE),
    "HTTP/0.9": _it(closing(lambda b: b), BROKE, _BOTH),
    "HTTP/2": _it(closing(lambda b: b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"), BROKE, _BOTH),
    "HTTP/9.9": _it(of_good(lambda b: head(length=len(b)).replace(b"1.1", b"9.9") + b), "", None),
    "another protocol": _it(closing(lambda b: b"SSH-2.0-OpenSSH_9.6\r\n"), BROKE, _BOTH),
    "random bytes": _it(closing(lambda b: bytes(range(256)) * 9), BROKE, _BOTH),
    "TLS bytes": _it(closing(lambda b: b"\x15\x03\x03\x00\x02\x02\x28"), BROKE, _BOTH),
    "TLS asked of a plain port": _it(silent, "cannot connect to", _ONE - 1, scheme="https"),
    "a length below zero": _it(of_good(lambda b: head(length=-1) + b), BROKE, _BOTH),
    "a length of letters": _it(of_good(lambda b: head(Content_Length="many") + b), BROKE, _BOTH),
    "a length of 400 digits": _it(of_good(lambda b: head(Content_Length="9" * 400) + b), "", None, slow=True),
    "two lengths": _it(of_good(lambda b: head(length=5, **{"Content_length": len(b)}) + b), BROKE, _BOTH),
    "a length and chunks": _it(
        of_good(lambda b: head(length=9999, Transfer_Encoding="chunked") + chunk(b) + chunk(b"")), "", None
    ),
    "chunks": _it(chunked(lambda b: chunk(b[:20]) + chunk(b[20:]) + chunk(b"")), PLAYS, _ONE),
    "chunks of a byte": _it(
        chunked(lambda b: b"".join(chunk(b[i : i + 1]) for i in range(len(b))) + chunk(b"")), PLAYS, _ONE
    ),
    "chunks of no size": _it(chunked(lambda b: b"zz\r\n" + b), BROKE, _BOTH),
    "chunks below zero": _it(chunked(lambda b: b"-5\r\n" + b), BROKE, _BOTH),
    "a chunk without end": _it(chunked(lambda b: b"fffffffffffffff\r\n" + b), TIME_UP, _BOTH, slow=True),
    "a chunk beyond all": _it(chunked(lambda b: b"f" * 200 + b"\r\n" + b), "", None),
    "chunks without the last": _it(chunked(chunk), TIME_UP, _BOTH, slow=True),
    "chunks cut off": _it(closing(lambda b: head(Transfer_Encoding="chunked") + chunk(b)[:-9]), BROKE, _BOTH),
    "a chunk longer than said": _it(chunked(lambda b: b"5\r\n" + b + b"\r\n0\r\n\r\n"), BROKE, _BOTH),
    "another transfer": _it(of_good(lambda b: head(Transfer_Encoding="gzip") + b), "", None),
    "extensions of a chunk": _it(
        endless(head(Transfer_Encoding="chunked") + b"5;", b"x" * 9999), BROKE, _BOTH
    ),
    "trailers": _it(
        chunked(lambda b: chunk(b) + b"0\r\nX-A: b\r\n\r\n"), PLAYS, _ONE
    ),
    "trailers without end": _it(
        endless(head(Transfer_Encoding="chunked") + chunk(b"{}") + b"0\r\n", b"X: y\r\n" * 999), BROKE, _BOTH
    ),
    "a head without end": _it(endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 999), BROKE, _BOTH),
    "a line without end": _it(endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 9999), BROKE, _BOTH),
    "a status without end": _it(endless(b"HTTP/1.1 200 ", b"y" * 9999), BROKE, _BOTH),
    "ten thousand headers": _it(
        of_good(lambda b: head(length=len(b))[:-2] + b"X: y\r\n" * 10_000 + b"\r\n" + b), "", None
    ),
    "cookies": _it(
        of_good(lambda b: head(length=len(b))[:-2] + b"Set-Cookie: a=b; Domain=.com\r\n" * 99 + b"\r\n" + b),
        PLAYS,
        _ONE,
    ),
    "a header without a name": _it(of_good(lambda b: head(length=len(b))[:-2] + b": y\r\n\r\n" + b), BROKE, _BOTH),
    "a header without a colon": _it(of_good(lambda b: head(length=len(b))[:-2] + b"odd\r\n\r\n" + b), BROKE, _BOTH),
    "a header with a zero": _it(of_good(lambda b: head(length=len(b))[:-2] + b"X: a\0b\r\n\r\n" + b), BROKE, _BOTH),
    "a header in Latin": _it(of_good(lambda b: head(length=len(b), X="\xe9\xff") + b), PLAYS, _ONE),
    "a reason in Latin": _it(of_good(lambda b: head("200 \xe9\xff", len(b)) + b), PLAYS, _ONE),
    "line feeds alone": _it(of_good(lambda b: head(length=len(b)).replace(b"\r", b"") + b), PLAYS, _ONE),
    "a folded header": _it(of_good(lambda b: head(length=len(b))[:-2] + b"X: a\r\n b\r\n\r\n" + b), "", None),
    "another type": _it(
        of_good(lambda b: head(length=len(b)).replace(b"application/json", b"image/png") + b), PLAYS, _ONE
    ),
    "a charset of nowhere": _it(
        of_good(lambda b: head(length=len(b)).replace(b"json", b"json; charset=klingon") + b), PLAYS, _ONE
    ),
    "closed after each": _it(of_good(lambda b: head(length=len(b), Connection="close") + b), PLAYS, _ONE),
    "kept alive, but closed": _it(closing(lambda b: head(length=len(b), Connection="keep-alive") + b), PLAYS, _ONE),
    "more after the reply": _it(
        of_good(lambda b: head(length=len(b)) + b + head("500 Smuggled", 2) + b"{}"), PLAYS, _ONE
    ),
    "silence": _it(silent, TIME_UP, _BOTH, slow=True),
    "silence after the head": _it(lambda c: (c.send(head(length=9)), silent(c))[0], TIME_UP, _BOTH, slow=True),
    "a byte of the head at a time": _it(endless(b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.05), TIME_UP, _BOTH, slow=True),
    "a byte of the body at a time": _it(endless(head(length=9999), b" ", 0.05), TIME_UP, _BOTH, slow=True),
    "a byte of an error at a time": _it(endless(head("500 Oh", 9999), b" ", 0.05), TIME_UP, _BOTH, slow=True),
    "a chunk of a byte at a time": _it(
        endless(head(Transfer_Encoding="chunked"), chunk(b" "), 0.05), TIME_UP, _BOTH, slow=True
    ),
    "chunks of a byte without end": _it(
        endless(head(Transfer_Encoding="chunked"), chunk(b" ") * 9999), "", None, slow=True
    ),
    "a body without end": _it(endless(head(Connection="close"), b" " * 65536), TOO_LONG, _BOTH),
    "an error without end": _it(endless(head("500 Oh", Connection="close"), b"x" * 65536), "HTTP 500", _BOTH),
    "an error of 9 GB": _it(endless(head("502 Oh", 9 * 2**30), b"x" * 65536), "HTTP 502", _BOTH),
    "a redirect without end": _it(
        endless(head("301 There", Location="http://127.0.0.2/", Connection="close"), b"x" * 65536), "HTTP 301", _ONE
    ),
}  # fmt: skip

MISBEHAVIOURS = {
    f"{kind}: {name}": misbehaviour
    for kind, group in (
        ("status", STATUSES),
        ("body", BODIES),
        ("shape", SHAPES),
        ("usage", USAGES),
        ("packing", PACKED),
        ("transport", TRANSPORT),
    )
    for name, misbehaviour in group.items()
}
