"""What a cluster did during a step, as metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence

from spiral.core.metrics import Metrics, worker_key
from spiral.core.records import Episode
from spiral.distributed.pool import Crew
from spiral.distributed.staleness import turn_ages


class Figures:
    """Counts from one collected step to the next."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._busy: dict[int, tuple[object, float]] = {}
        self._tokens: dict[int, int] = {}
        self._publish_seconds = 0.0
        self._publish_bytes = 0
        self._reached = 0
        self._metrics: Metrics = {}

    def played(self, worker: int, tokens: int) -> None:
        """A worker sampled so many tokens."""
        self._tokens[worker] = self._tokens.get(worker, 0) + tokens

    def published(self, seconds: float, num_bytes: int, reached: int = 0) -> None:
        """Weights were put where workers get them, or sent to so many of them."""
        self._publish_seconds, self._publish_bytes, self._reached = seconds, num_bytes, reached

    def collected(self, episodes: Sequence[Episode], version: int, dropped: int, waited: float, crew: Crew) -> None:
        """A step's episodes are there, for which the learner waited so many seconds; begins the next step's counts."""
        now = time.monotonic()
        seconds = max(now - self._begun, 1e-9)
        ages = turn_ages(episodes, version)
        self._metrics = {
            "cluster/workers": float(len(crew.ready)),
            "cluster/restarts": float(crew.restarts),
            "cluster/staleness": sum(ages) / max(1, len(ages)),
            "cluster/staleness_max": float(max(ages, default=0)),
            "cluster/dropped_turns": float(dropped),
            "cluster/wait_s": waited,
            "cluster/publish_s": self._publish_seconds,
            "cluster/publish_bytes": float(self._publish_bytes),
            "cluster/publish_reached": float(self._reached),
        }
        for member in crew.members:
            known, before = self._busy.get(member.number, (None, 0.0))
            busy = member.busy(now)
            worked = busy - (before if known is member else 0.0)
            self._busy[member.number] = (member, busy)
            rate = self._tokens.get(member.number, 0) / seconds
            self._metrics[worker_key(member.number, "tokens_per_s")] = rate
            self._metrics[worker_key(member.number, "idle")] = min(1.0, max(0.0, 1 - worked / seconds))
        self._begun = now
        self._tokens.clear()

    def metrics(self) -> Metrics:
        """The figures of the last step."""
        return dict(self._metrics)
