"""Steps that are counted in turns: which games are in one, and how many games are played for it.

With `selfplay.samples_per_step` the games of a step are dealt in a fixed order, and the step is the shortest beginning
of that order whose games have as many turns to learn from. Which games these are follows from the games alone. How many
are played at once does not matter to it, so games are begun ahead of need: as many as the turns of earlier games let
expect, and a tenth more, so that the engine is busy until the last game ends. What lies beyond the step is dropped.
"""

from __future__ import annotations

import math
from collections import Counter

from spiral.core.policy import NotPlayedError
from spiral.core.records import Episode

AHEAD = 0.1
"""Turns that are begun beyond those needed, as a share of them. The last game of a step decides when it ends, and
without spare games that would often be one begun when all others were over."""
MAX_GAMES_PER_SAMPLE = 4
"""Games of a step at most, as a multiple of its turns."""
FIRST_GUESS = 4.0
"""Turns of a game that are expected before any was played."""


class SampledStep:
    """The games of one step of `samples_per_step` turns, which are begun in order and end in any order."""

    def __init__(
        self, step: int, samples: int, games: int, turns_per_game: float | None = None, attempts: int = 1
    ) -> None:
        """Begin with no game.

        Args:
            step: The step, for errors.
            samples: The turns to learn from.
            games: The most games that may be played.
            turns_per_game: Turns to learn from in a game of the step before; None in the first step.
            attempts: Games in a row that are from one deal. Estimators compare them, so a step has all of them or none.
        """
        self.samples = samples
        self._step = step
        self._max_games = games
        self._attempts = attempts
        self._guess = turns_per_game or FIRST_GUESS
        self._begun = 0
        self._finished: dict[int, Episode] = {}
        self._turns = 0
        """Turns to learn from in all finished games."""
        self._length = 0
        """Games of the beginning of which all deals are finished, up to the last deal that is needed."""
        self.reached = 0
        """Turns to learn from in those games."""

    @property
    def complete(self) -> bool:
        """Whether the step has its turns."""
        return self.reached >= self.samples

    def wanted(self) -> int:
        """Return the number of games that should have begun by now.

        More begin when those begun are expected to leave the step short. Short games end first, so their lengths count
        for little until most games have ended.

        Raises:
            NotPlayedError: All games that a step may have were played, and there are too few turns.
        """
        finished = len(self._finished)
        if self.complete:
            return self._begun
        if finished == self._max_games:
            raise NotPlayedError(self._shortfall())
        known = (finished / self._begun) ** 4 if self._begun else 0.0
        length = self._guess + known * (self._turns / max(1, finished) - self._guess)
        length = max(length, 1 / MAX_GAMES_PER_SAMPLE)
        if finished == self._begun or self._begun * length < self.samples:
            games = max(finished + 1, math.ceil((1 + AHEAD) * self.samples / length))
            self._begun = max(self._begun, min(self._max_games, -(-games // self._attempts) * self._attempts))
        return self._begun

    def add(self, index: int, episode: Episode) -> None:
        """Take the finished game that is number `index` in the order."""
        self._finished[index] = episode
        self._turns += episode.learned_turns
        while not self.complete and all(number in self._finished for number in self._next_deal):
            self.reached += sum(self._finished[number].learned_turns for number in self._next_deal)
            self._length += self._attempts

    @property
    def _next_deal(self) -> range:
        return range(self._length, self._length + self._attempts)

    @property
    def episodes(self) -> list[Episode]:
        """The games of the step in their order, once it is complete."""
        return [self._finished[index] for index in range(self._length)]

    @property
    def turns_per_game(self) -> float:
        """Turns to learn from in a game of the step, once it is complete."""
        return self.reached / self._length

    def _shortfall(self) -> str:
        faults = Counter(episode.fault for episode in self._finished.values() if episode.fault)
        fault = f"; {faults.total()} were not played, mostly because: {faults.most_common(1)[0][0]}" if faults else ""
        return (
            f"step {self._step} needs {self.samples} turns to learn from (selfplay.samples_per_step), and its first"
            f" {self._max_games} games have {self.reached}{fault}; give the policy more turns (selfplay.games,"
            " selfplay.opponents), or set selfplay.samples_per_step to 0 and count games (selfplay.episodes_per_step)"
        )
