"""The training loop's recorder: a run's files and its trackers. It records and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from spiral.core.metrics import Metrics
from spiral.core.records import Episode
from spiral.runs.directory import RunDirectory
from spiral.runs.recipe import Recipe
from spiral.runs.trackers import Trackers
from spiral.runs.trackers.jsonl import JsonlTracker
from spiral.training.loop import Evaluation


class RunRecorder:
    """Writes what the loop hands it: episodes, evaluations and metrics."""

    def __init__(self, directory: RunDirectory, trackers: Trackers, recipe: Recipe, first_step: int) -> None:
        self._directory = directory
        self._jsonl = JsonlTracker(directory.path)
        self._trackers = trackers
        self.last_step = first_step - 1
        """The last step on record."""
        trackers.config(recipe.model_dump(), first_step)

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Saves a step's games."""
        self._directory.save_episodes(step, episodes)
        self._trackers.episodes(step, episodes)

    def evaluation(self, step: int, report: Evaluation) -> None:
        """Saves an evaluation."""
        self._directory.save_evaluation(step, report)

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Adds a step's metrics."""
        self._directory.check()
        self._jsonl.metrics(step, metrics)
        self._trackers.metrics(step, metrics)
        self.last_step = step

    def sync(self) -> None:
        """Makes the metrics so far survive a power failure, so that no checkpoint is ever ahead of them."""
        self._jsonl.sync()

    def close(self) -> None:
        """Closes the trackers."""
        self._trackers.close()
