"""The HTTP side of `spiral serve`: OpenAI's chat completions, whole or streamed.

It needs FastAPI and uvicorn (the extra `serve`). A request is bounded in size and time, the queue in length. A page in
a browser cannot use the server: requests with a foreign Origin, or with a Host that is not this machine's while only
this machine is listened to, are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from spiral.core.records import IntArray
from spiral.inference.serving.protocol import MAX_BODY, ApiError, ChatRequest, Choice, Completion, read_request
from spiral.inference.serving.scheduler import Event, Job, Piece, Scheduler
from spiral.text import ChatCodec

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
BODY_SECONDS = 30.0
"""Time limit for receiving a request."""
LOOK_SECONDS = 1.0
"""Between two looks whether the client is still there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use the server."""

    host: str
    """The address that it listens on."""
    key: str | None = None

    def check(self, request: Request) -> None:
        """Raises `ApiError` for a request that is refused."""
        host = _split(f"//{request.headers.get('host', '')}").hostname
        if self.host in LOOPBACK and host not in LOOPBACK:
            raise ApiError(f"got the Host {host!r}; expected 127.0.0.1 or localhost", status=403, code="host_refused")
        origin = request.headers.get("origin")
        if origin is not None and _split(origin).netloc != request.headers.get("host"):
            raise ApiError("requests from other sites' pages are refused", status=403, code="origin_refused")
        if self.key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.key.encode()):
            raise ApiError(
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
                status=401,
                kind="authentication_error",
                code="invalid_api_key",
            )


def make_app(scheduler: Scheduler, *, model: str, access: Access) -> FastAPI:
    """The application.

    Args:
        scheduler: Generates the replies.
        model: The name under which the model is served.
        access: Who may use it.
    """
    app = FastAPI(openapi_url=None)
    encoding = asyncio.Lock()
    codecs = {scheduler.policy.codec.config.thinking: scheduler.policy.codec}

    def encoded(asked: ChatRequest) -> tuple[ChatCodec, IntArray]:
        """The prompt of a conversation, and what reads the reply to it."""
        own = scheduler.policy.codec
        thinking = own.config.thinking if asked.thinking is None else asked.thinking
        if thinking not in codecs:
            codecs[thinking] = own.with_thinking(thinking)
        return codecs[thinking], codecs[thinking].encode_chat(asked.messages)

    _add_errors(app, access)
    _add_models(app, model)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        policy = scheduler.policy
        asked = read_request(await _body(request), model=model, sampling=policy.sampling)
        try:
            async with encoding:  # a tokenizer is for one thread at a time
                codec, prompt_ids = await run_in_threadpool(encoded, asked)
        except ValueError as error:
            raise ApiError(str(error), param="messages") from None
        if len(prompt_ids) >= policy.context:
            raise ApiError(
                f"the prompt has {len(prompt_ids):,} tokens, which fill the model's context of {policy.context:,}",
                param="messages",
                code="context_length_exceeded",
            )
        events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        jobs = _jobs(asked, codec, prompt_ids, events)
        scheduler.add(jobs)
        completion, prompt_tokens = Completion(model), len(prompt_ids)
        if asked.stream:
            stream = _stream(scheduler, jobs, events, asked, completion, prompt_tokens)
            return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        try:
            choices = await _all_choices(request, events, len(jobs))
        finally:
            scheduler.drop(jobs)
        return _Json(completion.whole(choices, prompt_tokens, logprobs=asked.logprobs))

    return app


def _split(address: str) -> SplitResult:
    """The parts of an address; none of one that is no address, such as `http://[`."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


class _Json(JSONResponse):
    """JSON in ASCII, which takes half of a surrogate pair that came with a request."""

    def render(self, content: Any) -> bytes:
        """The content as bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def _add_errors(app: FastAPI, access: Access) -> None:
    """What may not come in, and errors in OpenAI's form."""

    @app.middleware("http")
    async def checked(request: Request, proceed: Callable[[Request], Any]) -> Response:
        try:
            access.check(request)
            response: Response = await proceed(request)
        except ApiError as error:
            return error_answer(error)
        return response

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error_answer(error)

    @app.exception_handler(HTTPException)
    async def wrong(request: Request, error: HTTPException) -> Response:
        message = f"there is no {request.method} {request.url.path} here; this server has GET /v1/models and"
        return error_answer(ApiError(f"{message} POST /v1/chat/completions", status=error.status_code))


def _add_models(app: FastAPI, model: str) -> None:
    """The addresses that say what is served."""
    card = {"id": model, "object": "model", "created": int(time.time()), "owned_by": "spiral"}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != model:
            raise ApiError(f"there is no model {name!r} here; expected {model!r}", status=404, code="model_not_found")
        return card


def _jobs(
    asked: ChatRequest, codec: ChatCodec, prompt_ids: IntArray, events: asyncio.Queue[tuple[int, Event]]
) -> list[Job]:
    """One job for every choice; their events arrive in the queue, in the loop of the caller."""
    loop = asyncio.get_running_loop()

    def deliver(index: int, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped
            loop.call_soon_threadsafe(events.put_nowait, (index, event))

    return [
        Job(
            codec=codec,
            prompt_ids=prompt_ids,
            seed=seed,
            sampling=asked.sampling,
            stops=asked.stops,
            stream=asked.stream,
            logprobs=asked.logprobs,
            deliver=partial(deliver, index),
        )
        for index, seed in enumerate(asked.seeds)
    ]


async def _body(request: Request) -> bytes:
    """The body of a request. Raises `ApiError` where it is too large, too slow, or not called JSON."""
    kind = request.headers.get("content-type", "")
    if "json" not in kind:
        raise ApiError(f"got the content type {kind[:80]!r}; expected application/json", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise ApiError(f"the body is larger than {MAX_BODY:,} bytes", status=413)
    except TimeoutError:
        raise ApiError(f"the body did not arrive within {BODY_SECONDS:g} s", status=408) from None
    return bytes(body)


async def _all_choices(request: Request, events: asyncio.Queue[tuple[int, Event]], count: int) -> list[Choice]:
    """Waits for all choices while the client does."""
    found: dict[int, Choice] = {}
    while len(found) < count:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                index, event = await events.get()
        except TimeoutError:
            if await request.is_disconnected():
                raise ApiError("the client is gone", status=499) from None
            continue
        if isinstance(event, ApiError):
            raise event
        if isinstance(event, Choice):
            found[index] = event
    return [found[index] for index in range(count)]


async def _stream(
    scheduler: Scheduler,
    jobs: Sequence[Job],
    events: asyncio.Queue[tuple[int, Event]],
    asked: ChatRequest,
    completion: Completion,
    prompt_tokens: int,
) -> AsyncIterator[str]:
    """The pieces of all choices as server-sent events; an error ends them."""
    found: list[Choice] = []
    try:
        for index in range(len(jobs)):
            yield _event(completion.piece(index, {"role": "assistant", "content": ""}))
        while len(found) < len(jobs):
            index, event = await events.get()
            if isinstance(event, ApiError):
                yield _event(event.body)
                return
            if isinstance(event, Piece):
                detail = event.detail if asked.logprobs else None
                yield _event(completion.piece(index, {"content": event.text}, detail=detail))
            else:
                found.append(event)
                yield _event(completion.piece(index, {}, finish=event.finish_reason))
        if asked.include_usage:
            yield _event(completion.last(found, prompt_tokens))
        yield "data: [DONE]\n\n"
    finally:
        scheduler.drop(jobs)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def error_answer(error: ApiError) -> Response:
    """An error in OpenAI's form."""
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return _Json(error.body, status_code=error.status, headers=headers)
