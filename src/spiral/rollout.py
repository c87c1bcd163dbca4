"""The game loop. Training, evaluation, tournaments and human play all use this one.

Many games are in flight at once. Whenever a game waits for a decision it is handed to the policy in that seat;
whenever a policy has replies, their games move on. No game waits for another game's turn, and a policy sees all
pending turns together. What happens in a game depends only on its seed and on the policies: never on how many
games are in flight or in which order they finish.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from pydantic import Field

from spiral.config import Section
from spiral.games import Game, State
from spiral.policies import Policy, RemotePolicy, TurnReply, TurnRequest, able_opponents
from spiral.records import Episode, Outcome, Seat, Turn
from spiral.seeds import derive_seed

Watch = Callable[[int, int], object]
"""Is told how many games are over and how many turns were taken."""
MIRROR = "mirror"
"""The opponent that is the policy itself."""
ILLEGAL_MOVE_RETURN = -1.5
ILLEGAL_MOVE_RETURN_OTHER = 0.5


class SelfPlayConfig(Section):
    """Which games are played in a training step, and how many."""

    games: dict[str, float] = Field(
        {"tictactoe": 1.0}, min_length=1, description="Game to weight; a step's episodes are split by these weights."
    )
    episodes_per_step: int = Field(128, ge=1, le=1_000_000, description="Games played before each update.")
    in_flight: int = Field(256, ge=1, description="Games under way at once.")
    max_turns: int = Field(100, ge=1, description="A game that takes more turns is cut off and counts as a draw.")
    opening_plies: dict[str, int] = Field(
        {}, description="Game to plies: half of its games open with up to so many random moves, paid to nobody."
    )
    opponents: dict[str, float] = Field(
        {"mirror": 1.0},
        min_length=1,
        description="Who sits opposite, to weight: 'mirror' is the policy itself, others as for `spiral evaluate`.",
    )
    reward: Literal["returns", "sign"] = Field(
        "returns", description="Pay the game's own returns, or only their sign. Illegal moves cost 1.5 either way."
    )

    def opponents_of(self, game: Game) -> dict[str, float]:
        """The weights of the opponents that can play a game; minimax, for one, cannot play poker.

        Raises `ValueError` when there are none.
        """
        able = {MIRROR, *able_opponents([name for name in self.opponents if name != MIRROR], game)}
        weights = {name: weight for name, weight in self.opponents.items() if name in able and weight > 0}
        if not weights:
            raise ValueError(
                f"selfplay.opponents got {self.opponents}, none of which plays {game.spec}; expected another one,"
                f" such as {MIRROR!r} or 'random'"
            )
        return weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """One game to be played: who sits where, and the seed that fixes chance, openings and sampling."""

    game: Game
    seed: int
    policies: tuple[Policy, Policy]
    trainable: tuple[bool, bool] = (False, False)
    max_turns: int = 1000
    opening_plies: int = 0
    reward: Literal["returns", "sign"] = "returns"


class _Table:
    """One game under way."""

    def __init__(self, match: Match) -> None:
        self.match = match
        self.turns: list[Turn] = []
        self.actions: list[str] = []
        self.illegal_seat: int | None = None
        self.fault = ""
        self._chance = random.Random(derive_seed(match.seed, "chance"))
        self.state = self._open(match.game.initial_state())

    @property
    def over(self) -> bool:
        """Whether the game needs no more decisions."""
        ended = self.state.is_terminal or self.illegal_seat is not None or bool(self.fault)
        return ended or len(self.turns) >= self.match.max_turns

    def request(self, key: int) -> TurnRequest:
        """The decision that the game waits for."""
        seed = derive_seed(self.match.seed, "turn", len(self.turns))
        return TurnRequest(key=key, game=self.match.game, state=self.state, seat=self.state.current_player, seed=seed)

    def take(self, reply: TurnReply) -> None:
        """Records a reply and moves on; an illegal one ends the game, and so does a missing one."""
        seat = self.state.current_player
        self.turns.append(
            Turn(
                player=seat,
                observation=reply.observation,
                reply=reply.reply,
                action=reply.action,
                prompt_ids=reply.prompt_ids,
                generation=reply.generation,
            )
        )
        if reply.fault is not None:
            self.fault = reply.fault or "no reason given"
        elif reply.action is None:
            self.illegal_seat = seat
        else:
            self.state = self._deal(self._apply(self.state, reply.action))

    def episode(self) -> Episode:
        """The finished game as a record."""
        outcome, returns = self._result()
        names = (self.match.policies[0].name, self.match.policies[1].name)
        trainable = self.match.trainable
        return Episode(
            game=self.match.game.spec,
            seed=self.match.seed,
            seats=(Seat(policy=names[0], trainable=trainable[0]), Seat(policy=names[1], trainable=trainable[1])),
            turns=tuple(self.turns),
            actions=tuple(self.actions),
            returns=returns,
            outcome=outcome,
            fault=self.fault,
        )

    def _result(self) -> tuple[Outcome, tuple[float, float]]:
        if self.fault:
            return "not_played", (0.0, 0.0)
        if self.illegal_seat is not None:
            paid = (ILLEGAL_MOVE_RETURN, ILLEGAL_MOVE_RETURN_OTHER)
            return "illegal_move", paid if self.illegal_seat == 0 else (paid[1], paid[0])
        if not self.state.is_terminal:
            return "truncated", (0.0, 0.0)
        first, second = self.state.returns()
        if self.match.reward == "sign":
            first, second = float((first > 0) - (first < 0)), float((second > 0) - (second < 0))
        return "finished", (first, second)

    def _apply(self, state: State, action: str) -> State:
        self.actions.append(action)
        return state.apply(action)

    def _deal(self, state: State) -> State:
        """Plays chance until a seat has to decide."""
        while state.is_chance:
            outcomes = state.chance_outcomes()
            action = self._chance.choices([name for name, _ in outcomes], weights=[p for _, p in outcomes])[0]
            state = self._apply(state, action)
        return state

    def _open(self, state: State) -> State:
        """Deals, then in half of the games plays random plies, never to the end of the game."""
        state = self._deal(state)
        rng = random.Random(derive_seed(self.match.seed, "opening"))
        if self.match.opening_plies == 0 or rng.random() < 0.5:
            return state
        for _ in range(rng.randint(1, self.match.opening_plies)):
            played = len(self.actions)
            following = self._deal(self._apply(state, rng.choice(state.legal_actions())))
            if following.is_terminal:
                del self.actions[played:]
                break
            state = following
        return state


def play(matches: Iterable[Match], in_flight: int = 256, watch: Watch | None = None) -> list[Episode]:
    """Plays every match and returns the episodes in the order of the matches; `watch` is called after every turn."""
    finished = dict(play_as_completed(matches, in_flight, watch))
    return [finished[index] for index in sorted(finished)]


def play_as_completed(
    matches: Iterable[Match], in_flight: int = 256, watch: Watch | None = None
) -> Iterator[tuple[int, Episode]]:
    """Plays every match, at most `in_flight` at once; yields `(index of the match, episode)` as games end.

    `matches` is asked for another one whenever there is room, also after it had none left: it may be an iterator that
    comes to have more while games are under way.

    Whoever stops early, or is stopped by an error, leaves no turn behind in a policy. One policy serves one call at a
    time. `watch` is called after every turn.
    """
    tables: dict[int, _Table] = {}
    policies: dict[int, Policy] = {}
    try:
        yield from _play(enumerate(matches), in_flight, tables, policies, watch)
    finally:
        if tables:
            for policy in policies.values():
                policy.cancel()


def _play(
    waiting: Iterator[tuple[int, Match]],
    in_flight: int,
    tables: dict[int, _Table],
    policies: dict[int, Policy],
    watch: Watch | None,
) -> Iterator[tuple[int, Episode]]:
    """The loop. `tables` holds the games under way and `policies` everyone who has been asked."""
    games = turns = 0
    while True:
        asked: dict[int, list[TurnRequest]] = {}
        while len(tables) < in_flight and (following := next(waiting, None)) is not None:
            index, match = following
            tables[index] = _Table(match)
            for policy in match.policies:
                policies[id(policy)] = policy
            _ask(tables[index], index, asked)
        if not tables:
            return
        _submit(asked, policies)
        replied = False
        for policy in sorted(policies.values(), key=lambda policy: isinstance(policy, RemotePolicy)):
            if replied and isinstance(policy, RemotePolicy) and not policy.ready():
                continue  # waited for only when nobody here has anything to do
            asked = {}
            for reply in policy.poll():
                replied = True
                table = tables[reply.key]
                table.take(reply)
                games, turns = games + table.over, turns + 1
                if watch is not None:
                    watch(games, turns)
                if table.over:
                    yield reply.key, tables.pop(reply.key).episode()
                else:
                    _ask(table, reply.key, asked)
            _submit(asked, policies)
        if not replied:
            names = ", ".join(policy.name for policy in policies.values())
            raise RuntimeError(f"{len(tables)} games wait for a reply, but no policy ({names}) has one pending")


def _ask(table: _Table, key: int, asked: dict[int, list[TurnRequest]]) -> None:
    """Notes the decision that a game waits for under the policy that has to make it."""
    policy = table.match.policies[table.state.current_player]
    asked.setdefault(id(policy), []).append(table.request(key))


def _submit(asked: dict[int, list[TurnRequest]], policies: dict[int, Policy]) -> None:
    for policy_id, requests in asked.items():
        policies[policy_id].submit(requests)
