"""TensorBoard: every metric as a scalar, in `RUN_DIR/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.metrics import Metrics
from spiral.core.records import Episode

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes event files."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # takes a second to import

        self._make = SummaryWriter
        self._path = str(run_dir / FOLDER)
        self._board: Any = None

    def config(self, recipe: Mapping[str, Any], first_step: int) -> None:
        """Begins a file that hides the scalars of `first_step` and later in the files before it."""
        self._board = self._make(self._path, purge_step=first_step)

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Writes the scalars at once, so that a kill loses none."""
        for key, value in metrics.items():
            self._board.add_scalar(key, value, step)
        self._board.flush()

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Nothing: games are not drawn."""

    def close(self) -> None:
        """Closes the file."""
        if self._board is not None:
            self._board.close()
