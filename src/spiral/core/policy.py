"""What can sit in a seat. A policy takes turns in with `submit` and hands replies out with `poll`.

The two are apart so that one loop can keep many games in flight: an engine works on everything it has been given
and returns whatever is done, so no game waits for another game's turn.
"""

from __future__ import annotations

import dataclasses
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from pydantic import Field

from spiral.core.records import Generation, IntArray
from spiral.core.settings import Section
from spiral.games import Game, State


class SamplingConfig(Section):
    """How replies are sampled. A model's `generation_config.json` only says where they end."""

    temperature: float = Field(1.0, ge=0, description="Divides the logits; 0 takes the most likely token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the most likely tokens whose mass reaches this share.")
    max_new_tokens: int = Field(256, ge=1, description="Response budget in tokens; a longer reply is cut off.")


class NotPlayedError(RuntimeError):
    """None of the games could be played, so there is nothing to say of the players."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnRequest:
    """One decision to make. `seed` names the turn's own random stream; `key` comes back with the reply."""

    key: int
    game: Game
    state: State
    player: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A reply wanted outside a game: `text` is asked exactly so. `key` and `seed` as in `TurnRequest`."""

    key: int
    text: str
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplyLength:
    """How long a reply is."""

    tokens: int
    thinking_tokens: int
    """How many of them come before the answer, as far as that is known."""
    truncated: bool
    """Whether it ran into its budget, or into the end of the context."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnReply:
    """The decision made; fields as in `records.Turn`.

    `fault` says why no reply was to be had at all (the network, a rate limit, a spend limit, a prompt that fills the
    context): the game then ends without a result, and nobody has lost it. Only a policy that learns from the turn is
    paid for an illegal move where its own prompt leaves no room.
    """

    key: int
    observation: str
    reply: str
    action: str | None
    prompt_ids: IntArray | None = None
    generation: Generation | None = None
    length: ReplyLength | None = None
    """What scripted players' replies do not have."""
    fault: str | None = None


class Policy(Protocol):
    """Anything that can play."""

    @property
    def name(self) -> str:
        """How the policy is called in records and tables."""
        ...

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Takes on turns; returns at once."""
        ...

    def poll(self) -> list[TurnReply]:
        """Works until at least one submitted turn is done and returns all that are; empty when none is pending."""
        ...

    def cancel(self) -> None:
        """Forgets every pending turn; the games they belong to were given up."""
        ...


@runtime_checkable
class RemotePolicy(Policy, Protocol):
    """A policy that waits for others in `poll`, where policies of this machine could work meanwhile."""

    def ready(self) -> bool:
        """Whether `poll` has something to return at once."""
        ...


class Answerer(Protocol):
    """A policy that also answers questions outside games: a language model, here or behind an endpoint."""

    name: str

    @property
    def opening(self) -> str:
        """What a reply begins with that is not in it: the thinking tag where the prompt ends with it."""
        ...

    def submit_questions(self, questions: Sequence[Question]) -> None:
        """Takes on questions; `poll` hands out their replies, with a length and with None for the action."""
        ...

    def poll(self) -> list[TurnReply]:
        """As of every policy."""
        ...

    def cancel(self) -> None:
        """As of every policy."""
        ...

    def sampled_with(self, sampling: SamplingConfig) -> AbstractContextManager[None]:
        """Samples as told for a while. No turn may be pending at its beginning or end."""
        ...


class ScriptedPolicy(ABC):
    """A policy that decides from the state itself, with no model; subclasses write `choose`."""

    name: str

    def __init__(self) -> None:
        self._pending: list[TurnRequest] = []

    @abstractmethod
    def choose(self, state: State, player: int, rng: random.Random) -> str:
        """A legal action for `player` in `state`."""

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Takes on turns."""
        self._pending.extend(requests)

    def poll(self) -> list[TurnReply]:
        """Decides every pending turn."""
        pending, self._pending = self._pending, []
        return [self._reply(request) for request in pending]

    def cancel(self) -> None:
        """Forgets every pending turn."""
        self._pending.clear()

    def _reply(self, request: TurnRequest) -> TurnReply:
        action = self.choose(request.state, request.player, random.Random(request.seed))
        observation = request.state.observation(request.player)
        return TurnReply(key=request.key, observation=observation, reply=action, action=action)
