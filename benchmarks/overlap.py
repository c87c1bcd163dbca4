"""What playing ahead gains where games and learning do not compete for a processor.

    python -m benchmarks.overlap --steps 12

In `benchmarks.cluster` rollout workers and learner share this machine's cores, and a schedule cannot win more than the
cores give. Here the learner learns for real, and the games are real, but replies come from an engine that computes
nothing: it waits as long as an engine on a device of its own would take, and answers a random legal move. The wait for
a batch of turns is set so that a step's games take about as long as its update, which is where playing ahead gains
most. So the table shows what the schedules' own work costs: dealing, checking, publishing, credit.

A machine's cores are measured too: how much two processes that compute at once do, against one.
"""

from __future__ import annotations

import argparse
import functools
import random
import statistics
import time
from collections.abc import Iterable, Sequence

from torch import Tensor

from benchmarks.cluster import WARMUP, PhaseClock
from benchmarks.common import record, work_of_two
from spiral.distributed.collector import ClusterCollector
from spiral.distributed.learner import ClusterLearner
from spiral.distributed.placement import gpus_per_rank, placed
from spiral.distributed.session import cluster_session
from spiral.distributed.weights.base import TransportContext
from spiral.inference.base import LanguagePolicy, OpenTurn
from spiral.models.loading import load_language_model
from spiral.models.shapes import model_config
from spiral.policies import TurnReply
from spiral.runs.recipe import Recipe, load_recipe
from spiral.text import ChatCodec
from spiral.text.turn_ends import stop_token_ids
from spiral.training.advantages import load_estimator
from spiral.training.loop import train


class WaitingEngine(LanguagePolicy):
    """Answers all pending turns at once, with random legal moves, after `seconds` in which it computes nothing."""

    def __init__(self, recipe: Recipe, seconds: float) -> None:
        loaded = load_language_model(recipe.model, weights=False)
        codec = ChatCodec(loaded.tokenizer, recipe.prompt)
        super().__init__(codec, recipe.sampling, name="waiting", context=2**20)
        self._stop = min(stop_token_ids(loaded.tokenizer))
        self._seconds = seconds
        self._pending: list[OpenTurn] = []

    def _generate(self, turns: Sequence[OpenTurn]) -> None:
        self._pending.extend(turns)

    def poll(self) -> list[TurnReply]:
        """Waits, and answers."""
        if self._pending:
            time.sleep(self._seconds)
        for turn in self._pending:
            assert turn.state is not None
            action = random.Random(turn.seed).choice(turn.state.legal_actions())
            ids = [*self.codec.tokenizer.encode(rf"\boxed{{{action}}}", add_special_tokens=False), self._stop]
            self._finish(turn, ids, [-1.0] * len(ids), "stop")
        self._pending = []
        return self._take_done()

    def cancel(self) -> None:
        """Forgets every pending turn."""
        self._pending = []

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Reads them, as an engine does, and keeps none."""
        for _ in weights:
            pass
        self.version = version


def row_of(recipe: Recipe, seconds: float) -> dict[str, float]:
    """Medians of one run's steps; an engine's batch takes `seconds`."""
    clock = PhaseClock()
    vocabulary = int(model_config(recipe.model.path).vocab_size)
    with cluster_session(recipe.cluster), placed(recipe.cluster, gpus_per_rank(recipe.model.device)) as placement:
        learner = ClusterLearner(recipe, TransportContext(config=recipe.cluster), placement=placement)
        try:
            learner.wait()
            make_policy = functools.partial(WaitingEngine, recipe, seconds)
            with ClusterCollector(
                make_policy, recipe.selfplay, recipe.run.seed, recipe.cluster, vocabulary=vocabulary,
                last_step=recipe.run.steps,
            ) as collector:  # fmt: skip
                collector.receive_weights(learner.publish())
                estimator = load_estimator(recipe.credit.estimator, recipe.credit.options)

                def publish() -> None:
                    collector.receive_weights(learner.publish())

                train(recipe.run, recipe.credit, estimator, collector, learner, publish, clock)
        finally:
            learner.close()
    steps = clock.steps[WARMUP:]
    phases = {key: statistics.median(metrics[f"time/{key}_s"] for _, metrics, _ in steps)
              for key in ("collect", "credit", "update", "publish")}  # fmt: skip
    return {"step": statistics.median(step for step, _, _ in steps), **phases}


def main() -> None:
    """Finds the wait, then runs every schedule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()

    def recipe(workers: int, schedule: str) -> Recipe:
        settings = [
            f"run.steps={WARMUP + arguments.steps}", f"cluster.rollout_workers={workers}",
            f"cluster.schedule={schedule}", "cluster.object_store_gib=1",
            "model.device=cpu", "run.episodes_every=1",
        ]  # fmt: skip
        return load_recipe("nano", settings)

    bare = row_of(recipe(1, "sync"), 0.0)
    # A step has as many batches as its longest game has turns: nine, of tic-tac-toe.
    seconds = (bare["update"] + bare["publish"]) / 9
    rows = []
    for workers in arguments.workers:
        base = None
        for schedule in ("sync", "overlap", "async"):
            row = row_of(recipe(workers, schedule), seconds)
            base = base or row["step"]
            rows.append(
                {
                    "schedule": schedule,
                    "rollout workers": workers,
                    "s a step": round(row["step"], 3),
                    "waiting for games": round(row["collect"], 3),
                    "credit": round(row["credit"], 3),
                    "update": round(row["update"], 3),
                    "publish": round(row["publish"], 4),
                    "against sync": round(base / row["step"], 2),
                }
            )
    settings = {
        "recipe": "nano",
        "steps": arguments.steps,
        "wait for a batch of turns": f"{seconds:.3f} s",
        "games alone, without a wait": f"{bare['collect']:.2f} s",
        "work of two processes at once, against one": f"{work_of_two():.2f}",
    }
    record("overlap", "python -m benchmarks.overlap", settings, rows)


if __name__ == "__main__":
    main()
