"""Weights & Biases: every metric over the step, and one game of each saved step as a table. Online or offline.

    [run]
    trackers = ["wandb"]
    tracker_options = { wandb = { project = "kuhn", mode = "offline" } }

Offline, `wandb sync RUN_DIR/wandb/offline-run-*` uploads it later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.metrics import Metrics
from spiral.core.records import Episode
from spiral.runs.trackers.hosted import (
    GAME_KEY,
    game_rows,
    keep_name,
    kept_name,
    load_client,
    new_name,
    quiet,
    shown_game,
)

MODES = ("online", "offline", "disabled")
INIT_SECONDS = 30.0
"""Seconds to reach the server before the tracker counts as failed."""
FINISH_SECONDS = 100.0
"""Seconds for the last uploads, less than `run.tracker_seconds` has by default. What is left then stays in the run
directory for `wandb sync`."""


class WandbTracker:
    """A run of W&B, continued on resume."""

    def __init__(
        self, run_dir: Path, project: str = "spiral", name: str = "", entity: str = "", group: str = "", mode: str = ""
    ) -> None:
        """Loads the client, and refuses to go online without a key. An empty text leaves W&B its own setting."""
        if mode and mode not in MODES:
            raise ValueError(f"got mode {mode!r}; expected one of {', '.join(MODES)}")
        self._wandb = load_client("wandb")
        self._run_dir = run_dir
        self._given = {"project": project, "name": name or run_dir.resolve().name, "entity": entity, "group": group}
        self._settings = self._wandb.Settings(
            console="off",
            silent=True,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            **({"mode": mode} if mode else {}),
        )
        self._run: Any = None
        self._game: dict[str, Any] = {}
        with quiet():
            online = (mode or self._wandb.setup().settings.mode) == "online"
            has_key = online and self._wandb.login(prompt=False, verify=False)
        if online and not has_key:
            raise ValueError("W&B has no key on this machine; run `wandb login`, or set its option mode = 'offline'")

    def config(self, recipe: Mapping[str, Any], first_step: int) -> None:
        """Begins the run, or continues it; the steps that are done again are logged again."""
        known = kept_name(self._run_dir, "wandb")
        name = known or keep_name(self._run_dir, "wandb", new_name(self._run_dir))
        with quiet():
            self._run = self._wandb.init(
                id=name,
                resume="allow",
                dir=str(self._run_dir),
                settings=self._settings,
                **{key: value for key, value in self._given.items() if value},
            )
        self._run.config.update(dict(recipe), allow_val_change=True)
        # W&B's own step only rises, but a resume goes back to its checkpoint
        self._run.define_metric("*", step_metric="step")

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Logs the step, with the game that came before it."""
        self._run.log({"step": step, **metrics, **self._game})
        self._game = {}

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Keeps one game for the step's metrics."""
        shown = shown_game(step, episodes)
        rows = [] if shown is None else game_rows(step, shown)
        if rows:
            table = self._wandb.Table(
                columns=list(rows[0]), data=[list(row.values()) for row in rows], allow_mixed_types=True
            )
            self._game = {GAME_KEY: table}

    def close(self) -> None:
        """Waits for the last uploads."""
        if self._run is not None:
            with quiet():
                self._run.finish()
