"""Chat completions as OpenAI's clients write and read them: a request checked, and a reply as JSON.

A parameter that would change the reply and that this server does not have is refused, never ignored. Errors have
OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from spiral.core.policy import SamplingConfig
from spiral.core.seeds import derive_seed
from spiral.core.settings import checked, shown
from spiral.text.prompts import Message

MAX_BODY = 8 * 2**20
"""Bytes of a request."""
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP = 1000
"""Characters of a stop text."""
MAX_SEED = 2**63 - 1
NEUTRAL: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "logit_bias": ({}, None),
    "top_logprobs": (0, None),
    "top_k": (0, -1, None),
    "min_p": (0, None),
    "min_tokens": (0, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "functions": ([], None),
    "modalities": (["text"], None),
    "response_format": ({"type": "text"}, None),
    "reasoning_effort": (None,),
    "audio": (None,),
    "prediction": (None,),
}
"""Parameters of other servers, and the values with which they change nothing."""
HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "usage",
        "user",
    }
)
"""Parameters that never change a reply."""

FinishReason = Literal["stop", "length"]


class ApiError(Exception):
    """An error to answer a request with."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: str
    text: str | None = None


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[Any] | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class _TemplateOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    enable_thinking: bool | None = None


class _Body(BaseModel):
    """The parameters that this server has."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    messages: list[_Message] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=1000)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-MAX_SEED, le=MAX_SEED)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: bool | None = None
    chat_template_kwargs: _TemplateOptions | None = None

    @field_validator("stop")
    @classmethod
    def _bounded(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > MAX_STOPS or any(not text or len(text) > MAX_STOP for text in texts):
            raise ValueError(f"expected at most {MAX_STOPS} texts of 1 to {MAX_STOP} characters")
        return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A request for replies to a conversation."""

    messages: tuple[Message, ...]
    sampling: SamplingConfig
    seeds: tuple[int, ...]
    """One for each choice; the first is the request's own."""
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool
    thinking: bool | None
    """Whether the model is asked to think; None as it was trained."""


def read_request(body: bytes, *, model: str, sampling: SamplingConfig) -> ChatRequest:
    """Checks a request.

    Args:
        body: The JSON text.
        model: The name of the model that is served.
        sampling: What applies where the request is silent.

    Raises:
        ApiError: What is wrong with it, in OpenAI's form.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError("the body is not JSON; expected an object with model and messages") from None
    if not isinstance(values, dict):
        raise ApiError("the body is not a JSON object; expected one with model and messages")
    try:
        given = _Body.model_validate(_without_neutral(values))
    except ValidationError as error:
        raise _fault(error) from None
    if given.model != model:
        message = f"there is no model {shown(given.model)} here; expected {model!r}, as GET /v1/models lists it"
        raise ApiError(message, status=404, param="model", code="model_not_found")
    limit = given.max_completion_tokens or given.max_tokens
    chosen = {"temperature": given.temperature, "top_p": given.top_p, "max_new_tokens": limit}
    given_values = {key: value for key, value in chosen.items() if value is not None}
    try:
        updated = checked(SamplingConfig, {**sampling.model_dump(), **given_values})
    except ValueError as error:
        raise ApiError(str(error)) from None
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed % 2**63
    options = given.chat_template_kwargs
    return ChatRequest(
        messages=tuple(map(_message, given.messages)),
        sampling=updated,
        seeds=(seed, *(derive_seed(seed, "choice", index) for index in range(1, given.n or 1))),
        stops=tuple(_clean(text) for text in ([given.stop] if isinstance(given.stop, str) else given.stop or [])),
        stream=bool(given.stream),
        include_usage=given.stream_options is not None and given.stream_options.include_usage,
        logprobs=bool(given.logprobs),
        thinking=None if options is None else options.enable_thinking,
    )


def _without_neutral(values: Mapping[str, Any]) -> dict[str, Any]:
    """The request without parameters that change nothing. Raises `ApiError` for those that would and are not here."""
    kept = {}
    for key, value in values.items():
        if key in HARMLESS:
            continue
        if key not in NEUTRAL:
            kept[key] = value
        elif value not in NEUTRAL[key]:
            message = f"{key} is not supported by this server, so {shown(value)} cannot be obeyed; leave it out"
            raise ApiError(message, param=key, code="unsupported_parameter")
    return kept


def _fault(error: ValidationError) -> ApiError:
    """The first fault of a request in one sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][:3] if part not in ("str", "list[str]", "list[_Part]"))
    if first["type"] == "extra_forbidden":
        message = f"unknown parameter {shown(where)}; leave it out"
        return ApiError(message, param=where, code="unknown_parameter")
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "missing" else f"got {shown(first['input'])}; "
    return ApiError(f"{where}: {got}{message[:1].lower()}{message[1:]}", param=where)


def _message(given: _Message) -> Message:
    """A message with its text in one piece."""
    role = "system" if given.role == "developer" else given.role
    if role not in ("system", "user", "assistant") or given.tool_calls:
        raise ApiError(
            f"a message has the role {shown(given.role)}{' with tool calls' if given.tool_calls else ''}; expected"
            " system, user or assistant, without tools",
            param="messages",
        )
    parts = [_Part(type="text", text=given.content)] if isinstance(given.content, str) else given.content or []
    for part in parts:
        if part.type != "text" or part.text is None:
            raise ApiError(f"a message has a part of type {shown(part.type)}; expected text only", param="messages")
    return {"role": role, "content": _clean("".join(part.text or "" for part in parts))}


def _clean(text: str) -> str:
    """Text without halves of surrogate pairs, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenText:
    """A token of a reply and its log-probability."""

    text: str
    logprob: float
    """Nats, under the distribution that the reply was sampled from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A finished reply."""

    text: str
    finish_reason: FinishReason
    tokens: int
    """Sampled tokens, the end of the turn included."""
    thinking_tokens: int
    detail: tuple[TokenText, ...] = ()


class Completion:
    """The JSON of one completion: whole, or piece by piece."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, choices: Sequence[Choice], prompt_tokens: int, *, logprobs: bool) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": _logprobs(choice.detail) if logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": usage(choices, prompt_tokens),
        }

    def piece(
        self,
        index: int,
        delta: Mapping[str, str],
        *,
        finish: FinishReason | None = None,
        detail: Sequence[TokenText] | None = None,
    ) -> dict[str, Any]:
        """A piece of a streamed choice."""
        choice = {
            "index": index,
            "delta": dict(delta),
            "logprobs": None if detail is None else _logprobs(detail),
            "finish_reason": finish,
        }
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def last(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """The piece that ends a stream with the usage."""
        found = usage(choices, prompt_tokens)
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": found}


def usage(choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
    """The tokens of a request; a prompt counts once."""
    tokens = sum(choice.tokens for choice in choices)
    thinking = sum(choice.thinking_tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }


def _logprobs(detail: Sequence[TokenText]) -> dict[str, Any]:
    content = [
        {"token": token.text, "logprob": token.logprob, "bytes": _bytes(token.text), "top_logprobs": []}
        for token in detail
    ]
    return {"content": content, "refusal": None}


def _bytes(text: str) -> list[int] | None:
    """The bytes of a token; None for a part of a character, whose bytes the text does not show."""
    return None if "\ufffd" in text else list(text.encode("utf-8", "replace"))
