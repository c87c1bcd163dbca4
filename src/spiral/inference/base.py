"""What every language model in a seat has in common, whichever engine runs it.

A request becomes a prompt (`OpenTurn`), an engine turns prompts into token ids and their log-probabilities, and the
finished reply becomes an action. Token ids go into the record exactly as given and sampled.
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
    """One reply to generate outside a game; `seed` and `key` as in `TurnRequest`."""

    key: int
    prompt_ids: IntArray
    """[P]"""
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenTurn:
    """A turn whose prompt is ready and whose reply is not."""

    key: int
    seed: int
    prompt_ids: IntArray
    """[P]"""
    budget: int
    """Tokens that the reply may have: the response budget, or what the context leaves."""
    observation: str = ""
    state: State | None = None
    """The state in which the reply is to be an action; None outside a game."""


SHORTEST = 8
"""Actions of the fewest letters, of which one has the fewest tokens."""


class LanguagePolicy(ABC):
    """A policy that plays by generating text; subclasses are engines and write `_generate`, `poll`, `cancel`."""

    def __init__(self, codec: ChatCodec, sampling: SamplingConfig, *, name: str, context: int) -> None:
        """`context` is the most tokens that prompt and reply may have together."""
        self.codec = codec
        self.sampling = sampling
        self.name = name
        self.version = 0
        self.precision = "float32"
        self.asleep = False
        self.context = context
        check_ends(codec)
        self.stop_ids = codec.stop_ids
        self._done: list[TurnReply] = []

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Turns every request into a prompt; where one leaves no room for an answer, the reply has a fault."""
        self._take_on([self._open(request) for request in requests])

    def submit_prompts(self, requests: Sequence[PromptRequest]) -> None:
        """Takes on prompts that belong to no game; `poll` hands their replies out, with None for the action."""
        self._take_on(
            [
                OpenTurn(
                    key=request.key,
                    seed=request.seed,
                    prompt_ids=request.prompt_ids,
                    budget=self.budget(request.prompt_ids),
                )
                for request in requests
            ]
        )

    def submit_questions(self, questions: Sequence[Question]) -> None:
        """Asks questions in the model's own template; their replies have a length, and None for the action."""
        self.submit_prompts(
            [
                PromptRequest(key=asked.key, prompt_ids=self.codec.encode_question(asked.text), seed=asked.seed)
                for asked in questions
            ]
        )

    @property
    def opening(self) -> str:
        """What a reply begins with that is not in it: what opens a thought where the prompt does."""
        return self.codec.opened

    @contextmanager
    def sampled_with(self, sampling: SamplingConfig) -> Iterator[None]:
        """Samples as told for a while. No turn may be pending at its beginning or end."""
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
        """Takes on turns, each with a budget of at least one token; returns at once."""

    @abstractmethod
    def poll(self) -> list[TurnReply]:
        """Works until at least one submitted turn is done and returns all that are; empty when none is pending."""

    @abstractmethod
    def cancel(self) -> None:
        """Forgets every pending turn."""

    @abstractmethod
    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Takes new weights by parameter name, in place. No turn may be pending."""

    def sleep(self) -> None:
        """Gives back the memory that is only needed for generating. No turn may be pending.

        Whatever is asked of a sleeping engine wakes it, and is answered as if it had never slept.
        """
        self.asleep = True

    def wake(self) -> None:
        """Takes the memory again, if it was given back."""
        self.asleep = False

    def close(self) -> None:  # noqa: B027 (an engine with nothing to give back is complete without it)
        """Gives the engine's memory back; the policy is of no more use."""

    def _open(self, request: TurnRequest) -> OpenTurn:
        """Puts the position into words and the words into tokens."""
        observation = request.state.observation(request.player, self.codec.config.observation)
        prompt_ids = self.codec.encode(observation, request.game)
        return OpenTurn(
            key=request.key,
            seed=request.seed,
            prompt_ids=prompt_ids,
            budget=self.budget(prompt_ids),
            observation=observation,
            state=request.state,
        )

    def answer_tokens(self, state: State) -> int:
        """Tokens of the shortest legal answer and its end, as far as the actions are listed."""
        actions = sorted(state.legal_actions(), key=len)[:SHORTEST]
        return 1 + min((len(self.codec.encode_reply(f"\\boxed{{{action}}}")) for action in actions), default=0)

    def budget(self, prompt_ids: IntArray) -> int:
        """Tokens that a reply to a prompt [P] may have; none where the prompt fills the context."""
        return min(self.sampling.max_new_tokens, self.context - len(prompt_ids))

    def _finish(
        self, turn: OpenTurn, token_ids: Sequence[int], logprobs: Sequence[float], stop_reason: StopReason
    ) -> None:
        """Reads the action out of a finished reply and keeps it for `poll`."""
        if stop_reason == "length" and turn.budget < self.sampling.max_new_tokens:
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
                generation=generation,
                length=ReplyLength(
                    tokens=len(ids), thinking_tokens=reading.thinking_tokens, truncated=stop_reason != "stop"
                ),
                fault=self._no_room(turn) if action is None and stop_reason == "context" else None,
            )
        )

    def _no_room(self, turn: OpenTurn) -> str | None:
        """The fault of a turn whose prompt leaves less than the shortest answer; None where it leaves enough."""
        if turn.state is None or turn.budget >= self.answer_tokens(turn.state):
            return None
        return f"a prompt left no room for an answer in the context of {self.name}, {self.context:,} tokens"

    def _take_done(self) -> list[TurnReply]:
        """The finished turns, handed out once."""
        done, self._done = self._done, []
        return done


def _check_finite(logprobs: Sequence[float], version: int) -> None:
    """Raises `RuntimeError` for a reply of a model that computes no probabilities; its tokens mean nothing."""
    broken = np.flatnonzero(~np.isfinite(np.asarray(logprobs, dtype=np.float32)))
    if len(broken):
        raise RuntimeError(
            f"the model with weights of version {version} gave the log-probability {logprobs[broken[0]]} to token"
            f" {broken[0]} of a reply; expected finite ones; its weights or activations have overflowed: go on from an"
            " earlier checkpoint with a lower learner.learning_rate, or set model.compute to 'float32'"
        )


def check_ends(codec: ChatCodec) -> None:
    """Raises `ValueError` for a model without a token that ends a reply: each would run to the end of its budget."""
    if not codec.stop_ids:
        raise ValueError(
            "the model has no token that ends a reply: its tokenizer has no eos_token, its chat template puts no token"
            " after an answer, and every reply would run to the end of its budget; expected an eos_token in its"
            " tokenizer_config.json"
        )
