"""Round robin: everyone plays everyone, over the same deals, and every deal from both seats.

All pairs of players meet on the same deals, so that nobody's luck of the draw decides a rank; what follows from the
results is in `standings.py`. Models are loaded once, and no more of them are held at a time than fit into
`MOST_BYTES`, but always the two that play.

Left out on purpose: schedules that save games by pairing equals, and going on with a tournament that was stopped.
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
from spiral.inference.room import check_room
from spiral.policies import Policy, ScriptedPolicy, is_scripted
from spiral.policies.endpoint.policy import EndpointPolicy
from spiral.rollout.loop import Watch, play
from spiral.theory.metagame import FloatArray

MOST_BYTES = 4 * 2**30
"""Parameters held at a time, unless two players alone have more."""

Seat = Callable[[str, Game], Policy]
"""From a player's name to who plays; the same policy for every game, unless it is scripted."""
Begin = Callable[[Game, int, int], Watch | None]
"""Is told of a game, its row player and its column player; gives who watches the games."""


class Bench:
    """The players who are ready to play: loaded on demand, and those longest not asked for given up for others."""

    def __init__(self, seat: Seat, most_bytes: int = MOST_BYTES) -> None:
        self._seat = seat
        self._most_bytes = most_bytes
        self._ready: dict[tuple[str, str], Policy] = {}
        self.descriptions: dict[str, dict[str, Any]] = {}
        """By name, of everyone ever asked for: weights, prompt and sampling."""

    def ask(self, name: str, game: Game, keep: str = "") -> Policy:
        """Who plays under `name`; `keep` is somebody who must not be given up for it."""
        key = (name, game.spec if is_scripted(name) else "")
        if key in self._ready:
            self._ready[key] = self._ready.pop(key)  # to the end: asked for last
            return self._ready[key]
        self._make_room(keep)
        self._ready[key] = policy = self._seat(name, game)
        if name not in self.descriptions:
            self.descriptions[name] = describe_player(name, policy)
        return policy

    def usage(self) -> dict[str, dict[str, Any]]:
        """By name, what endpoints were asked and what it cost."""
        asked = [policy for policy in self._ready.values() if isinstance(policy, EndpointPolicy)]
        return {policy.name: dataclasses.asdict(policy.usage()) for policy in asked}

    def _make_room(self, keep: str) -> None:
        """For one more that is as large as the largest."""
        sizes = {key: held_bytes(policy) for key, policy in self._ready.items()}
        largest = max(sizes.values(), default=0)
        for key, size in list(sizes.items()):
            if sum(sizes.values()) + largest > self._most_bytes and size and key[0] != keep:
                del self._ready[key], sizes[key]


def held_bytes(policy: Policy) -> int:
    """What a policy's parameters take; 0 for whoever has none in this process."""
    model: Any = getattr(policy, "model", None)
    if model is None:
        return 0
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def check_players(players: Sequence[str], games: Sequence[Game], bench: Bench) -> None:
    """Asks for everyone once, and scripted players for a first move. Raises `ValueError` for who cannot play."""
    for name in players:
        for game in games:
            policy = bench.ask(name, game)
            check_room(policy, game)
            _first_move(policy, game)


def _first_move(policy: Policy, game: Game) -> None:
    """Nothing for models, which can say anything anywhere."""
    if not isinstance(policy, ScriptedPolicy):
        return
    state, rng = game.initial_state(), random.Random(0)
    while state.is_chance:
        outcomes = state.chance_outcomes()
        state = state.apply(rng.choices([name for name, _ in outcomes], weights=[p for _, p in outcomes])[0])
    policy.submit([TurnRequest(key=0, game=game, state=state, player=state.current_player, seed=0)])
    policy.poll()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairing:
    """What two players got from each other."""

    row: int
    column: int
    """Places in the field."""
    returns: FloatArray
    """[deals, 2, 2] by deal, by who has seat 0 (row, column), to whom (row, column); a deal that was not played from
    both seats is NaN throughout, so that seats always count equally."""
    illegal: tuple[int, int]
    """Games that row and column ended with an illegal move."""
    not_played: int
    """Games without a result, such as when an endpoint did not answer."""


def pairing(row: int, column: int, episodes: Sequence[Episode]) -> Pairing:
    """Reads the games of `paired_matches`, in which the row player has seat 0 in even games and seat 1 in odd ones."""
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
    bench: Bench,
    episodes: int,
    seed: int,
    in_flight: int = 256,
    begin: Begin = lambda *_: None,
) -> Iterator[tuple[Game, Pairing, list[Episode]]]:
    """Plays `episodes` games of each game between every two players; yields each pairing as it is done.

    `begin` receives each pairing before it is played, and returns the watcher of its games.
    """
    for row in range(len(players)):
        columns = range(row + 1, len(players))
        for column in columns if row % 2 == 0 else reversed(columns):  # begins with whom the last row ended with
            for game in games:
                watch = begin(game, row, column)
                played = _play_pair(bench, players[row], players[column], game, episodes, seed, in_flight, watch)
                yield game, pairing(row, column, played), played


def _play_pair(
    bench: Bench, row: str, column: str, game: Game, episodes: int, seed: int, in_flight: int, watch: Watch | None
) -> list[Episode]:
    """In a function of its own, which holds on to nobody when the next are loaded."""
    first, second = bench.ask(row, game, keep=column), bench.ask(column, game, keep=row)
    return play(paired_matches(first, second, game, episodes, seed), in_flight, watch)
