"""Where a run's numbers go besides its directory: TensorBoard, W&B, trackio, MLflow, or a tracker of one's own.

A recipe names trackers in `run.trackers`, by a built-in name, an entry point of the group "spiral.trackers", or
"module:attribute", and their settings in `run.tracker_options`:

    [run]
    trackers = ["tensorboard", "my_trackers:Csv"]
    tracker_options = { "my_trackers:Csv" = { delimiter = ";" } }

A tracker is made by calling the named class or function with the run directory and its settings. It must not change
anything in the run. One that raises an exception, or takes longer than `run.tracker_seconds`, is reported and disabled;
the run continues.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

from spiral.core.metrics import Metrics
from spiral.core.plugins import check_options, resolve
from spiral.core.records import Episode
from spiral.games.failures import describe_error

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


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


class TrackerHangsError(Exception):
    """A tracker did not come back in time."""


class _Worker:
    """The thread in which a tracker lives, from its making to its end: a client's connections belong to one thread.

    The caller waits, so that nothing of the tracker goes on beside the training, but only for a time: a server that
    takes a request and never answers would hold the run for ever. The thread is then left to itself and ends with the
    process.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._seconds = seconds
        self.hangs = False
        threading.Thread(target=self._work, name=f"tracker {name}", daemon=True).start()

    def do(self, call: Callable[[], Result]) -> Result:
        """The result of a call, or what it raises. Raises `TrackerHangsError` when the time is up."""
        result: Future[Result] = Future()
        streams = sys.stdout, sys.stderr
        self._calls.put((call, result))
        done, _ = wait([result], timeout=self._seconds)
        if not done:
            self.hangs = True
            sys.stdout, sys.stderr = streams  # the client may hang while it is kept from printing
            raise TrackerHangsError(f"no answer within {self._seconds:g} s (run.tracker_seconds)")
        return result.result()

    def end(self) -> None:
        """Ends the thread after the calls so far."""
        self._calls.put(None)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            call, result = given
            try:
                result.set_result(call())
            except BaseException as error:  # raised again where the call was made
                result.set_exception(error)


class Trackers:
    """Several trackers as one, none of which can end the run or hold it up for long."""

    def __init__(self, trackers: Mapping[str, Tracker], *, seconds: float = 120.0) -> None:
        """With `seconds`, the time that a tracker may take at a time."""
        self._trackers = {name: (tracker, _Worker(name, seconds)) for name, tracker in trackers.items()}

    @classmethod
    def from_names(
        cls, names: Sequence[str], options: Mapping[str, Mapping[str, Any]], run_dir: Path, *, seconds: float = 120.0
    ) -> Trackers:
        """Makes the named trackers. Raises `ValueError` where one cannot be made."""
        made = cls({}, seconds=seconds)
        for name in dict.fromkeys(names):
            given = options.get(name, {})
            try:
                worker = _Worker(name, seconds)
                make = find_tracker(name, given)
                made._trackers[name] = worker.do(functools.partial(make, run_dir, **given)), worker
            except (Exception, SystemExit) as error:
                raise ValueError(f"tracker {name!r} cannot be made: {describe_error(error)}") from error
        return made

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
        for _, worker in self._trackers.values():
            worker.end()
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, (tracker, worker) in list(self._trackers.items()):
            try:
                worker.do(functools.partial(call, tracker))
            except (Exception, SystemExit) as error:
                del self._trackers[name]
                said = str(error) if isinstance(error, TrackerHangsError) else describe_error(error)
                logger.warning("tracker %r failed and gets nothing more of this run: %s", name, said)
                if not worker.hangs:
                    with contextlib.suppress(Exception, SystemExit):
                        worker.do(tracker.close)
                worker.end()
