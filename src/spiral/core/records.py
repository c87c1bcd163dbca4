"""Every record that crosses a floor, from a sampled reply to a row of a training batch.

All of them are frozen, keyword-only dataclasses. Arrays are numpy; shapes use T for the tokens of one reply,
P for the tokens of one prompt, and L for prompt and reply together. Storage is in `spiral.core.storage`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 4
AGAINST = " against "
"""Between a game and an opponent that does not learn."""

Outcome = Literal["finished", "illegal_move", "truncated", "not_played"]
StopReason = Literal["stop", "length", "context"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """What a language model sampled in one turn, exactly as sampled."""

    token_ids: IntArray
    """[T] sampled ids; the stop token included when one was sampled."""
    logprobs: FloatArray
    """[T] nats, under the distribution sampled from, temperature and top-p included."""
    stop_reason: StopReason
    """"stop": a stop token was sampled; "length": the response budget ran out; "context": the context was full."""
    policy_version: int
    """How many updates the weights had seen."""
    budget: int = 0
    """Tokens that the reply could have: the response budget, or what the prompt left of the context."""
    thinking_tokens: int = 0
    """How many of the T tokens come before the answer; all of them where the reply ended before it."""
    has_thought: bool = False
    """Whether anything but white space and thinking tags comes before the answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One decision of one seat."""

    player: int
    observation: str
    """The text shown to the player."""
    reply: str = ""
    """The player's text; for scripted players the action itself."""
    action: str | None
    """The legal action found in the reply; None when the reply was illegal, and when there was none to be had."""
    prompt_ids: IntArray | None = None
    """[P] what the model was given; None for players that are not language models."""
    generation: Generation | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seat:
    """Who sat in a seat."""

    policy: str
    trainable: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """One game from the first deal to the result. `actions` and the game replay it exactly."""

    game: str
    """The game's spec, for example "kuhn_poker(hands=5)"."""
    seed: int
    seats: tuple[Seat, Seat]
    turns: tuple[Turn, ...]
    actions: tuple[str, ...] = ()
    """Every action applied, chance and random openings included."""
    returns: tuple[float, float]
    """What each seat is paid, illegal-move penalties included."""
    outcome: Outcome
    """"not_played": no reply was to be had for the last turn, so the game has no result and pays nothing."""
    fault: str = ""
    """Why a game was not played; empty for every other."""
    schema_version: int = SCHEMA_VERSION

    @property
    def opponent(self) -> str:
        """The opponent's policy where only one player learns, else an empty text."""
        opposite = [seat.policy for seat in self.seats if not seat.trainable]
        return opposite[0] if len(opposite) == 1 else ""

    @property
    def matchup(self) -> str:
        """The games that share a baseline with this one: the game's spec, and the opponent where one player learns."""
        return f"{self.game}{AGAINST}{self.opponent}" if self.opponent else self.game

    @property
    def learning_players(self) -> tuple[int, ...]:
        """The seats whose returns count: the one that learns where one does, else both."""
        learning = tuple(seat for seat in (0, 1) if self.seats[seat].trainable)
        return learning if len(learning) == 1 else (0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One turn as training data: the prompt, the reply and the advantage of the seat that wrote it."""

    token_ids: IntArray
    """[L] prompt then reply."""
    action_mask: NDArray[np.bool_]
    """[L] true for the tokens the policy sampled."""
    behaviour_logprobs: FloatArray
    """[L] nats at the sampled tokens, zero elsewhere."""
    advantage: float
    game: str
    player: int
    policy_version: int
