"""Round robin: every player plays every other, on the same deals, and every deal from both sides.

All pairs of players get the same deals, so that luck decides no rank; `standings.py` computes ratings and rankings from
the results. Models are loaded once and dropped, least recently used first, when more than `MAX_CACHED_BYTES` of
parameters would be held; the two that play are always held.

A player here is a MODEL of the command line, known by its name and by its index in the list of players.

Not supported: schedules that save games by pairing equals, and resuming a tournament that was stopped.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from spiral.core.policy import TurnRequest
from spiral.core.records import Episode
from spiral.evaluation.arena import paired_matches
from spiral.evaluation.results import describe_player
from spiral.games import Game
from spiral.games.playout import resolve_chance
from spiral.inference.base import LanguagePolicy
from spiral.inference.room import check_room
from spiral.policies import Policy, ScriptedPolicy, is_scripted
from spiral.policies.endpoint.policy import EndpointPolicy
from spiral.rollout.loop import Watch, play
from spiral.theory import require_two_player_zero_sum
from spiral.theory.metagame import FloatArray

MAX_CACHED_BYTES = 4 * 2**30
"""Upper bound on the parameters held at once, unless two players alone have more."""

LoadPolicy = Callable[[str, Game], Policy]
"""Loads a player by name; the same policy for every game, unless it is scripted."""
StartPairing = Callable[[Game, int, int], Watch | None]
"""Called with the game, the row player and the column player before they play; returns the watcher of their games."""


class PolicyCache:
    """Players loaded on demand; the least recently used are dropped to make room for others."""

    def __init__(self, load: LoadPolicy, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._policies: dict[tuple[str, str], Policy] = {}
        self.descriptions: dict[str, dict[str, Any]] = {}
        """Weights, prompt and sampling of every player that was ever loaded, by name."""

    def get(self, name: str, game: Game, keep: str = "") -> Policy:
        """The policy of the player `name`; the player `keep` is not dropped for it."""
        key = (name, game.spec if is_scripted(name) else "")
        if key in self._policies:
            self._policies[key] = self._policies.pop(key)  # to the end: most recently used
            return self._policies[key]
        self._make_room(keep)
        self._policies[key] = policy = self._load(name, game)
        if name not in self.descriptions:
            self.descriptions[name] = describe_player(name, policy)
        return policy

    def usage(self) -> dict[str, dict[str, Any]]:
        """The requests and cost of each endpoint, by name."""
        endpoints = [policy for policy in self._policies.values() if isinstance(policy, EndpointPolicy)]
        return {policy.name: dataclasses.asdict(policy.usage()) for policy in endpoints}

    def _make_room(self, keep: str) -> None:
        """Drops policies until one more as large as the largest fits."""
        sizes = {key: parameter_bytes(policy) for key, policy in self._policies.items()}
        largest = max(sizes.values(), default=0)
        for key, size in list(sizes.items()):
            if sum(sizes.values()) + largest > self._max_bytes and size and key[0] != keep:
                dropped = self._policies.pop(key)
                del sizes[key]
                if isinstance(dropped, LanguagePolicy):
                    dropped.close()


def parameter_bytes(policy: Policy) -> int:
    """Bytes of a policy's parameters; 0 if it has none in this process.

    An engine that reserves a share of the device's memory counts as half of what may be held: two can play, and a third
    has no room.
    """
    if isinstance(policy, LanguagePolicy) and policy.reserves_memory:
        return MAX_CACHED_BYTES // 2
    model: Any = getattr(policy, "model", None)
    if model is None:
        return 0
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def check_players(players: Sequence[str], games: Sequence[Game], cache: PolicyCache) -> None:
    """Loads every player once, and has scripted ones choose a first move.

    Raises `ValueError` if one cannot play, or if a game is not a zero-sum game of two players.
    """
    for game in games:
        require_two_player_zero_sum(game, "the ratings of a tournament are for")
    for name in players:
        for game in games:
            policy = cache.get(name, game)
            check_room(policy, game)
            if isinstance(policy, ScriptedPolicy):  # a model can reply to anything
                _first_move(policy, game)


def _first_move(policy: Policy, game: Game) -> None:
    state = resolve_chance(game.initial_state(), random.Random(0))
    policy.submit([TurnRequest(key=0, game=game, state=state, player=state.current_player, seed=0)])
    policy.poll()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairing:
    """The results of two players against each other."""

    row: int
    column: int
    """Indices in the list of players."""
    returns: FloatArray
    """[deals, 2, 2]: by deal, by which of (row, column) is player 0, the returns of (row, column). A deal that was not
    played from both sides is NaN throughout, so that both sides always count equally."""
    illegal: tuple[int, int]
    """Games that row and column ended with an illegal move."""
    not_played: int
    """Games without a result, such as when an endpoint did not answer."""


def pairing(row: int, column: int, episodes: Sequence[Episode]) -> Pairing:
    """The results of the games of `paired_matches`: the row player is player 0 in even games and 1 in odd ones."""
    returns, illegal = np.full((len(episodes) // 2, 2, 2), np.nan), [0, 0]
    for index, episode in enumerate(episodes):
        deal, own = divmod(index, 2)
        if episode.outcome != "not_played":
            returns[deal, own] = episode.returns[own], episode.returns[1 - own]
        if episode.outcome == "illegal_move":
            illegal[episode.turns[-1].player != own] += 1
    returns[np.isnan(returns).any(axis=(1, 2))] = np.nan
    missing = sum(episode.outcome == "not_played" for episode in episodes)
    return Pairing(row=row, column=column, returns=returns, illegal=(illegal[0], illegal[1]), not_played=missing)


def round_robin(
    players: Sequence[str],
    games: Sequence[Game],
    cache: PolicyCache,
    episodes: int,
    seed: int,
    in_flight: int = 256,
    start: StartPairing = lambda *_: None,
) -> Iterator[tuple[Game, Pairing, list[Episode]]]:
    """Plays `episodes` games of each game between every two players; yields each pairing when it is done.

    `start` is called before each pairing is played and returns the watcher of its games.
    """
    for row in range(len(players)):
        columns = range(row + 1, len(players))
        for column in columns if row % 2 == 0 else reversed(columns):  # the last column is still loaded
            for game in games:
                watch = start(game, row, column)
                played = _play_pair(cache, players[row], players[column], game, episodes, seed, in_flight, watch)
                yield game, pairing(row, column, played), played


def _play_pair(
    cache: PolicyCache, row: str, column: str, game: Game, episodes: int, seed: int, in_flight: int, watch: Watch | None
) -> list[Episode]:
    """A separate function, so that no reference to a policy is left when the next ones are loaded."""
    first, second = cache.get(row, game, keep=column), cache.get(column, game, keep=row)
    return play(paired_matches(first, second, game, episodes, seed), in_flight, watch)
