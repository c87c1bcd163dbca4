"""trackio: every metric over the step, and one game of each saved step as a trace. On this machine, or in a Space.

    [run]
    trackers = ["trackio"]
    tracker_options = { trackio = { project = "kuhn" } }

`trackio show --project kuhn` opens its page. Without `space_id` or `server_url` nothing leaves the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.metrics import Metrics
from spiral.core.records import Episode
from spiral.runs.trackers.hosted import (
    GAME_KEY,
    game_facts,
    game_rows,
    keep_name,
    kept_name,
    load_client,
    new_name,
    quiet,
    shown_game,
)


class TrackioTracker:
    """A run of trackio, continued on resume."""

    def __init__(
        self, run_dir: Path, project: str = "spiral", name: str = "", space_id: str = "", server_url: str = ""
    ) -> None:
        """Loads the client. The run's name is `name`, or that of its directory with eight digits."""
        self._trackio = load_client("trackio")
        self._run_dir = run_dir
        self._name = name
        self._project = project
        self._places = {"space_id": space_id or None, "server_url": server_url or None}
        self._run: Any = None
        self._game: dict[str, Any] = {}

    def config(self, recipe: Mapping[str, Any], first_step: int) -> None:
        """Begins the run, or continues it; the steps that are done again are logged again."""
        known = kept_name(self._run_dir, "trackio")
        name = known or keep_name(self._run_dir, "trackio", self._name or new_name(self._run_dir))
        with quiet():
            self._run = self._trackio.init(
                project=self._project,
                name=name,
                config=dict(recipe),
                resume="allow" if known else "never",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
                **self._places,
            )

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Logs the step, with the game that came before it."""
        self._run.log({**metrics, **self._game}, step=step)
        self._game = {}

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Keeps one game for the step's metrics: observations as messages of the user, replies as the assistant's."""
        shown = shown_game(step, episodes)
        if shown is None:
            return
        messages = []
        for row in game_rows(step, shown):
            messages.append({"role": "user", "content": f"player {row['player']}:\n{row['observation']}"})
            messages.append({"role": "assistant", "content": row["reply"]})
        self._game = {GAME_KEY: self._trackio.Trace(messages=messages, metadata=game_facts(step, shown))}

    def close(self) -> None:
        """Writes what is left."""
        if self._run is not None:
            with quiet():
                self._trackio.finish()
