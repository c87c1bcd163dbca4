"""The game loop. Training, evaluation, tournaments and human play all use this one.

Many games are in flight at once. Whenever a game waits for a decision it is handed to the policy in that seat;
whenever a policy has replies, their games move on. No game waits for another game's turn, and a policy sees all
pending turns together. What happens in a game depends only on its seed and on the policies: never on how many
games are in flight or in which order they finish.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from pydantic import Field

from spiral.core.records import Episode, Outcome, Seat, Turn
from spiral.core.seeds import derive_seed
from spiral.core.settings import Section
from spiral.games import Game, State
from spiral.games.failures import GameError, UserCodeError, describe_error, find_game_failure
from spiral.policies import Policy, RemotePolicy, TurnReply, TurnRequest, able_opponents

Watch = Callable[[int, int], object]
"""Is told how many games are over and how many turns were taken."""
MIRROR = "mirror"
"""The opponent that is the policy itself."""
ILLEGAL_MOVE_RETURN = -1.5
ILLEGAL_MOVE_RETURN_OTHER = 0.5
MAX_CHANCE = 10_000
"""Chance actions in a row after which a game is taken to be endless."""
MAX_RETURN = 1e9
"""Largest return that is accepted from a game that names no bounds; beyond it float32 gradients overflow."""
ZERO_SUM_TOLERANCE = 1e-6
"""By how much the two returns of a game may miss a sum of zero, relative to the larger."""
SHOWN_ACTIONS = 20


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
        self.asked: tuple[int, int] | None = None
        """Turn, counted from 1, and player of the last decision that was asked for."""
        self._chance = random.Random(derive_seed(match.seed, "chance"))
        self.state = self._open(self._state(match.game.initial_state(), "initial_state()"))

    @property
    def over(self) -> bool:
        """Whether the game needs no more decisions."""
        ended = self.state.is_terminal or self.illegal_seat is not None or bool(self.fault)
        return ended or len(self.turns) >= self.match.max_turns

    def request(self, key: int) -> TurnRequest:
        """The decision that the game waits for."""
        seed = derive_seed(self.match.seed, "turn", len(self.turns))
        player = self.state.current_player
        if player not in (0, 1):
            raise self.error(f"gave current_player {player!r}; expected 0, 1, CHANCE or TERMINAL")
        self.asked = (len(self.turns) + 1, player)
        return TurnRequest(key=key, game=self.match.game, state=self.state, player=player, seed=seed)

    def take(self, reply: TurnReply) -> None:
        """Records a reply and moves on; an illegal one ends the game, and so does a missing one.

        A prompt that leaves no room is an illegal move of a policy that learns, which may so learn to be brief.
        """
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
        if reply.fault is not None and not (reply.generation is not None and self.match.trainable[seat]):
            self.fault = reply.fault or "no reason given"
        elif reply.action is None:
            self.illegal_seat = seat
        elif not isinstance(reply.action, str):
            raise self.error(f"lists the action {reply.action!r} in legal_actions; expected strings")
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
        first, second = self._checked(self.state.returns())
        if self.match.reward == "sign":
            first, second = float((first > 0) - (first < 0)), float((second > 0) - (second < 0))
        return "finished", (first, second)

    def _checked(self, returns: object) -> tuple[float, float]:
        """A finished game's returns, held to the game's contract; one bad number would spoil every baseline."""
        try:
            first, second = (float(value) for value in returns)  # type: ignore[attr-defined]
        except (TypeError, ValueError, OverflowError) as error:
            raise self.error(f"gave returns {returns!r}; expected two numbers, one for each player") from error
        game = self.match.game
        low = -MAX_RETURN if game.min_return is None else game.min_return
        high = MAX_RETURN if game.max_return is None else game.max_return
        for player, value in enumerate((first, second)):
            if not math.isfinite(value):
                raise self.error(f"gave player {player} the return {value}; expected a finite number")
            if not low - ZERO_SUM_TOLERANCE <= value <= high + ZERO_SUM_TOLERANCE:
                raise self.error(f"gave player {player} the return {value:g}; expected {low:g} to {high:g}")
        if abs(first + second) > ZERO_SUM_TOLERANCE * max(1.0, abs(first)):
            raise self.error(f"gave returns {first:g} and {second:g}; expected a sum of zero")
        return first, second

    def broken_contract(self) -> str | None:
        """What no policy can answer to in the present state; looked for only after a policy has failed."""
        if self.state.is_terminal or self.state.is_chance:
            return None
        actions = self.state.legal_actions()
        if not actions or not all(isinstance(action, str) for action in actions):
            return f"gave the legal_actions {actions!r}; expected at least one, all strings"
        observation = self.state.observation(self.state.current_player)
        if not isinstance(observation, str):
            return f"gave the observation {observation!r}; expected a string"
        return None

    def error(self, what: str) -> GameError:
        """The error of this game: which one, when, and how it came to be there."""
        when = "before the first turn" if self.asked is None else "at turn {}, player {} to act".format(*self.asked)
        shown = ", ".join(self.actions[-SHOWN_ACTIONS:])
        path = f", after {'..., ' if len(self.actions) > SHOWN_ACTIONS else ''}{shown}" if self.actions else ""
        return GameError(
            f"game {self.match.game.spec} {what} ({when}, seed {self.match.seed}{path});"
            " spiral.check_game(game) finds such faults without a model"
        )

    def _apply(self, state: State, action: str) -> State:
        self.actions.append(action)
        return self._state(state.apply(action), f"apply({action!r})")

    def _state(self, given: object, call: str) -> State:
        if not isinstance(given, State):
            raise self.error(f"gave {given!r} from {call}; expected a State")
        return given

    def _deal(self, state: State) -> State:
        """Plays chance until a seat has to decide."""
        dealt = len(self.actions)
        while state.is_chance:
            if len(self.actions) - dealt >= MAX_CHANCE:
                raise self.error(f"has played {MAX_CHANCE:,} chance actions in a row without an end")
            outcomes = state.chance_outcomes()
            try:
                action = self._chance.choices([name for name, _ in outcomes], weights=[p for _, p in outcomes])[0]
            except (TypeError, ValueError, IndexError) as error:
                raise self.error(
                    f"gave the chance_outcomes {outcomes!r}; expected (action, probability) pairs"
                ) from error
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
    time. `watch` is called after every turn. Raises `GameError`, with game, turn and player, where a game fails or pays
    what no game may pay.
    """
    tables: dict[int, _Table] = {}
    policies: dict[int, Policy] = {}
    try:
        yield from _play(enumerate(matches), in_flight, tables, policies, watch)
    except UserCodeError:
        raise
    except (Exception, SystemExit) as error:
        failure = _game_error(error, tables)
        if failure is None:
            raise
        raise failure from error
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


def _game_error(error: BaseException, tables: dict[int, _Table]) -> GameError | None:
    """The error of the game that an exception came out of, or that made a policy fail; None where no game did."""
    failure = find_game_failure(error)
    if failure is None:
        if isinstance(error, ValueError):  # a policy's own refusal, in its own words
            return None
        return next((table.error(what) for table in tables.values() if (what := table.broken_contract())), None)
    table = _table_in(error) or next((table for table in tables.values() if table.state is failure.owner), None)
    return table.error(f"failed in {failure.method}: {describe_error(error)}") if table else GameError(failure.message)


def _table_in(error: BaseException) -> _Table | None:
    """The game under way whose move an exception interrupted; a policy may also have asked the state by itself."""
    traceback = error.__traceback__
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, _Table):
            return owner
        traceback = traceback.tb_next
    return None


def _ask(table: _Table, key: int, asked: dict[int, list[TurnRequest]]) -> None:
    """Notes the decision that a game waits for under the policy that has to make it."""
    request = table.request(key)
    asked.setdefault(id(table.match.policies[request.player]), []).append(request)


def _submit(asked: dict[int, list[TurnRequest]], policies: dict[int, Policy]) -> None:
    for policy_id, requests in asked.items():
        policies[policy_id].submit(requests)
