"""The game queue of steps that are counted in turns to learn from (`selfplay.samples_per_step`).

Games are added to the queue as results show how many a step needs. Two ways of taking a step:

- In order (schedules sync and overlap): a step is the shortest beginning of its own games with enough turns, as in one
  process (`spiral.rollout.sampled_step`). Its other games are dropped, also those that workers still play.
- Oldest first (schedule async): finished games in the order of the queue until they have enough turns. None is dropped,
  and as many are under way as the steps ahead are expected to need.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence

from spiral.core.policy import NotPlayedError
from spiral.core.records import Episode
from spiral.distributed.game_queue import CHUNKS_PER_WORKER, Chunk, GameQueue
from spiral.distributed.weights.base import WeightsHandle
from spiral.rollout.matchmaking import Pairing, SelfPlayConfig
from spiral.rollout.sampled_step import FIRST_GUESS, MAX_GAMES_PER_SAMPLE, SampledStep


@dataclasses.dataclass(kw_only=True)
class _Step:
    """A step that was added: its games, and how many of them are in the queue."""

    pairings: Sequence[Pairing]
    weights: WeightsHandle | None
    sampled: SampledStep
    begun: int = 0


class SampledQueue(GameQueue):
    """The games of a run whose steps are counted in turns."""

    def __init__(self, selfplay: SelfPlayConfig, workers: int, *, in_order: bool) -> None:
        """Takes the games of a step, the number of workers, and whether a step is taken from its own games only."""
        super().__init__(selfplay.games_begun, workers)
        self._samples, self._attempts = selfplay.samples_per_step, selfplay.attempts
        self._workers = workers
        self._in_order = in_order
        self._steps: dict[int, _Step] = {}
        self._added = self._taken = 0

    def add_step(self, step: int, pairings: Sequence[Pairing], weights: WeightsHandle | None) -> None:
        """Adds a step, and as many of its games as it is expected to need."""
        assert self.last_step is None or step == self.last_step + 1, (step, self.last_step)
        self.last_step = step
        self._added += 1
        sampled = SampledStep(step, self._samples, len(pairings), self.turns_per_game, self._attempts)
        if not self._in_order:
            self._steps.clear()  # further games are those of the newest step
        self._steps[step] = _Step(pairings=pairings, weights=weights, sampled=sampled)
        self._begin_games(step)

    def finish(self, chunk: Chunk, episodes: Sequence[Episode]) -> bool:
        """Adds the episodes of a chunk; False when it was finished before, or its step has been taken.

        Raises:
            NotPlayedError: A step has too few turns in all games that it may have.
        """
        if chunk.number not in self._open and chunk.step not in self._steps:
            self.dropped_turns += sum(len(episode.turns) for episode in episodes)
        if not super().finish(chunk, episodes):
            return False
        if self._in_order:
            for index, episode in zip(chunk.indices, episodes, strict=True):
                self._steps[chunk.step].sampled.add(index, episode)
        self._begin_games(chunk.step if self._in_order else max(self._steps))
        return True

    def take_step(self, step: int) -> list[Episode] | None:
        """Removes and returns the episodes of a step in order, and drops its other games; None while it lacks some."""
        sampled = self._steps[step].sampled
        if not sampled.complete:
            return None
        del self._steps[step]
        episodes = sampled.episodes
        finished = [self._finished.pop(key) for key in sorted(self._finished) if key[0] == step]
        self.dropped_turns += sum(len(episode.turns) for episode in finished[len(episodes) :])
        self._open = {number: chunk for number, chunk in self._open.items() if chunk.step != step}
        self._waiting = [entry for entry in self._waiting if entry[0] != step]
        heapq.heapify(self._waiting)
        return episodes

    def take_oldest(self) -> list[Episode] | None:
        """Removes and returns finished episodes, those added first, with enough turns; None while there are fewer.

        All attempts at a deal are taken together.

        Raises:
            NotPlayedError: All games that may be played are finished, and there are too few turns.
        """
        taken: list[tuple[int, int]] = []
        turns = 0
        for step, index in sorted(self._finished):
            deal = [(step, index + attempt) for attempt in range(self._attempts)]
            if index % self._attempts or not all(key in self._finished for key in deal):
                continue
            taken += deal
            turns += sum(self._finished[key].learned_turns for key in deal)
            if turns >= self._samples:
                break
        else:
            if not self._open:
                raise NotPlayedError(
                    f"the last {len(taken)} games have {turns} turns to learn from, and a step needs {self._samples}"
                    " (selfplay.samples_per_step); give the policy more turns (selfplay.games, selfplay.opponents)"
                )
            return None
        self._taken += 1
        return [self._finished.pop(key) for key in taken]

    def _begin_games(self, step: int) -> None:
        """Adds the games that are wanted by now to the queue, from those of `step`."""
        planned = self._steps[step]
        wanted = planned.sampled.wanted() if self._in_order else planned.begun + self._missing_games()
        wanted = min(wanted, len(planned.pairings))
        if wanted > planned.begun:
            indices = range(planned.begun, wanted)
            planned.begun = wanted
            self._add_games(step, indices, planned.pairings, planned.weights, CHUNKS_PER_WORKER * self._workers)

    def _missing_games(self) -> int:
        """Games that the steps not taken yet need beyond those in the queue, if games are as long as before."""
        length = max(self.turns_per_game or FIRST_GUESS, 1 / MAX_GAMES_PER_SAMPLE)
        playing = sum(len(chunk.indices) for chunk in self._open.values())
        turns = sum(episode.learned_turns for episode in self._finished.values())
        missing = self._samples * (self._added - self._taken) - turns - playing * length
        deals = -(-missing // (length * self._attempts))
        return max(0, int(deals)) * self._attempts
