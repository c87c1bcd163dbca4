"""The game loop. Training, evaluation, tournaments and human play all use this one.

Many games are in flight at once. Whenever a game waits for a decision it is handed to the policy that plays for that
player; whenever a policy has replies, their games move on. No game waits for another game's turn, and a policy sees all
pending turns together. What happens in a game depends only on its seed and on the policies: never on how many games
are in flight or in which order they finish.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Generator, Iterable, Iterator

from spiral.core.contract import checked_numbers, checked_player, checked_returns
from spiral.core.records import Episode, Outcome, Seat, Turn
from spiral.core.seeds import derive_seed
from spiral.games import Game, State
from spiral.games.failures import GameError, UserCodeError, describe_error, find_game_failure
from spiral.games.playout import draw
from spiral.policies import Policy, RemotePolicy, TurnReply, TurnRequest
from spiral.rollout.rewards import (
    Reward,
    check_worth,
    illegal_move_returns,
    largest_payoff,
    returns,
    with_reward,
)

Watch = Callable[[int, int], object]
"""Called with the number of finished games and of turns so far."""
MAX_CHANCE = 10_000
"""Chance actions in a row after which a game is taken to be endless."""
SHOWN_ACTIONS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """One game to be played: the policy of each player, and the seed that fixes chance, openings and sampling.

    Matches with one seed and different attempts have the same deal and opening, and replies sampled anew.
    """

    game: Game
    seed: int
    attempt: int = 0
    policies: tuple[Policy, ...]
    """[num_players]"""
    trainable: tuple[bool, ...] = ()
    """[num_players] which players learn; by default none."""
    max_turns: int = 1000
    opening_plies: int = 0
    reward: Reward = returns

    def __post_init__(self) -> None:
        players = self.game.num_players
        object.__setattr__(self, "trainable", self.trainable or (False,) * players)
        if not len(self.policies) == len(self.trainable) == players:
            raise ValueError(
                f"{self.game.spec} got {len(self.policies)} policies and {len(self.trainable)} entries of trainable;"
                f" it has {players} player{'s' if players > 1 else ''}"
            )


class _LiveGame:
    """One game under way."""

    def __init__(self, match: Match) -> None:
        self.match = match
        self.turns: list[Turn] = []
        self.actions: list[str] = []
        self.offender: int | None = None
        """The player that made an illegal move."""
        self.fault = ""
        self.requested: tuple[int, int] | None = None
        """Number, counted from 1, and player of the last requested turn."""
        self._rewards: list[float] = []
        """[turns] what each turn's player got since, as far as the game pays before its end."""
        self._last_turns: dict[int, int] = {}
        """The index of each player's last turn."""
        self._chance = random.Random(derive_seed(match.seed, "chance"))
        self.state = self._open(self._state(match.game.initial_state(), "initial_state()"))

    @property
    def over(self) -> bool:
        """Whether the game needs no more decisions."""
        ended = self.state.is_terminal or self.offender is not None or bool(self.fault)
        return ended or len(self.turns) >= self.match.max_turns

    def request(self, key: int) -> TurnRequest:
        """The turn request for the player to move."""
        again = ("attempt", self.match.attempt) if self.match.attempt else ()
        seed = derive_seed(self.match.seed, "turn", len(self.turns), *again)
        player = self.state.current_player
        try:
            checked_player(self.match.game, player)
        except ValueError as error:
            raise self.error(str(error)) from None
        self.requested = (len(self.turns) + 1, player)
        history = tuple(turn for turn in self.turns if turn.player == player)
        return TurnRequest(key=key, game=self.match.game, state=self.state, player=player, seed=seed, history=history)

    def take(self, reply: TurnReply) -> None:
        """Record a reply and move on. An illegal reply ends the game, and so does a missing one.

        A prompt that fills the context counts as an illegal move of a policy that learns, so that it can learn to be
        brief; for other policies the game is not played.
        """
        player = self.state.current_player
        self._last_turns[player] = len(self.turns)
        self._rewards.append(0.0)
        self.turns.append(
            Turn(
                player=player,
                observation=reply.observation,
                reply=reply.reply,
                action=reply.action,
                prompt_ids=reply.prompt_ids,
                history_turns=reply.history_turns,
                generation=reply.generation,
            )
        )
        if reply.fault is not None and not (reply.generation is not None and self.match.trainable[player]):
            self.fault = reply.fault or "no reason given"
        elif reply.action is None:
            self.offender = player
        elif not isinstance(reply.action, str):
            raise self.error(f"lists the action {reply.action!r} in legal_actions; expected strings")
        else:
            self.state = self._resolve_chance(self._apply(self.state, reply.action))

    def episode(self) -> Episode:
        """The finished game as a record."""
        outcome, paid = self._result()
        seats = zip(self.match.policies, self.match.trainable, strict=True)
        episode = Episode(
            game=self.match.game.spec,
            seed=self.match.seed,
            attempt=self.match.attempt,
            seats=tuple(Seat(policy=policy.name, trainable=trainable) for policy, trainable in seats),
            turns=self._rewarded_turns(paid),
            actions=tuple(self.actions),
            returns=paid,
            outcome=outcome,
            fault=self.fault,
        )
        return with_reward(episode, self.match.reward)

    def _result(self) -> tuple[Outcome, tuple[float, ...]]:
        players = self.match.game.num_players
        if self.fault:
            return "not_played", (0.0,) * players
        if self.offender is not None:
            game = self.match.game
            paid = illegal_move_returns(players, self.offender, largest_payoff(game), zero_sum=game.zero_sum)
            return "illegal_move", paid
        if not self.state.is_terminal:
            return "truncated", (0.0,) * players
        return "finished", self._checked(self.state.returns())

    def _checked(self, given: object) -> tuple[float, ...]:
        """The returns of a finished game, checked against its contract."""
        try:
            paid = checked_returns(self.match.game, given)
            check_worth(self.match.game, paid)
            return paid
        except ValueError as error:
            raise self.error(str(error)) from None

    def _numbers(self, given: object, method: str) -> tuple[float, ...]:
        try:
            return checked_numbers(self.match.game, given, method)
        except ValueError as error:
            raise self.error(str(error)) from None

    def _rewarded_turns(self, paid: tuple[float, ...]) -> tuple[Turn, ...]:
        """The turns with their rewards; the last turn of a player gets what is missing of its return."""
        for player, index in self._last_turns.items():
            earlier = (self._rewards[i] for i, turn in enumerate(self.turns) if turn.player == player and i != index)
            self._rewards[index] = paid[player] - math.fsum(earlier)
        rewarded = zip(self.turns, self._rewards, strict=True)
        return tuple(dataclasses.replace(turn, reward=reward) if reward else turn for turn, reward in rewarded)

    def broken_contract(self) -> str | None:
        """A fault of the state that no policy could handle, or None; called only after a policy has failed."""
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
        """The error of this game, with its seed, its turn and the actions that led there."""
        when = (
            "before the first turn"
            if self.requested is None
            else "at turn {}, player {} to act".format(*self.requested)
        )
        shown = ", ".join(self.actions[-SHOWN_ACTIONS:])
        path = f", after {'..., ' if len(self.actions) > SHOWN_ACTIONS else ''}{shown}" if self.actions else ""
        return GameError(
            f"game {self.match.game.spec} {what} ({when}, seed {self.match.seed}{path});"
            " spiral.check_game(game) finds such faults without a model"
        )

    def _apply(self, state: State, action: str) -> State:
        self.actions.append(action)
        following = self._state(state.apply(action), f"apply({action!r})")
        if self._last_turns and type(following).rewards is not State.rewards:
            for player, reward in enumerate(self._numbers(following.rewards(), "rewards")):
                if not math.isfinite(reward):
                    raise self.error(f"gave player {player} the reward {reward}; expected a finite number")
                if player in self._last_turns:
                    self._rewards[self._last_turns[player]] += reward
        return following

    def _state(self, given: object, call: str) -> State:
        if not isinstance(given, State):
            raise self.error(f"gave {given!r} from {call}; expected a State")
        return given

    def _resolve_chance(self, state: State) -> State:
        """Draw chance actions until a player has to decide."""
        before = len(self.actions)
        while state.is_chance:
            if len(self.actions) - before >= MAX_CHANCE:
                raise self.error(f"has played {MAX_CHANCE:,} chance actions in a row without an end")
            outcomes = state.chance_outcomes()
            try:
                action = draw(outcomes, self._chance)
            except (TypeError, ValueError, IndexError) as error:
                raise self.error(
                    f"gave the chance_outcomes {outcomes!r}; expected (action, probability) pairs"
                ) from error
            state = self._apply(state, action)
        return state

    def _open(self, state: State) -> State:
        """Resolve chance; then, in half of the games, play random moves, but never to the end of the game."""
        state = self._resolve_chance(state)
        rng = random.Random(derive_seed(self.match.seed, "opening"))
        if self.match.opening_plies == 0 or rng.random() < 0.5:
            return state
        for _ in range(rng.randint(1, self.match.opening_plies)):
            played = len(self.actions)
            following = self._resolve_chance(self._apply(state, rng.choice(state.legal_actions())))
            if following.is_terminal:
                del self.actions[played:]
                break
            state = following
        return state


def play(matches: Iterable[Match], in_flight: int = 256, watch: Watch | None = None) -> list[Episode]:
    """Play every match and return the episodes in the order of the matches; `watch` is called after every turn."""
    finished = dict(play_as_completed(matches, in_flight, watch))
    return [finished[index] for index in sorted(finished)]


def play_as_completed(
    matches: Iterable[Match], in_flight: int = 256, watch: Watch | None = None
) -> Generator[tuple[int, Episode], None, None]:
    """Play every match, at most `in_flight` at once; yield `(index of the match, episode)` as games end.

    The next of `matches` is taken whenever fewer are in flight, also after it had none left: it may be an iterator that
    gets more while games are under way. `watch` is called after every turn.

    A policy serves one call at a time. When the caller stops early or an error ends the call, pending turns are
    cancelled.

    Raises:
        GameError: A game fails or breaks its contract; the message has game, turn and player.
        UserCodeError: The user's reward fails.
    """
    games: dict[int, _LiveGame] = {}
    policies: dict[int, Policy] = {}
    try:
        yield from _play(enumerate(matches), in_flight, games, policies, watch)
    except UserCodeError:
        raise
    except (Exception, SystemExit) as error:
        failure = _game_error(error, games)
        if failure is None:
            raise
        raise failure from error
    finally:
        if games:
            for policy in policies.values():
                policy.cancel()


def _play(
    waiting: Iterator[tuple[int, Match]],
    in_flight: int,
    games: dict[int, _LiveGame],
    policies: dict[int, Policy],
    watch: Watch | None,
) -> Iterator[tuple[int, Episode]]:
    """The loop. `games` holds the games under way, `policies` the policies that have had requests."""
    finished = turns = 0
    while True:
        requests: dict[int, list[TurnRequest]] = {}
        while len(games) < in_flight and (following := next(waiting, None)) is not None:
            index, match = following
            games[index] = _LiveGame(match)
            for policy in match.policies:
                policies[id(policy)] = policy
            _ask(games[index], index, requests)
        if not games:
            return
        _submit(requests, policies)
        replied = False
        for policy in sorted(policies.values(), key=lambda policy: isinstance(policy, RemotePolicy)):
            if replied and isinstance(policy, RemotePolicy) and not policy.ready():
                continue  # wait for it only when no policy on this machine has anything to do
            requests = {}
            for reply in policy.poll():
                replied = True
                game = games[reply.key]
                game.take(reply)
                finished, turns = finished + game.over, turns + 1
                if watch is not None:
                    watch(finished, turns)
                if game.over:
                    yield reply.key, games.pop(reply.key).episode()
                else:
                    _ask(game, reply.key, requests)
            _submit(requests, policies)
        if not replied:
            names = ", ".join(policy.name for policy in policies.values())
            raise RuntimeError(f"{len(games)} games wait for a reply, but no policy ({names}) has one pending")


def _game_error(error: BaseException, games: dict[int, _LiveGame]) -> GameError | None:
    """The error of the game that raised an exception or made a policy fail; None when no game did."""
    failure = find_game_failure(error)
    if failure is None:
        if isinstance(error, ValueError):  # a policy's own message
            return None
        return next((game.error(what) for game in games.values() if (what := game.broken_contract())), None)
    game = _game_in(error) or next((game for game in games.values() if game.state is failure.owner), None)
    return game.error(f"failed in {failure.method}: {describe_error(error)}") if game else GameError(failure.message)


def _game_in(error: BaseException) -> _LiveGame | None:
    """The game whose move an exception interrupted; None when a policy called the state by itself."""
    traceback = error.__traceback__
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, _LiveGame):
            return owner
        traceback = traceback.tb_next
    return None


def _ask(game: _LiveGame, key: int, requests: dict[int, list[TurnRequest]]) -> None:
    """Add the decision that a game waits for to the requests for its policy."""
    request = game.request(key)
    requests.setdefault(id(game.match.policies[request.player]), []).append(request)


def _submit(by_policy: dict[int, list[TurnRequest]], policies: dict[int, Policy]) -> None:
    for policy_id, requests in by_policy.items():
        policies[policy_id].submit(requests)
