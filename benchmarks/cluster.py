"""A training step on a cluster: time by phase and throughput, for every schedule and number of rollout workers.

    python -m benchmarks.cluster --model nano --workers 1 2 4 --steps 12
    python -m benchmarks.cluster --recipe smollm2-cpu --workers 1 --schedules sync overlap --steps 3 --games 12

Each row is a run of `spiral.launch.assemble` and `spiral.training.loop.train` with the recipe's settings and a
learner of its own process, against the same run in one process. The first steps, in which workers load and warm up,
are left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import record, work_of_two
from spiral.core.metrics import Metrics
from spiral.core.records import Episode
from spiral.launch import assemble
from spiral.runs.recipe import Recipe, load_recipe
from spiral.training.loop import Evaluation, train

WARMUP = 2
"""Steps that are not counted."""


class PhaseClock:
    """A recorder that keeps each step's seconds and what the loop says of its phases."""

    def __init__(self) -> None:
        self._episodes: Sequence[Episode] = ()
        self.steps: list[tuple[float, Metrics, int]] = []
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
        tokens = sum(
            len(turn.generation.token_ids) for episode in episodes for turn in episode.turns if turn.generation
        )
        self.steps.append((seconds, metrics, tokens))
        self._start = time.perf_counter()

    def sync(self) -> None:
        """Nothing: there is no checkpoint."""


def run_steps(recipe: Recipe) -> tuple[list[tuple[float, Metrics, int]], Metrics]:
    """Every counted step of one run, and the cluster's metrics of the last."""
    with tempfile.TemporaryDirectory() as directory:
        run = assemble(recipe, Path(directory) / "run")
        try:
            clock = PhaseClock()
            train(recipe.run, recipe.credit, run.estimator, run.collector, run.learner, run.publish, clock)
            return clock.steps[WARMUP:], run.metrics()
        finally:
            run.close()


def row_of(name: str, workers: int, recipe: Recipe, alone: float | None) -> dict[str, object]:
    """One line of the table; `alone` is the seconds of a step in one process."""
    steps, cluster = run_steps(recipe)
    seconds = statistics.median(step for step, _, _ in steps)

    def phase(key: str) -> float:
        return statistics.median(metrics[f"time/{key}_s"] for _, metrics, _ in steps)

    idle = [value for key, value in cluster.items() if key.endswith("_idle")]
    return {
        "schedule": name,
        "rollout workers": workers,
        "s a step": round(seconds, 3),
        "waiting for games": round(phase("collect"), 3),
        "credit": round(phase("credit"), 3),
        "update": round(phase("update"), 3),
        "publish": round(phase("publish"), 4),
        "tokens/s": round(sum(tokens for _, _, tokens in steps) / sum(step for step, _, _ in steps)),
        "idle workers": f"{statistics.mean(idle):.0%}" if idle else "",
        "staleness": round(cluster.get("cluster/staleness", 0.0), 2),
        "against one process": round((alone or seconds) / seconds, 2),
    }


def recipe_of(arguments: argparse.Namespace, workers: int, schedule: str) -> Recipe:
    """The recipe with the settings of one row."""
    settings = [
        f"run.steps={WARMUP + arguments.steps}",
        f"cluster.rollout_workers={workers}",
        f"cluster.schedule={schedule}",
        f"cluster.cpus_per_worker={arguments.cpus}",
        "cluster.object_store_gib=2",
        "run.episodes_every=1",
        *(arguments.settings or []),
    ]
    if arguments.games:
        settings += [f"selfplay.episodes_per_step={arguments.games}", f"selfplay.in_flight={arguments.games}"]
    if arguments.model:
        settings.append(f'model.path="{arguments.model}"')
    return load_recipe(arguments.recipe, settings)


def main() -> None:
    """Runs every row, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="nano")
    parser.add_argument("--model", help="instead of the recipe's")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--schedules", nargs="+", default=["sync", "overlap", "async"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--games", type=int, help="instead of selfplay.episodes_per_step")
    parser.add_argument("--cpus", type=float, default=1.0, help="threads of a worker")
    parser.add_argument("--set", dest="settings", action="append", metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    rows = [row_of("one process", 0, recipe_of(arguments, 0, "sync"), None)]
    alone = float(str(rows[0]["s a step"]))
    rows += [
        row_of(schedule, workers, recipe_of(arguments, workers, schedule), alone)
        for schedule in arguments.schedules
        for workers in arguments.workers
    ]
    settings = {
        "recipe": arguments.recipe,
        "games a step": arguments.games or "the recipe's",
        "steps": arguments.steps,
        "threads of one process": torch.get_num_threads(),
        "threads of a worker": arguments.cpus,
        "work of two processes at once, against one": f"{work_of_two():.2f}",
    }
    record("cluster", "python -m benchmarks.cluster", settings, rows)


if __name__ == "__main__":
    main()
