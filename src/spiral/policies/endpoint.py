"""A player behind an OpenAI-compatible server: OpenRouter, `vllm serve`, llama.cpp and others.

It is asked what a local model is asked and read as a local model is read: a reply that is cut off, empty or without a
legal move is its own illegal move. But a reply that is not to be had, because of the network, the server, a rate limit
or the money, is nobody's move: the turn comes back with a fault, and its game was not played.

Seeds are sent, and what a server makes of them is its own affair. Tokens and their probabilities are not asked for, so
these turns cannot be trained on.
"""

from __future__ import annotations

import dataclasses
import queue
import weakref
from collections.abc import Sequence

from spiral.policies.base import TurnReply, TurnRequest
from spiral.policies.endpoint_budget import Usage
from spiral.policies.endpoint_client import BACKOFF_SECONDS, Ask, EndpointClient, Fault
from spiral.policies.endpoint_config import EndpointConfig
from spiral.policies.endpoint_reply import Answer, without_template_tokens
from spiral.text import parse_action, worked_example
from spiral.text.prompts import Message, messages, question


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OpenTurn:
    request: TurnRequest
    observation: str


class EndpointPolicy:
    """Plays by asking a server; `usage` tells what that took."""

    def __init__(self, config: EndpointConfig, *, name: str, backoff_seconds: float = BACKOFF_SECONDS) -> None:
        """`backoff_seconds` is the first pause before a request is sent again; each further one is twice as long.

        Raises `ValueError` when the key or the `openai` package is missing.
        """
        self.config = config
        self.name = name
        self._client = EndpointClient(config, backoff_seconds)
        self._turns: dict[int, _OpenTurn] = {}
        self._asked = 0
        self._stop = weakref.finalize(self, self._client.close)

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Asks for every turn, as many at once as the configuration allows."""
        asks = []
        for request in requests:
            observation = request.state.observation(request.seat, self.config.prompt.observation)
            self._turns[self._asked] = _OpenTurn(request=request, observation=observation)
            asked = without_template_tokens(self._messages(request, observation))
            asks.append(Ask(game=request.key, number=self._asked, seed=request.seed, messages=asked))
            self._asked += 1
        self._client.send(asks)

    def poll(self) -> list[TurnReply]:
        """Waits until at least one turn has a reply or a fault, and returns all that have."""
        replies: list[TurnReply] = []
        while self._turns and not replies:
            number, result = self._client.done.get()
            replies.extend(self._read(number, result))
        while True:
            try:
                number, result = self._client.done.get_nowait()
            except queue.Empty:
                return replies
            replies.extend(self._read(number, result))

    def ready(self) -> bool:
        """Whether `poll` has something to return at once."""
        return not self._client.done.empty()

    def cancel(self) -> None:
        """Forgets every pending turn; what is under way is broken off, and may have to be paid all the same."""
        self._turns.clear()
        self._client.forget()

    def usage(self) -> Usage:
        """What was asked so far, and what it cost."""
        return self._client.ledger.usage()

    def close(self) -> None:
        """Ends the connections; nothing can be asked after that."""
        self._stop()

    def _messages(self, request: TurnRequest, observation: str) -> list[Message]:
        prompt = self.config.prompt
        example = worked_example(request.game, prompt) if prompt.example else None
        return messages(question(observation, prompt), prompt, example)

    def _read(self, number: int, result: Answer | Fault | BaseException) -> list[TurnReply]:
        """The reply as a turn; nothing for a turn that was forgotten."""
        turn = self._turns.pop(number, None)
        if turn is None:
            return []
        if isinstance(result, BaseException):
            raise result
        key, observation = turn.request.key, turn.observation
        if isinstance(result, Fault):
            return [TurnReply(key=key, observation=observation, reply="", action=None, fault=result.reason)]
        action = parse_action(result.text, turn.request.state)
        return [TurnReply(key=key, observation=observation, reply=result.text, action=action)]
