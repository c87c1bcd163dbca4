"""The games of a workload: drawn, dealt into chunks; and one engine that plays some of them, given at once.

Between two replies that end, all rows advance together, one token a pass.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from benchmarks.scaling_inputs import Workload
from benchmarks.scaling_model import Engine

T = TypeVar("T")
Game = tuple[float, ...]
"""Tokens of the reply of every turn."""


def draw_games(workload: Workload, seed: int, step: int) -> list[Game]:
    """The games of a step; they do not depend on the cluster."""
    random = np.random.default_rng((seed, step))
    turns = random.choice(np.array(workload.turns), workload.games)
    lengths = workload.median() * np.exp(workload.tail * random.standard_normal(int(turns.sum())))
    cut = np.minimum(lengths, workload.budget).tolist()
    ends = np.cumsum(turns).tolist()
    return [tuple(cut[end - count : end]) for end, count in zip(ends, turns.tolist(), strict=True)]


def deal(games: Sequence[T], workers: int, chunks_per_worker: int) -> list[list[T]]:
    """Chunks of every n-th game, as `spiral.distributed.game_queue.GameQueue` cuts them."""
    chunks = min(len(games), chunks_per_worker * workers)
    return [list(games[first::chunks]) for first in range(chunks)]


def play(engine: Engine, prompt: float, games: Sequence[Game]) -> float:
    """Seconds of some games; one begins whenever there is room.

    A prompt stops the whole batch; then every row gets one token a pass. `clock` counts passes: a reply of n tokens
    that begins at pass c ends at pass c + n.
    """
    base = [engine.pass_base(rows) for rows in range(min(engine.rows, len(games)) + 1)]
    cache, prompt_seconds = engine.cache_seconds, engine.prompt_seconds
    waiting = iter(games)
    rows: list[tuple[float, int, Game, int]] = []
    now = clock = context = 0.0
    for number, game in enumerate(waiting):
        heapq.heappush(rows, (game[0], number, game, 0))
        now += prompt_seconds
        context += prompt
        if len(rows) == engine.rows:
            break
    while rows:
        count = len(rows)
        end, number, game, turn = rows[0]
        passes = end - clock
        now += passes * (base[count] + cache * (context + count * passes / 2))
        context += count * passes - prompt - game[turn]
        clock = end
        turn += 1
        if turn == len(game):
            following = next(waiting, None)
            if following is None:
                heapq.heappop(rows)
                continue
            game, turn = following, 0
        heapq.heapreplace(rows, (clock + game[turn], number, game, turn))
        now += prompt_seconds
        context += prompt
    return now
