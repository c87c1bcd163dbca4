"""Who beat whom: the games of a policy against its past selves, their win rates, and ratings from them.

A row is the policy between two past selves that were kept: the games that it played on its way to the next of them. So
the rows, one for each past self and one for the current policy, and the columns, one for each past self, are the payoff
matrix of the run against itself, of which only the games that were played are known.

Ratings are Elo by the fit of Bradley and Terry (`spiral.theory.metagame`), as in tournaments. The oldest past self in
the table has the rating that it had; the first, of step 0, has 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from spiral.core.records import Episode, past_step
from spiral.theory.metagame import elo

NOW = "now"
"""The row of the policy that has not been kept yet."""
MAX_ROWS = 100
"""Past selves in the table of a game; older ones leave it."""


@dataclasses.dataclass(kw_only=True)
class Cell:
    """The games of one row against one past self."""

    games: int = 0
    wins: float = 0.0
    """A draw counts as half of one."""
    payoff: float = 0.0
    """Sum of the row's returns, in the game's units."""


class WinRates:
    """The share of games that a policy wins against each opponent, of which older games count for less."""

    def __init__(self, *, prior: float, decay: float) -> None:
        """Begin with no games.

        Args:
            prior: Drawn games that are added to those against each opponent, so that no win rate is 0 or 1.
            decay: What older games count for after each new one against the same opponent; 1 counts all alike.
        """
        self._prior, self._decay = prior, decay
        self._recent: dict[str, list[float]] = {}
        """Games and wins against each opponent, decayed."""

    def add(self, opponent: str, wins: float) -> None:
        """Count a game: 1 for a win, one half for a draw, 0 for a loss."""
        games, won = self._recent.get(opponent, (0.0, 0.0))
        self._recent[opponent] = [self._decay * games + 1, self._decay * won + wins]

    def of(self, opponent: str) -> float:
        """Return the share of games won against an opponent, between 0 and 1; one half without games."""
        games, won = self._recent.get(opponent, (0.0, 0.0))
        return (won + self._prior / 2) / (games + self._prior)

    def keep(self, opponents: Collection[str]) -> None:
        """Forget all other opponents."""
        self._recent = {name: value for name, value in self._recent.items() if name in opponents}

    def state_dict(self) -> dict[str, list[float]]:
        """Return everything, as JSON gives it back."""
        return {name: list(value) for name, value in self._recent.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Take the state of `state_dict`."""
        self._recent = {name: list(value) for name, value in state.items()}


class Results:
    """The games of one kind against past selves."""

    def __init__(self, *, prior: float, decay: float) -> None:
        """Begin with no games; `prior` and `decay` are those of the `WinRates` against past selves."""
        self._rows: dict[str, dict[str, Cell]] = {}
        self._win_rates = WinRates(prior=prior, decay=decay)
        """Against past selves, by their steps as texts."""
        self._anchor = 0.0
        """The rating of the oldest past self in the table."""

    def add(self, step: int, wins: float, payoff: float) -> None:
        """Count a game of the current policy against the past self of `step`."""
        cell = self._rows.setdefault(NOW, {}).setdefault(str(step), Cell())
        cell.games, cell.wins, cell.payoff = cell.games + 1, cell.wins + wins, cell.payoff + payoff
        self._win_rates.add(str(step), wins)

    def win_rate(self, step: int) -> float:
        """Return the policy's share of games won against a past self, between 0 and 1; one half without games."""
        return self._win_rates.of(str(step))

    def close_row(self, step: int) -> None:
        """Take the games of the current policy as those of the past self of `step`, which was kept just now."""
        self._rows[str(step)] = self._rows.pop(NOW, {})
        while len(self._rows) > MAX_ROWS:
            known = self.ratings()
            del self._rows[next(iter(self._rows))]
            self._anchor = known[next(iter(self._rows))]
            for row in self._rows.values():
                for column in [column for column in row if column not in self._rows]:
                    del row[column]

    def forget(self, steps: Sequence[int]) -> None:
        """Keep win rates against the past selves of `steps` alone; the table keeps its rows."""
        self._win_rates.keep(set(map(str, steps)))

    def ratings(self) -> dict[str, float]:
        """Return the Elo of every row: the past selves by their steps as texts, and `NOW`.

        Before its first game the current policy is the last past self.
        """
        names = [*(name for name in self._rows if name != NOW)]
        if not self._rows.get(NOW) and names:
            return (found := self._fit(names)) | {NOW: found[names[-1]]}
        return self._fit([*names, NOW])

    def _fit(self, names: Sequence[str]) -> dict[str, float]:
        index = {name: place for place, name in enumerate(names)}
        wins = np.zeros((len(names), len(names)))
        for name, row in self._rows.items():
            for column, cell in row.items():
                wins[index[name], index[column]] += cell.wins
                wins[index[column], index[name]] += cell.games - cell.wins
        found = elo(wins, anchor=0, prior=1 / len(names)) + self._anchor
        return dict(zip(names, found.tolist(), strict=True))

    def table(self) -> list[dict[str, Any]]:
        """Return the games that were played, one dictionary for each row and column, oldest first."""
        return [
            {"row": name, "column": column, **dataclasses.asdict(cell)}
            for name, row in self._rows.items()
            for column, cell in row.items()
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as JSON gives it back."""
        return {
            "rows": {
                name: {column: [cell.games, cell.wins, cell.payoff] for column, cell in row.items()}
                for name, row in self._rows.items()
            },
            "recent": self._win_rates.state_dict(),
            "anchor": self._anchor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of `state_dict`."""
        self._rows = {
            name: {column: Cell(games=games, wins=wins, payoff=payoff) for column, (games, wins, payoff) in row.items()}
            for name, row in state["rows"].items()
        }
        self._win_rates.load_state_dict(state["recent"])
        self._anchor = state["anchor"]


def played_opponent(episode: Episode) -> tuple[str, float, float] | None:
    """Return the name of the one opponent in a game, and the learning player's wins (1, 1/2 or 0) and return.

    None for a game without an opponent, with several, or without a result.
    """
    names = {seat.policy for seat in episode.seats if not seat.trainable}
    learner = next((player for player, seat in enumerate(episode.seats) if seat.trainable), None)
    if len(names) != 1 or learner is None or episode.outcome == "not_played":
        return None
    (name,) = names
    return name, (episode.result(learner) + 1) / 2, episode.returns[learner]


def played_past_self(episode: Episode) -> tuple[int, float, float] | None:
    """Return what `played_opponent` does of a game against a past self, with its step; None for any other game."""
    played = played_opponent(episode)
    step = None if played is None else past_step(played[0])
    return None if played is None or step is None else (step, *played[1:])
