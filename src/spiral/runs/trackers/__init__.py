"""Where a run's numbers go besides its directory: TensorBoard, W&B, trackio, MLflow, or a tracker of one's own.

A recipe names trackers in `run.trackers`, by a built-in name, an entry point of the group "spiral.trackers", or
"module:attribute", and their settings in `run.tracker_options`:

    [run]
    trackers = ["tensorboard", "my_trackers:Csv"]
    tracker_options = { "my_trackers:Csv" = { delimiter = ";" } }

A tracker is made by calling the named class or function with the run directory and its settings. It must not change
anything in the run. One that raises an exception is reported and disabled; the run continues.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from spiral.core.metrics import Metrics
from spiral.core.plugins import check_options, resolve
from spiral.core.records import Episode
from spiral.games.failures import describe_error

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Receives the recipe, metrics and episodes of a run."""

    def config(self, recipe: Mapping[str, Any], first_step: int) -> None:
        """The recipe, before the first step; metrics already logged for `first_step` or later predate the resume."""
        ...

    def metrics(self, step: int, metrics: Metrics) -> None:
        """The metrics of a finished step, under the keys of docs/metrics.md."""
        ...

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """The games of a step, for the steps whose games are saved; before the step's metrics."""
        ...

    def close(self) -> None:
        """The run has ended, finished or not."""
        ...


def _tensorboard(run_dir: Path) -> Tracker:
    from spiral.runs.trackers.tensorboard import TensorBoardTracker

    return TensorBoardTracker(run_dir)


def _wandb(
    run_dir: Path, project: str = "spiral", name: str = "", entity: str = "", group: str = "", mode: str = ""
) -> Tracker:
    from spiral.runs.trackers.wandb import WandbTracker

    return WandbTracker(run_dir, project, name, entity, group, mode)


def _trackio(
    run_dir: Path, project: str = "spiral", name: str = "", space_id: str = "", server_url: str = ""
) -> Tracker:
    from spiral.runs.trackers.trackio import TrackioTracker

    return TrackioTracker(run_dir, project, name, space_id, server_url)


def _mlflow(run_dir: Path, experiment: str = "spiral", name: str = "", tracking_uri: str = "") -> Tracker:
    from spiral.runs.trackers.mlflow import MlflowTracker

    return MlflowTracker(run_dir, experiment, name, tracking_uri)


BUILTIN: Mapping[str, Callable[..., Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}


def find_tracker(name: str, options: Mapping[str, Any]) -> Callable[..., Tracker]:
    """The class or function that makes the tracker `name`.

    Raises `ValueError` if there is none, or if it does not take `options`.
    """
    found = resolve("trackers", name, BUILTIN)
    check_options(name, found, options, positional=1)
    return found


class Trackers:
    """Several trackers as one, none of which can end the run."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    @classmethod
    def from_names(cls, names: Sequence[str], options: Mapping[str, Mapping[str, Any]], run_dir: Path) -> Trackers:
        """Makes the named trackers. Raises `ValueError` where one cannot be made."""
        made = {}
        for name in dict.fromkeys(names):
            given = options.get(name, {})
            try:
                made[name] = find_tracker(name, given)(run_dir, **given)
            except (Exception, SystemExit) as error:
                raise ValueError(f"tracker {name!r} cannot be made: {describe_error(error)}") from error
        return cls(made)

    def config(self, recipe: Mapping[str, Any], first_step: int) -> None:
        """See `Tracker.config`."""
        self._each(lambda tracker: tracker.config(recipe, first_step))

    def metrics(self, step: int, metrics: Metrics) -> None:
        """See `Tracker.metrics`; each tracker gets a copy."""
        self._each(lambda tracker: tracker.metrics(step, dict(metrics)))

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """See `Tracker.episodes`."""
        self._each(lambda tracker: tracker.episodes(step, episodes))

    def close(self) -> None:
        """See `Tracker.close`."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except (Exception, SystemExit) as error:
                del self._trackers[name]
                logger.warning("tracker %r failed and gets nothing more of this run: %s", name, describe_error(error))
                with contextlib.suppress(Exception, SystemExit):
                    tracker.close()
