"""The training loop, on one screen. It knows a collector and a learner, and neither Ray nor vLLM.

    collect episodes -> advantages -> batch -> update -> publish weights -> record

What is collected, learned and recorded at a step depends on the recipe and the step alone, so a resumed run goes on
exactly as if it had never stopped.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pydantic import Field

from spiral.core.metrics import Metrics, episode_metrics, matchup_of
from spiral.core.policy import NotPlayedError
from spiral.core.progress import shown
from spiral.core.records import Episode
from spiral.core.settings import Section
from spiral.training.advantages import CreditConfig, Estimator
from spiral.training.batch import Batch, make_batch, samples_from_episodes

logger = logging.getLogger(__name__)


class RunConfig(Section):
    """How long to train, from which seed, and what to keep."""

    steps: int = Field(100, ge=1, description="Training steps: games, then an update.")
    seed: int = Field(0, ge=0, description="Every random draw of the run follows from it.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints; the last step always gets one.")
    keep_checkpoints: int = Field(0, ge=0, description="Keep only the newest this many checkpoints; 0 keeps all.")
    episodes_every: int = Field(10, ge=1, description="Steps between saved episode files; the last step is saved too.")


class Collector(Protocol):
    """Plays the games of a step."""

    def collect(self, step: int) -> list[Episode]:
        """The step's episodes, in the order in which they enter the batch."""
        ...


class Updater(Protocol):
    """Owns the weights."""

    @property
    def version(self) -> int:
        """Updates done."""
        ...

    def update(self, batch: Batch | None) -> Metrics:
        """One update; None when no sample was left to learn from, which still counts as a step."""
        ...


class Recorder(Protocol):
    """Keeps what a run produces; `spiral.runs.directory` writes it to disk."""

    def record(self, step: int, metrics: Metrics, episodes: Sequence[Episode]) -> None:
        """Takes the results of one step."""
        ...


def train(
    config: RunConfig,
    credit: CreditConfig,
    estimator: Estimator,
    collector: Collector,
    learner: Updater,
    publish: Callable[[], None],
    recorder: Recorder,
) -> None:
    """Trains from the learner's version up to `config.steps`; the estimator's state is updated in place.

    `publish` gives the learner's weights to the policy that the collector plays with.
    """
    warned = False
    for step in range(learner.version + 1, config.steps + 1):
        times: Metrics = {}
        shown().stage(f"step {step}: playing")
        with _timed(times, "collect"):
            episodes = collector.collect(step)
        _check_played(episodes, step)
        with _timed(times, "credit"):
            advantages = estimator(episodes)
            samples, dropped = samples_from_episodes(
                episodes, advantages, drop_zero_advantage=credit.drop_zero_advantage
            )
            batch = make_batch(samples) if samples else None
        shown().stage(f"step {step}: learning")
        with _timed(times, "update"):
            learned = learner.update(batch)
        with _timed(times, "publish"):
            publish()
        metrics = {
            **episode_metrics(episodes, times),
            "credit/samples": float(len(samples)),
            "credit/dropped": float(dropped),
            **_baselines(estimator, episodes),
            **learned,
        }
        warned = warned or _warn_of_room(metrics, step)
        shown().stage(f"step {step}: recording")
        recorder.record(step, metrics, episodes)


def _baselines(estimator: Estimator, episodes: Sequence[Episode]) -> Metrics:
    """The baselines of the step's games, where the estimator has any."""
    values = {
        matchup_of(episode).key("baseline", player): estimator.baseline(episode.matchup, player)
        for episode in episodes
        for player in episode.learning_players
    }
    return {key: value for key, value in values.items() if value is not None}


def _check_played(episodes: Sequence[Episode], step: int) -> None:
    """Raises `NotPlayedError` when there is nothing to learn from, and says why."""
    faults = Counter(episode.fault for episode in episodes if episode.outcome == "not_played")
    if episodes and faults.total() == len(episodes):
        fault, _ = faults.most_common(1)[0]
        raise NotPlayedError(f"none of the {len(episodes)} games of step {step} could be played: {fault}")


def _warn_of_room(metrics: Metrics, step: int) -> bool:
    """Warns where prompts filled the model's context; returns whether they did."""
    share = metrics.get("rollout/prompt_too_long", 0.0)
    if share > 0:
        logger.warning(
            "step %d: %.2g%% of the prompts fill the model's context and count as illegal moves"
            " (rollout/prompt_too_long, told once); expected prompt.observation = 'compact', a longer context, or games"
            " that end sooner",
            step,
            100 * share,
        )
    return share > 0


@contextmanager
def _timed(times: Metrics, phase: str) -> Iterator[None]:
    """Adds the seconds spent inside to `times`."""
    start = time.perf_counter()
    yield
    times[f"time/{phase}_s"] = time.perf_counter() - start
