"""What a run's last checkpoint says of its past selves: who beat whom, and ratings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiral.core.files import read_json
from spiral.core.steps import latest_checkpoint
from spiral.rollout.opponents.results import NOW, Results
from spiral.training.checkpoint import STATE


@dataclasses.dataclass(frozen=True, kw_only=True)
class PastSelfResult:
    """The policy's games against one past self."""

    step: int
    plays: bool
    """Whether it may still be chosen."""
    elo: float
    """Its rating."""
    games: int
    """Games of the policy, of then and of later steps, against it."""
    win_rate: float | None
    """The policy's share of them that it won, a draw as half of one; None without games."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PastSelfStandings:
    """The past selves of a run in one game."""

    game: str
    step: int
    """That of the checkpoint."""
    elo: float
    """Rating of the policy at that step."""
    past_selves: tuple[PastSelfResult, ...]
    """Oldest first."""
    payoffs: tuple[dict[str, Any], ...]
    """Games, wins and payoff of each row (the policy on its way to a step) against each column (a past self)."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def past_self_standings(run: Path) -> list[PastSelfStandings]:
    """The standings in the last checkpoint of a run, by game; empty for a run without past selves.

    Raises:
        ValueError: The checkpoint cannot be read.
    """
    checkpoint = latest_checkpoint(run / "checkpoints")
    if checkpoint is None or not (checkpoint / STATE).is_file():
        return []
    try:
        state = read_json((checkpoint / STATE).read_bytes())
        kept = state.get("opponents")
        if not isinstance(kept, dict) or not isinstance(kept.get("past_selves"), list):
            return []  # another sampler
        step, playing = int(state["version"]), {int(number) for number in kept["past_selves"]}
        return [_standings(game, step, playing, saved) for game, saved in kept["results"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{checkpoint / STATE} says nothing readable of the past selves: {error}") from error


def _standings(game: str, step: int, playing: set[int], saved: Mapping[str, Any]) -> PastSelfStandings:
    results = Results(prior=1.0, decay=1.0)
    results.load_state_dict(saved)
    ratings, table = results.ratings(), results.table()
    found = []
    for name in ratings:
        if name == NOW:
            continue
        against = [cell for cell in table if cell["column"] == name]
        games = sum(cell["games"] for cell in against)
        rate = sum(cell["wins"] for cell in against) / games if games else None
        found.append(
            PastSelfResult(step=int(name), plays=int(name) in playing, elo=ratings[name], games=games, win_rate=rate)
        )
    return PastSelfStandings(
        game=str(game), step=step, elo=ratings[NOW], past_selves=tuple(found), payoffs=tuple(table)
    )
