"""Role-conditioned advantage estimation (RAE, arXiv 2506.24119, section 3.3 of both versions).

One baseline b for every game and player, an exponential moving average of the returns seen there:

    A = R - b        with b read before it is updated
    b <- decay * b + (1 - decay) * R

So does the code released with the paper; the paper's Algorithm 1 updates b first, which makes A 0.95 times as large.

Every turn of the player gets the same A. The players of a game may have different chances (the first to move in
tic-tac-toe, the second to act in Kuhn poker), and a shared baseline would credit a player for its role. Games against a
fixed opponent have separate baselines, keyed by `Episode.matchup`, for the player that learns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spiral.core.records import Episode
from spiral.training.advantages.base import TurnAdvantages, advantages_by_turn, credited_players


class RoleBaselines:
    """Moving averages of returns by game and player, all starting at zero; a game is an `Episode.matchup`."""

    def __init__(self, decay: float = 0.95) -> None:
        """Raise `ValueError` unless 0 <= decay < 1."""
        if not isinstance(decay, float | int) or not 0 <= decay < 1:
            raise ValueError(f"got decay {decay!r}; expected a number with 0 <= decay < 1")
        self.decay = decay
        self._values: dict[tuple[str, int], float] = {}

    def value(self, game: str, player: int) -> float:
        """Return the baseline of `player` in `game`, in units of the returns; 0 before the first game."""
        return self._values.get((game, player), 0.0)

    def update(self, game: str, player: int, value: float) -> None:
        """Move the baseline of `player` in `game` towards a return. Raise `ValueError` if that is not finite."""
        if not math.isfinite(value):
            raise ValueError(
                f"the baseline of {game}, player {player}, got the return {value}; expected a finite number"
            )
        self._values[game, player] = self.decay * self.value(game, player) + (1 - self.decay) * value

    def state_dict(self) -> dict[str, object]:
        """Return the state as plain JSON values."""
        values = [[game, player, value] for (game, player), value in sorted(self._values.items())]
        return {"decay": self.decay, "values": values}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Replace the state by one that `state_dict` returned. Raise `ValueError` if it is not one."""
        try:
            decay, values = state["decay"], state["values"]
            loaded = {(str(game), int(player)): float(value) for game, player, value in values}  # type: ignore[attr-defined]
            if not isinstance(decay, float | int) or not 0 <= decay < 1:
                raise ValueError(f"decay is {decay!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"got {state!r} as the state of the baselines;"
                " expected {'decay': d, 'values': [[game, player, value]]}"
            ) from error
        self.decay, self._values = float(decay), loaded


class RAE:
    """The returns less a moving average of each game and player.

    Args:
        decay: How slowly the averages move; 0.95 remembers some 20 games.
    """

    def __init__(self, decay: float = 0.95) -> None:
        self._baselines = RoleBaselines(decay)

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        """Return one array [turns] for each episode, in order, and update the baselines after each episode."""
        return [self._advantages(episode) for episode in episodes]

    def _advantages(self, episode: Episode) -> TurnAdvantages:
        game, players = episode.matchup, self._players(episode)
        advantages = {player: episode.rewards[player] - self.baseline(game, player) for player in players}
        for player in players:
            self._baselines.update(game, player, episode.rewards[player])
        return advantages_by_turn(episode, advantages)

    def _players(self, episode: Episode) -> tuple[int, ...]:
        """The players that get advantages for an episode, and whose baselines it moves."""
        return credited_players(episode)

    def baseline(self, game: str, player: int) -> float:
        """Return the baseline of `player` in `game` (an `Episode.matchup`); 0 before the first game."""
        return self._baselines.value(game, player)

    def state_dict(self) -> dict[str, object]:
        """Return the baselines as plain JSON values."""
        return self._baselines.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Replace the baselines by those that `state_dict` returned. Raise `ValueError` for anything else."""
        self._baselines.load_state_dict(state)
