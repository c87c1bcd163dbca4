"""The protocol of policies: `submit` takes turns, `poll` returns replies.

The two are separate so that one loop can keep many games in flight: an engine works on all submitted turns and returns
those that are done, so that no game waits for another game's turn.
"""

from __future__ import annotations

import dataclasses
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from pydantic import Field, field_validator

from spiral.core.records import Generation, IntArray, Turn
from spiral.core.settings import Section
from spiral.games import Game, State

MIN_SAMPLING = 1e-6
"""The least temperature and top_p above 0."""


def computable(value: float) -> float:
    """Return a temperature or top_p. Raises `ValueError` where logits divided by it, or the mass, leave float32."""
    if 0 < value < MIN_SAMPLING:
        raise ValueError(f"expected at least {MIN_SAMPLING:g}, or a temperature of 0 for the most likely token")
    return value


class SamplingConfig(Section):
    """Settings of sampling. Of a model's `generation_config.json` only the stop tokens are used."""

    temperature: float = Field(1.0, ge=0, description="Divides the logits; 0 takes the most likely token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the most likely tokens whose mass reaches this share.")
    max_new_tokens: int = Field(256, ge=1, description="Response budget in tokens; a longer reply is cut off.")

    _computable = field_validator("temperature", "top_p")(computable)


class NotPlayedError(RuntimeError):
    """None of the games could be played, so there is no result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnRequest:
    """One decision to make. `seed` fixes the turn's random numbers; the reply has the same `key`."""

    key: int
    game: Game
    state: State
    player: int
    seed: int
    history: tuple[Turn, ...] = ()
    """The player's earlier turns of the episode, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question outside games, with the exact text. `key` and `seed` are as in `TurnRequest`."""

    key: int
    text: str
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplyLength:
    """Length of a reply."""

    tokens: int
    thinking_tokens: int
    """Tokens before the answer, as far as that is known."""
    truncated: bool
    """Whether the reply reached its budget or the end of the context."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnReply:
    """The reply to a turn; fields as in `records.Turn`.

    `fault` is the reason why there is no reply (the network, a rate limit, a spend limit, a prompt that fills the
    context): the game then ends without a result. For a policy that learns, a prompt that fills the context counts as
    an illegal move instead.
    """

    key: int
    observation: str
    reply: str
    action: str | None
    prompt_ids: IntArray | None = None
    history_turns: int | None = None
    generation: Generation | None = None
    length: ReplyLength | None = None
    """None for scripted policies."""
    fault: str | None = None


class Policy(Protocol):
    """Something that can play."""

    @property
    def name(self) -> str:
        """The policy's name in records and tables."""
        ...

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Queue turns; return at once."""
        ...

    def poll(self) -> list[TurnReply]:
        """Work until a submitted turn is done; return all replies that are. Empty when no turn is pending."""
        ...

    def cancel(self) -> None:
        """Drop every pending turn, because their games were stopped."""
        ...


@runtime_checkable
class RemotePolicy(Policy, Protocol):
    """A policy whose `poll` waits for another machine, so that local policies can work meanwhile."""

    def ready(self) -> bool:
        """Whether `poll` can return a reply at once."""
        ...


class Answerer(Protocol):
    """A policy that also answers questions outside games: a language model, local or behind an endpoint."""

    name: str

    @property
    def opening(self) -> str:
        """The beginning of every reply that the prompt already contains, such as a thinking tag."""
        ...

    def submit_questions(self, questions: Sequence[Question]) -> None:
        """Queue questions; `poll` returns their replies, with a length and without an action."""
        ...

    def poll(self) -> list[TurnReply]:
        """See `Policy`."""
        ...

    def cancel(self) -> None:
        """See `Policy`."""
        ...

    def sampled_with(self, sampling: SamplingConfig) -> AbstractContextManager[None]:
        """Use other sampling settings during a `with` block, at whose ends no turn may be pending."""
        ...


class ScriptedPolicy(ABC):
    """A policy that decides from the state, without a model; subclasses define `choose`."""

    name: str

    def __init__(self) -> None:
        self._pending: list[TurnRequest] = []

    @abstractmethod
    def choose(self, state: State, player: int, rng: random.Random) -> str:
        """Return a legal action for `player` in `state`."""

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Queue turns."""
        self._pending.extend(requests)

    def poll(self) -> list[TurnReply]:
        """Decide every pending turn."""
        pending, self._pending = self._pending, []
        return [self._reply(request) for request in pending]

    def cancel(self) -> None:
        """Drop every pending turn."""
        self._pending.clear()

    def _reply(self, request: TurnRequest) -> TurnReply:
        action = self.choose(request.state, request.player, random.Random(request.seed))
        observation = request.state.observation(request.player)
        return TurnReply(key=request.key, observation=observation, reply=action, action=action)
