"""Metric keys of runs by earlier versions, which were sentences such as `kuhn_poker against random/return_seat_0`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from spiral.core.metrics import Matchup, benchmark_key, worker_key


def _matchup(text: str) -> Matchup:
    game, _, opponent = text.partition(" against ")
    return Matchup(game=game, opponent=opponent)


_TABLE: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"credit/baseline (.+) seat (\d+)", lambda games, player: _matchup(games).key("baseline", int(player))),
    (r"evaluation/(.+): (win|draw|loss|illegal)", lambda games, name: _matchup(games).evaluation_key(name)),
    (
        r"evaluation/(.+): (exploitability|optimal_share|regret_self)",
        lambda game, name: Matchup(game=game).evaluation_key(name),
    ),
    (r"evaluation/(.+): (accuracy|truncated|unboxed|response_length)", benchmark_key),
    (r"cluster/worker_(\d+)_(tokens_per_s|idle)", lambda worker, name: worker_key(int(worker), name)),
    (
        r"(.+)/(return|win|illegal|response_length|thinking_length)_seat_(\d+)",
        lambda games, name, player: _matchup(games).key(name, int(player)),
    ),
    (
        r"(?!(?:rollout|selfplay|against|evaluation)/)(.+)/(games|turns|forfeits|draw)",
        lambda games, name: _matchup(games).key(name),
    ),
)
"""Old keys, and how each is made from its parts now."""


def with_current_keys(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `metrics.jsonl` with every metric under its current key; current rows stay as they are."""
    return {current_key(key): value for key, value in row.items()}


@functools.lru_cache(maxsize=4096)
def current_key(key: str) -> str:
    """The key that a metric has now."""
    for pattern, build in _TABLE:
        if match := re.fullmatch(pattern, key):
            return build(*match.groups())
    return key
