"""A policy that asks an OpenAI-compatible server: OpenRouter, `vllm serve`, llama.cpp and others.

It is prompted and parsed like a local model: a reply that is cut off, empty or without a legal move is an illegal move.
When there is no reply, because of the network, the server, a rate limit or the spend limit, the turn comes back with a
fault and its game counts as not played.

Seeds are sent, but a server need not use them. Token ids and log-probabilities are not requested, so these turns cannot
be trained on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import weakref
from collections.abc import Iterator, Sequence

from spiral.core.policy import Question, ReplyLength, SamplingConfig, TurnReply, TurnRequest
from spiral.policies.cut_off import MAX_SHARE, MIN_CUT_OFF
from spiral.policies.endpoint.budget import Usage
from spiral.policies.endpoint.client import BACKOFF_SECONDS, EndpointClient, Fault, ReplyRequest
from spiral.policies.endpoint.config import EndpointConfig
from spiral.policies.endpoint.reply import Answer, without_template_tokens
from spiral.text import parse_action, worked_example
from spiral.text.history import conversation
from spiral.text.prompts import Message, messages

logger = logging.getLogger(__name__)
_logged_keys: set[tuple[str | None, str]] = set()
"""API keys and hosts that this process has logged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OpenTurn:
    request: TurnRequest | Question
    observation: str


class EndpointPolicy:
    """Plays and answers questions by asking a server."""

    def __init__(
        self,
        config: EndpointConfig,
        *,
        name: str,
        required: frozenset[str] = frozenset(),
        source: str = "",
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> None:
        """Does not connect yet.

        Args:
            config: The server, its sampling and prompt settings, and the budget.
            name: The policy's name. All policies of one name in this process share the endpoint's limits.
            required: Parameters that are never left out, because the user set them on the command line.
            source: The file of the configuration, for the note about the key.
            backoff_seconds: The first pause before a retry; each further pause is twice as long.

        Raises:
            ValueError: The key or the `httpx2` package is missing.
        """
        self.config = config
        self.name = name
        self._client = EndpointClient(config, backoff_seconds, name=name, required=required)
        _log_key(config, source)
        self._turns: dict[int, _OpenTurn] = {}
        self._submitted = 0
        self._answers = self._cut_off = 0
        self._warned = False
        self._stop = weakref.finalize(self, self._client.close)

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Sends a request for every turn, at most `max_in_flight` at once."""
        sent = []
        for request in requests:
            observation = request.state.observation(request.player, self.config.prompt.observation)
            self._turns[self._submitted] = _OpenTurn(request=request, observation=observation)
            sent.append(self._request(request, self._messages(request, observation)))
        self._client.send(sent)

    @property
    def opening(self) -> str:
        """Text that the prompt puts at the start of a reply: none, since servers return thoughts whole."""
        return ""

    def submit_questions(self, questions: Sequence[Question]) -> None:
        """Sends questions outside of games; their replies have a length and no action."""
        requests = []
        for question_ in questions:
            self._turns[self._submitted] = _OpenTurn(request=question_, observation="")
            requests.append(self._request(question_, [{"role": "user", "content": question_.text}]))
        self._client.send(requests)

    @contextlib.contextmanager
    def sampled_with(self, sampling: SamplingConfig) -> Iterator[None]:
        """Context manager that samples with other settings. No turn may be pending when it begins or ends."""
        before = self.config
        self.config = before.model_copy(update=sampling.model_dump())
        try:
            yield
        finally:
            self.config = before

    def poll(self) -> list[TurnReply]:
        """Waits until at least one turn has a reply or a fault, and returns every finished turn."""
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
        """Whether `poll` would return without waiting."""
        return not self._client.done.empty()

    def cancel(self) -> None:
        """Drops every pending turn and aborts its request, which may still have to be paid."""
        self._turns.clear()
        self._client.cancel()

    def usage(self) -> Usage:
        """Requests, tokens and cost so far."""
        parameters = self._client.parameters
        return dataclasses.replace(
            self._client.ledger.usage(), left_out=parameters.left_out, renamed=parameters.renamed
        )

    def close(self) -> None:
        """Closes the connections for good."""
        self._stop()

    def _request(self, request: TurnRequest | Question, prompt: list[Message]) -> ReplyRequest:
        config, number = self.config, self._submitted
        self._submitted += 1
        return ReplyRequest(
            game=request.key,
            number=number,
            seed=request.seed,
            messages=without_template_tokens(prompt),
            sampling=SamplingConfig(
                temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens
            ),
        )

    def _count(self, answer: Answer) -> None:
        """Counts a reply in a game; warns once when many are cut off."""
        self._answers += 1
        self._cut_off += answer.truncated
        share = self._cut_off / self._answers
        if not self._warned and self._cut_off >= MIN_CUT_OFF and share > MAX_SHARE:
            self._warned = True
            logger.warning(
                "%.0f%% of %d replies of %s were cut off at %s tokens; one that ends before its action loses the game,"
                " so raise its max_new_tokens",
                100 * share,
                self._answers,
                self.name,
                f"{self.config.max_new_tokens:,}",
            )

    def _messages(self, request: TurnRequest, observation: str) -> list[Message]:
        prompt = self.config.prompt
        example = worked_example(request.game, prompt) if prompt.example else None
        history = request.history if prompt.history == "chat" else ()
        first, *later = conversation(history, observation, prompt, request.game)
        return [*messages(first["content"], prompt, example, game=request.game), *later]

    def _read(self, number: int, result: Answer | Fault | BaseException) -> list[TurnReply]:
        """The reply of a turn in a list; empty for a turn that was cancelled."""
        turn = self._turns.pop(number, None)
        if turn is None:
            return []
        if isinstance(result, BaseException):
            raise result
        request, observation = turn.request, turn.observation
        if isinstance(request, Question):
            return [_answered(request, result)]
        reply = TurnReply(
            key=request.key,
            observation=observation,
            reply="",
            action=None,
            history_turns=len(request.history) if self.config.prompt.history == "chat" else None,
        )
        if isinstance(result, Fault):
            return [dataclasses.replace(reply, fault=result.reason)]
        self._count(result)
        action = parse_action(result.text, request.state)
        return [dataclasses.replace(reply, reply=result.text, action=action)]


def _answered(question_: Question, result: Answer | Fault) -> TurnReply:
    """The reply to a question. A reply that the server's filter blocks counts as empty, since a retry would be too."""
    fault = None
    reply, length = "", ReplyLength(tokens=0, thinking_tokens=0, truncated=False)
    if isinstance(result, Answer):
        tokens = result.bill.completion_tokens or 0
        reply = result.text
        length = ReplyLength(tokens=tokens, thinking_tokens=result.thinking_tokens, truncated=result.truncated)
    elif not result.filtered:
        fault = result.reason
    return TurnReply(key=question_.key, observation="", reply=reply, action=None, length=length, fault=fault)


def _log_key(config: EndpointConfig, source: str) -> None:
    """Logs which key is sent to which host, once in a process."""
    key = (config.api_key_env, config.host)
    if config.api_key_env is not None and key not in _logged_keys:
        _logged_keys.add(key)
        logger.info("sending $%s to %s%s", config.api_key_env, config.host, f", as {source} says" if source else "")
