"""The training loop, on one screen. It knows a collector and a learner, and neither Ray nor vLLM.

    collect episodes -> advantages -> batch -> update -> publish weights -> evaluate, record, save, stop

What a step collects, learns and records follows from the recipe and the step alone, so a resumed run continues as
if it had never stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from spiral.core.metrics import Metrics, episode_metrics, matchup_of
from spiral.core.policy import NotPlayedError
from spiral.core.progress import shown
from spiral.core.records import Episode, FloatArray
from spiral.training.advantages import Advantages, CreditConfig, Estimator
from spiral.training.batch import Batch, make_batch, samples_from_episodes, with_learning, zero_advantages
from spiral.training.settings import RunConfig

logger = logging.getLogger(__name__)


class Collector(Protocol):
    """Plays the games of a step."""

    def collect(self, step: int) -> list[Episode]:
        """The step's episodes, in the order in which they enter the batch."""
        ...


class Updater(Protocol):
    """Holds and updates the weights."""

    @property
    def version(self) -> int:
        """Number of updates so far."""
        ...

    def update(self, batch: Batch | None) -> Metrics:
        """One update; None when no sample was left to learn from, which still counts as a step."""
        ...

    def score(self, batch: Batch, *, split: bool = False) -> FloatArray:
        """[A] The log-probabilities of a batch's action tokens in nats; with `split`, ranks share the work."""
        ...


class Evaluation(Protocol):
    """Results of an evaluation."""

    def metrics(self) -> Metrics:
        """The main results under the keys of docs/metrics.md."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All results, for a file."""
        ...


class Recorder(Protocol):
    """Keeps what a run produces; `spiral.runs.recorder` writes it to disk."""

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Takes the games of a step."""
        ...

    def evaluation(self, step: int, report: Evaluation) -> None:
        """Takes the evaluation after a step."""
        ...

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a finished step, those of its evaluation included."""
        ...

    def sync(self) -> None:
        """Makes everything so far survive a power failure; called before a checkpoint."""
        ...


def due(step: int, every: int) -> bool:
    """Whether something that comes every `every` steps comes at `step`; never where `every` is 0."""
    return bool(every) and step % every == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a run does in a step besides learning; each does nothing by default."""

    prepare: Callable[[int], None] = lambda _step: None
    """Called before every step, for what the answers of guards change in it."""
    describe: Callable[[Sequence[Episode], Metrics], Metrics] = episode_metrics
    """The metrics of a step's episodes, from them and the seconds of each phase under its key."""
    more_metrics: Callable[[], Metrics] = dict
    """Metrics of a step that only the run knows."""
    evaluate: Callable[[int], Evaluation | None] = lambda _step: None
    """The evaluation after a step; None where none is due."""
    judge: Callable[[int, Metrics], Metrics] = lambda _step, _metrics: {}
    """What the guards say of a step, from its metrics, as more metrics."""
    stop_requested: Callable[[], bool] = lambda: False
    """Whether to stop after the step under way."""
    snapshot: Callable[[int], None] = lambda _step: None
    """Writes the model of a step in `RunConfig.snapshots`."""
    keep: Callable[[int], None] = lambda _step: None
    """Keeps the model of a step as an opponent of later ones, where it is wanted."""
    save: Callable[[int], None] = lambda _step: None
    """Writes the checkpoint of a step."""
    watch: Callable[[int, Metrics], None] = lambda _step, _metrics: None
    """Called with every step that is on record, its checkpoint included."""


NO_HOOKS = Hooks()


def train(
    config: RunConfig,
    credit: CreditConfig,
    estimator: Estimator,
    collector: Collector,
    learner: Updater,
    publish: Callable[[], None],
    recorder: Recorder,
    hooks: Hooks = NO_HOOKS,
) -> bool:
    """Trains from the learner's version up to `config.steps`; the estimator's state is updated in place.

    `publish` gives the learner's weights to the policy that the collector plays with.

    Returns:
        Whether the last step was reached; if not, a stop was requested and there is a checkpoint to resume from.
    """
    warned = False
    for step in range(learner.version + 1, config.steps + 1):
        last, times = step == config.steps, Metrics()
        saved = last or due(step, config.episodes_every)
        hooks.prepare(step)
        with _phase(times, "collect", f"step {step}: playing"):
            episodes = collector.collect(step)
        _check_played(episodes, step)
        with _phase(times, "credit"):
            advantages = estimator(episodes)
            batch, counts = _make_batch(episodes, advantages, credit)
        with _phase(times, "update", f"step {step}: learning"):
            recorded = episodes
            if saved and config.record_learner:
                scores = learner.score(batch, split=True) if batch is not None else None
                drop = credit.drop_zero_advantage
                recorded = with_learning(episodes, advantages, scores, drop_zero_advantage=drop)
            learned = {**learner.update(batch), **estimator.learn_values(episodes)}
        if not warned and (nothing_learned := _nothing_learned(learned)):
            warned = True
            logger.warning("step %d: %s", step, nothing_learned)
        with _phase(times, "publish"):
            publish()
        metrics = hooks.describe(episodes, times) | counts | _baselines(estimator, episodes) | learned
        metrics |= hooks.more_metrics()
        shown().stage(f"step {step}: recording")
        if saved:
            recorder.episodes(step, recorded)
        if (report := hooks.evaluate(step)) is not None:
            recorder.evaluation(step, report)
            metrics |= report.metrics()
        metrics |= hooks.judge(step, metrics)
        stopping = hooks.stop_requested() and not last  # a guard may have asked for it
        recorder.metrics(step, metrics)
        if step in config.snapshots:
            shown().stage(f"step {step}: writing the snapshot")
            hooks.snapshot(step)
        hooks.keep(step)
        if last or stopping or due(step, config.checkpoint_every):
            shown().stage(f"step {step}: writing the checkpoint")
            recorder.sync()
            hooks.save(step)  # last, so that a checkpoint is never ahead of the record
        hooks.watch(step, metrics)
        if stopping:
            return False
    return True


def _make_batch(
    episodes: Sequence[Episode], advantages: Advantages, credit: CreditConfig
) -> tuple[Batch | None, Metrics]:
    """The step's batch, None if every sample was dropped, and the numbers of samples kept and dropped."""
    samples, dropped = samples_from_episodes(episodes, advantages, drop_zero_advantage=credit.drop_zero_advantage)
    counts = {"credit/samples": float(len(samples)), "credit/dropped": float(dropped)}
    counts |= zero_advantages(episodes, advantages)
    return make_batch(samples) if samples else None, counts


def _nothing_learned(learned: Metrics) -> str | None:
    """A warning for an update with samples that has taken no optimizer step, or only ones without a gradient."""
    skipped, norm = learned.get("learner/skipped_steps"), learned.get("learner/grad_norm")
    if skipped and norm is None:
        return (
            f"no gradient was finite, so all {skipped:.0f} optimizer steps were skipped and the weights have not"
            " changed; lower learner.learning_rate, or look for NaN in a loss of your own"
        )
    if norm == 0:
        return (
            "the gradient of all samples was zero, so nothing was learned; check the advantages, or the loss if it is"
            " your own"
        )
    return None


def _baselines(estimator: Estimator, episodes: Sequence[Episode]) -> Metrics:
    """The baselines of the step's games, where the estimator has any."""
    values = {
        matchup_of(episode).key("baseline", player): estimator.baseline(episode.matchup, player)
        for episode in episodes
        for player in episode.learning_players
    }
    return {key: value for key, value in values.items() if value is not None}


def _check_played(episodes: Sequence[Episode], step: int) -> None:
    """Raises `NotPlayedError` with the reason when no game could be played."""
    faults = Counter(episode.fault for episode in episodes if episode.outcome == "not_played")
    if episodes and faults.total() == len(episodes):
        fault, _ = faults.most_common(1)[0]
        raise NotPlayedError(f"none of the {len(episodes)} games of step {step} could be played: {fault}")


@contextmanager
def _phase(times: Metrics, name: str, stage: str = "") -> Iterator[None]:
    """Adds the seconds spent inside to `times`, and shows the stage where one is given."""
    if stage:
        shown().stage(stage)
    start = time.perf_counter()
    yield
    times[f"time/{name}_s"] = time.perf_counter() - start
