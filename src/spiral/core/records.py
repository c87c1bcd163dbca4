"""The records of games and of training data.

All of them are frozen, keyword-only dataclasses. Arrays are numpy; shapes use T for the tokens of one reply,
P for the tokens of one prompt, and L for prompt and reply together. `spiral.core.storage` writes them to disk.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 9
AGAINST = " against "
"""Separates the game from the opponents that do not learn in `Episode.matchup`."""
PAST = "past"
"""The opponent that stands for all past selves: earlier weights of the policy. One of them is called `past@STEP`."""

Outcome = Literal["finished", "illegal_move", "truncated", "not_played"]
StopReason = Literal["stop", "length", "context"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


def past_self(step: int) -> str:
    """Return the name of the policy's weights of an earlier step, as an opponent: `past@120`."""
    return f"{PAST}@{step}"


def past_step(name: str) -> int | None:
    """Return the step of a past self's name; None for any other name."""
    step = name.removeprefix(f"{PAST}@")
    return int(step) if step != name and step.isascii() and step.isdigit() and len(step) < 19 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """The tokens that a language model sampled in one turn, exactly as sampled."""

    token_ids: IntArray
    """[T] sampled ids; the stop token included when one was sampled."""
    logprobs: FloatArray
    """[T] nats, under the distribution sampled from, temperature and top-p included."""
    stop_reason: StopReason
    """"stop": a stop token was sampled; "length": the response budget ran out; "context": the context was full."""
    policy_version: int
    """Number of updates that the weights had seen."""
    budget: int = 0
    """Maximum length of the reply in tokens: the response budget, or what the prompt left of the context."""
    thinking_tokens: int = 0
    """Number of the T tokens before the answer; all of them when the reply ended before it."""
    has_thought: bool = False
    """Whether anything but white space and thinking tags comes before the answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One decision of one player."""

    player: int
    observation: str
    """The text shown to the player."""
    reply: str = ""
    """The player's text; for scripted players the action itself."""
    action: str | None
    """The legal action found in the reply; None when the reply was illegal or there was no reply."""
    prompt_ids: IntArray | None = None
    """[P] what the model was given; None for players that are not language models."""
    history_turns: int | None = None
    """Number of the player's earlier turns that the prompt held as messages; None without `prompt.history = "chat"`."""
    generation: Generation | None = None
    reward: float = 0.0
    """Reward of the player from this turn until its next one, in the game's units, illegal-move penalties included.

    The rewards of all turns of a player sum to its return in the game, whatever `selfplay.reward` pays. 0 in files
    of schema 4 and earlier.
    """
    advantages: FloatArray | None = None
    """[T] the advantage of each sampled token, or [1] where one holds for all; None for a turn not learned from.

    Like `learner_logprobs` it is known once the step has been credited, and only kept with `run.record_learner`.
    """
    learner_logprobs: FloatArray | None = None
    """[T] nats: the log-probabilities of the sampled tokens under the learner's weights before the step's update."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seat:
    """The policy that played as one of the players, and whether it learns."""

    policy: str
    trainable: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """One game from the first deal to the result. `actions` and the game replay it exactly."""

    game: str
    """The game's spec, for example "kuhn_poker(hands=5)"."""
    seed: int
    """Fixes what chance deals, random openings, and together with `attempt` the sampling of every turn."""
    attempt: int = 0
    """Counts the episodes that were played from the same seed in a step, from 0; 0 in files of schema 5 and earlier."""
    seats: tuple[Seat, ...]
    """[num_players]"""
    turns: tuple[Turn, ...]
    actions: tuple[str, ...] = ()
    """Every action applied, those of chance and of random openings included."""
    returns: tuple[float, ...]
    """[num_players] the result in the game's units; an illegal move costs 1.5 times the game's largest payoff."""
    rewards: tuple[float, ...] = ()
    """[num_players] what training pays, as `selfplay.reward` says; by default the returns.

    In files of schema 6 and earlier `returns` holds what was paid.
    """
    outcome: Outcome
    """"not_played": the last turn got no reply (for example a network error), so the game has no result and pays 0."""
    fault: str = ""
    """Why the game was not played; empty for the other outcomes."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.rewards:
            object.__setattr__(self, "rewards", self.returns)

    @property
    def opponent(self) -> str:
        """The policies of the players that do not learn, where others do; else an empty text.

        All past selves count as one opponent: each is there for some steps only, too few for baselines of its own.
        """
        others = [
            PAST if past_step(seat.policy) is not None else seat.policy for seat in self.seats if not seat.trainable
        ]
        return ", ".join(others) if len(others) < len(self.seats) else ""

    @property
    def matchup(self) -> str:
        """The games that share baselines with this one: the game and, if only some players learn, the opponents."""
        return f"{self.game}{AGAINST}{self.opponent}" if self.opponent else self.game

    def learns_from(self, turn: Turn) -> bool:
        """Whether a turn of this game becomes a sample: a policy that learns sampled at least one token in it.

        A game that could not be played has no result to learn from, and so no such turn.
        """
        sampled = turn.generation is not None and turn.prompt_ids is not None and len(turn.generation.token_ids) > 0
        return sampled and self.seats[turn.player].trainable and self.outcome != "not_played"

    @property
    def learned_turns(self) -> int:
        """Number of turns that become samples."""
        return sum(map(self.learns_from, self.turns))

    @property
    def learning_players(self) -> tuple[int, ...]:
        """The players whose results count: those that learn, or all when none does."""
        learning = tuple(player for player, seat in enumerate(self.seats) if seat.trainable)
        return learning or tuple(range(len(self.seats)))

    def result(self, player: int) -> int:
        """Return 1 if `player` won, -1 if it lost, 0 for a draw: in a game of two, the larger return wins.

        In games of one, three or more players it is the sign of the player's return.
        """
        own = self.returns[player]
        other = self.returns[1 - player] if len(self.returns) == 2 else 0.0
        return (own > other) - (own < other)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One turn as training data: what the model was given, what it sampled, and how good each token was.

    Raises:
        ValueError: There is no prompt token or no action token, or arrays of the T action tokens differ in length.
    """

    prompt_ids: IntArray
    """[P] the tokens that the model was given."""
    action_ids: IntArray
    """[T] the tokens that it sampled."""
    behaviour_logprobs: FloatArray
    """[T] nats, under the distribution sampled from."""
    advantages: FloatArray
    """[T] the advantage of each sampled token."""
    game: str
    player: int
    policy_version: int

    def __post_init__(self) -> None:
        tokens = len(self.action_ids)
        if not len(self.prompt_ids) or not tokens:
            raise ValueError(
                f"got a sample of {len(self.prompt_ids)} prompt and {tokens} action tokens; expected some of each"
            )
        for name in ("behaviour_logprobs", "advantages"):
            if getattr(self, name).shape != (tokens,):
                raise ValueError(
                    f"got {name} of shape {getattr(self, name).shape}; expected ({tokens},), one for each action token"
                )
