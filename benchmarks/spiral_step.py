"""SPIRAL's side of the step benchmark: `spiral.launch.assemble` and `spiral.training.loop.train`, as in `spiral train`.

What a run leaves on disk (metrics, episodes, checkpoints) is left out; TRL's side writes nothing either.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.sides import Step, parser, recipe_of, step_of, write_report
from spiral.core.metrics import Metrics
from spiral.core.records import Episode
from spiral.launch import assemble
from spiral.training.advantages import PlainReturns
from spiral.training.batch import samples_from_episodes
from spiral.training.loop import Evaluation, train


class StepClock:
    """A recorder that keeps the time and the size of every step."""

    def __init__(self) -> None:
        self._episodes: Sequence[Episode] = ()
        self.steps: list[Step] = []
        self._start = time.perf_counter()

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Keeps the games until the step ends."""
        self._episodes = episodes

    def evaluation(self, step: int, report: Evaluation) -> None:
        """Nothing: there are no evaluations."""

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Closes a step; what is counted here belongs to no step."""
        episodes = self._episodes
        seconds = time.perf_counter() - self._start
        samples, _ = samples_from_episodes(episodes, PlainReturns()(episodes), drop_zero_advantage=False)
        self.steps.append(step_of(seconds, metrics["time/collect_s"], len(episodes), samples))
        self._start = time.perf_counter()

    def sync(self) -> None:
        """Nothing: there is no checkpoint."""


def main() -> None:
    """Runs the steps and writes the report."""
    arguments = parser("SPIRAL's side of the step benchmark.").parse_args()
    recipe = recipe_of(arguments)
    with tempfile.TemporaryDirectory() as directory:
        run = assemble(recipe, Path(directory) / "run")
        clock = StepClock()
        train(run.recipe.run, run.recipe.credit, run.estimator, run.collector, run.learner, run.publish, clock)
    write_report(arguments.out, clock.steps, arguments.warmup)


if __name__ == "__main__":
    main()
