"""The base of all engines: a policy that plays by generating text with a language model.

A request becomes a prompt (`OpenTurn`), an engine turns prompts into token ids and their log-probabilities, and the
finished reply becomes an action. The records hold exactly the token ids that were given and sampled.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from spiral.core.policy import Question, ReplyLength, SamplingConfig, TurnReply, TurnRequest
from spiral.core.records import Generation, IntArray, StopReason
from spiral.games import State
from spiral.text import ChatCodec, parse_action

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptRequest:
    """A prompt outside a game; `seed` and `key` as in `TurnRequest`."""

    key: int
    prompt_ids: IntArray
    """[P]"""
    seed: int
    sampling: SamplingConfig | None = None
    """How this reply is sampled; None: as the policy's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenTurn:
    """A turn whose prompt is ready and whose reply is not."""

    key: int
    seed: int
    prompt_ids: IntArray
    """[P]"""
    budget: int
    """Maximum number of tokens of the reply: the response budget, or what is left of the context."""
    observation: str = ""
    history_turns: int | None = None
    """Number of the player's earlier turns in the prompt; None for prompts without a history."""
    state: State | None = None
    """The state in which the reply is to be an action; None outside a game."""
    sampling: SamplingConfig | None = None
    """How this reply is sampled; None: as the policy's."""


MAX_CANDIDATES = 8
"""The shortest answer in tokens is looked for among the actions with the fewest characters."""


class LanguagePolicy(ABC):
    """A policy that plays by generating text.

    Subclasses are engines. They implement `_generate`, `poll`, `cancel` and `load_weights`.
    """

    reserves_memory = False
    """Whether it takes a share of the device's memory when it starts."""

    def __init__(self, codec: ChatCodec, sampling: SamplingConfig, *, name: str, context: int) -> None:
        """`context` is the maximum number of tokens of prompt and reply together."""
        self.codec = codec
        self.sampling = sampling
        self.name = name
        self.source: str | None = None
        """The MODEL that it was loaded from, where it has another name."""
        self.version = 0
        self.precision = "float32"
        self.asleep = False
        self.context = context
        check_ends(codec)
        self.stop_ids = codec.stop_ids
        self._done: list[TurnReply] = []

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Starts on a reply to every request. A reply has a fault when its prompt leaves no room for an answer."""
        self._take_on([self._open(request) for request in requests])

    def submit_prompts(self, requests: Sequence[PromptRequest]) -> None:
        """Starts on replies to prompts outside games. `poll` returns them with None as the action."""
        self._take_on(
            [
                OpenTurn(
                    key=request.key,
                    seed=request.seed,
                    prompt_ids=request.prompt_ids,
                    budget=self.budget(request.prompt_ids, request.sampling),
                    sampling=request.sampling,
                )
                for request in requests
            ]
        )

    def submit_questions(self, questions: Sequence[Question]) -> None:
        """Asks questions in the model's own template. `poll` returns the replies with None as the action."""
        self.submit_prompts(
            [
                PromptRequest(key=asked.key, prompt_ids=self.codec.encode_question(asked.text), seed=asked.seed)
                for asked in questions
            ]
        )

    @property
    def opening(self) -> str:
        """The opening delimiter of a thought that the prompt ends with and the reply lacks; empty without one."""
        return self.codec.opened

    @contextmanager
    def sampled_with(self, sampling: SamplingConfig) -> Iterator[None]:
        """Context manager that samples with other settings. No turn may be pending when it starts and ends."""
        before, self.sampling = self.sampling, sampling
        try:
            yield
        finally:
            self.sampling = before

    def _take_on(self, turns: Sequence[OpenTurn]) -> None:
        for turn in turns:
            if turn.budget <= 0:
                self._finish(turn, (), (), "length")
        self._generate([turn for turn in turns if turn.budget > 0])

    @abstractmethod
    def _generate(self, turns: Sequence[OpenTurn]) -> None:
        """Queues turns, each with a budget of at least one token, and returns at once."""

    @abstractmethod
    def poll(self) -> list[TurnReply]:
        """Generates until at least one reply is finished. Returns all finished ones; empty when no turn is pending."""

    @abstractmethod
    def cancel(self) -> None:
        """Drops every pending turn."""

    @abstractmethod
    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copies new weights into the engine, by parameter name. No turn may be pending."""

    def sleep(self, *, until_weights: bool = False) -> None:
        """Frees the memory that only generating needs. No turn may be pending.

        Any request wakes a sleeping engine; its replies are the same as if it had not slept. With `until_weights` the
        caller promises that the next call is `load_weights`, and an engine may drop its weights; it refuses any request
        before.
        """
        self.asleep = True

    def wake(self) -> None:
        """Allocates the memory again, if it was freed."""
        self.asleep = False

    def close(self) -> None:  # noqa: B027 (an engine with nothing to give back is complete without it)
        """Gives the engine's memory back; the policy is of no more use."""

    def _open(self, request: TurnRequest) -> OpenTurn:
        """Puts the position into words and the words into tokens."""
        observation = request.state.observation(request.player, self.codec.config.observation)
        room = self.context - self.sampling.max_new_tokens
        prompt_ids, history_turns = self.codec.encode_in_chat(request.history, observation, request.game, room)
        return OpenTurn(
            key=request.key,
            seed=request.seed,
            prompt_ids=prompt_ids,
            budget=self.budget(prompt_ids),
            observation=observation,
            history_turns=history_turns,
            state=request.state,
        )

    def answer_tokens(self, state: State) -> int:
        """Number of tokens of the shortest legal answer in a box, with the token that ends the reply."""
        actions = sorted(state.legal_actions(), key=len)[:MAX_CANDIDATES]
        return 1 + min((len(self.codec.encode_reply(f"\\boxed{{{action}}}")) for action in actions), default=0)

    def budget(self, prompt_ids: IntArray, sampling: SamplingConfig | None = None) -> int:
        """Maximum number of tokens of a reply to a prompt [P]; 0 or less when the prompt fills the context."""
        return min((sampling or self.sampling).max_new_tokens, self.context - len(prompt_ids))

    def _finish(
        self, turn: OpenTurn, token_ids: Sequence[int], logprobs: Sequence[float], stop_reason: StopReason
    ) -> None:
        """Parses the action of a finished reply and keeps both for `poll`."""
        if stop_reason == "length" and turn.budget < (turn.sampling or self.sampling).max_new_tokens:
            stop_reason = "context"
        _check_finite(logprobs, self.version)
        ids = np.asarray(token_ids, dtype=np.int64)
        reading = self.codec.read(ids)
        action = None if turn.state is None else parse_action(self.codec.opened + reading.text, turn.state)
        generation = Generation(
            token_ids=ids,
            logprobs=np.asarray(logprobs, dtype=np.float32),
            stop_reason=stop_reason,
            policy_version=self.version,
            budget=max(0, turn.budget),
            thinking_tokens=reading.thinking_tokens,
            has_thought=reading.has_thought,
        )
        self._done.append(
            TurnReply(
                key=turn.key,
                observation=turn.observation,
                reply=reading.text,
                action=action,
                prompt_ids=turn.prompt_ids,
                history_turns=turn.history_turns,
                generation=generation,
                length=ReplyLength(
                    tokens=len(ids), thinking_tokens=reading.thinking_tokens, truncated=stop_reason != "stop"
                ),
                fault=self._no_room(turn) if action is None and stop_reason == "context" else None,
            )
        )

    def _no_room(self, turn: OpenTurn) -> str | None:
        """The fault of a turn whose prompt leaves less room than the shortest answer needs; None otherwise."""
        if turn.state is None or turn.budget >= self.answer_tokens(turn.state):
            return None
        return f"a prompt left no room for an answer in the context of {self.name}, {self.context:,} tokens"

    def _take_done(self) -> list[TurnReply]:
        """Returns the finished turns and forgets them."""
        done, self._done = self._done, []
        return done


def _check_finite(logprobs: Sequence[float], version: int) -> None:
    """Raises `RuntimeError` for log-probabilities that are not finite: the tokens of such a reply mean nothing."""
    broken = np.flatnonzero(~np.isfinite(np.asarray(logprobs, dtype=np.float32)))
    if len(broken):
        raise RuntimeError(
            f"the model with weights of version {version} gave the log-probability {logprobs[broken[0]]} to token"
            f" {broken[0]} of a reply; expected finite ones; its weights or activations have overflowed; resume from an"
            " earlier checkpoint with a lower learner.learning_rate, or set model.compute to 'float32'"
        )


def check_ends(codec: ChatCodec) -> None:
    """Raises `ValueError` for a model without a token that ends a reply."""
    if not codec.stop_ids:
        raise ValueError(
            "the model has no token that ends a reply: its tokenizer has no eos_token, its chat template puts no token"
            " after an answer, and every reply would run to the end of its budget; expected an eos_token in its"
            " tokenizer_config.json"
        )
