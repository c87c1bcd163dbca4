"""`metrics.jsonl`, which every run keeps: one JSON object a step, `step` first. `spiral.read_metrics` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import sync
from spiral.core.metrics import Metrics
from spiral.core.records import Episode

FILE_NAME = "metrics.jsonl"


class JsonlTracker:
    """Appends a line for every step."""

    def __init__(self, run_dir: Path) -> None:
        self.file = run_dir / FILE_NAME

    def config(self, recipe: Mapping[str, Any], first_step: int) -> None:
        """Nothing: the run directory has `config.toml`, and rows of later steps were removed on resume."""

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Adds the step's line."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Does nothing: episodes are in separate files."""

    def sync(self) -> None:
        """Makes the lines so far survive a power failure."""
        sync(self.file)

    def close(self) -> None:
        """Nothing: the file is open only while a line is written."""
