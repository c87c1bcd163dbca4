"""A player behind an OpenAI-compatible server: OpenRouter, `vllm serve`, llama.cpp and others.

It is asked what a local model is asked and read as a local model is read: a reply that is cut off, empty or without a
legal move is its own illegal move. But a reply that is not to be had, because of the network, the server, a rate limit
or the money, is nobody's move: the turn comes back with a fault, and its game was not played.

Seeds are sent, and what a server makes of them is its own affair. Tokens and their probabilities are not asked for, so
these turns cannot be trained on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import weakref
from collections.abc import Iterator, Sequence

from spiral.core.policy import Question, ReplyLength, SamplingConfig, TurnReply, TurnRequest
from spiral.policies.endpoint.budget import Usage
from spiral.policies.endpoint.client import BACKOFF_SECONDS, Ask, EndpointClient, Fault
from spiral.policies.endpoint.config import EndpointConfig
from spiral.policies.endpoint.reply import Answer, without_template_tokens
from spiral.text import parse_action, worked_example
from spiral.text.prompts import Message, messages, question

logger = logging.getLogger(__name__)
_told_keys: set[tuple[str | None, str]] = set()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OpenTurn:
    request: TurnRequest | Question
    observation: str


class EndpointPolicy:
    """Plays by asking a server; `usage` tells what that took."""

    def __init__(
        self,
        config: EndpointConfig,
        *,
        name: str,
        required: frozenset[str] = frozenset(),
        source: str = "",
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> None:
        """Connects to nothing yet.

        Args:
            config: where the server is, how it is asked and what it may cost.
            name: what the player is called; the endpoint's limits hold for all players called so in this process.
            required: parameters that are never left out, because the user set them on the command line.
            source: the file that the configuration is from, to be named where a key is sent.
            backoff_seconds: the first pause before a request is sent again; each further one is twice as long.

        Raises `ValueError` when the key or the `httpx2` package is missing.
        """
        self.config = config
        self.name = name
        self._client = EndpointClient(config, backoff_seconds, name=name, required=required)
        _tell_key(config, source)
        self._turns: dict[int, _OpenTurn] = {}
        self._asked = 0
        self._stop = weakref.finalize(self, self._client.close)

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Asks for every turn, as many at once as the configuration allows."""
        asks = []
        for request in requests:
            observation = request.state.observation(request.player, self.config.prompt.observation)
            self._turns[self._asked] = _OpenTurn(request=request, observation=observation)
            asks.append(self._ask(request, self._messages(request, observation)))
        self._client.send(asks)

    @property
    def opening(self) -> str:
        """What a reply begins with that is not in it: nothing, for the server gives thoughts apart or in tags."""
        return ""

    def submit_questions(self, questions: Sequence[Question]) -> None:
        """Asks questions that belong to no game; their replies have a length, and None for the action."""
        asks = []
        for question_ in questions:
            self._turns[self._asked] = _OpenTurn(request=question_, observation="")
            asks.append(self._ask(question_, [{"role": "user", "content": question_.text}]))
        self._client.send(asks)

    @contextlib.contextmanager
    def sampled_with(self, sampling: SamplingConfig) -> Iterator[None]:
        """Samples as told for a while. No turn may be pending at its beginning or end."""
        before = self.config
        self.config = before.model_copy(update=sampling.model_dump())
        try:
            yield
        finally:
            self.config = before

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
        parameters = self._client.parameters
        return dataclasses.replace(
            self._client.ledger.usage(), left_out=parameters.left_out, renamed=parameters.renamed
        )

    def close(self) -> None:
        """Ends the connections; nothing can be asked after that."""
        self._stop()

    def _ask(self, request: TurnRequest | Question, asked: list[Message]) -> Ask:
        config, number = self.config, self._asked
        self._asked += 1
        return Ask(
            game=request.key,
            number=number,
            seed=request.seed,
            messages=without_template_tokens(asked),
            sampling=SamplingConfig(
                temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens
            ),
        )

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
        request, observation = turn.request, turn.observation
        if isinstance(request, Question):
            return [_answered(request, result)]
        if isinstance(result, Fault):
            return [TurnReply(key=request.key, observation=observation, reply="", action=None, fault=result.reason)]
        action = parse_action(result.text, request.state)
        return [TurnReply(key=request.key, observation=observation, reply=result.text, action=action)]


def _answered(question_: Question, result: Answer | Fault) -> TurnReply:
    """The reply to a question; what the server's filter keeps back is an empty one, however often it is asked."""
    fault = None
    reply, length = "", ReplyLength(tokens=0, thinking_tokens=0, truncated=False)
    if isinstance(result, Answer):
        tokens = result.bill.completion_tokens or 0
        reply = result.text
        length = ReplyLength(tokens=tokens, thinking_tokens=result.thinking_tokens, truncated=result.truncated)
    elif not result.filtered:
        fault = result.reason
    return TurnReply(key=question_.key, observation="", reply=reply, action=None, length=length, fault=fault)


def _tell_key(config: EndpointConfig, source: str) -> None:
    """Says which key goes where, once in a process."""
    told = (config.api_key_env, config.host)
    if config.api_key_env is not None and told not in _told_keys:
        _told_keys.add(told)
        logger.info("sending $%s to %s%s", config.api_key_env, config.host, f", as {source} says" if source else "")
