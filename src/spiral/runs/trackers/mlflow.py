"""MLflow: settings as parameters, every metric over the step, and one game of each saved step as a table.

    [run]
    trackers = ["mlflow"]
    tracker_options = { mlflow = { tracking_uri = "http://127.0.0.1:5000" } }

Without a `tracking_uri` it goes where the environment variable MLFLOW_TRACKING_URI says, or else into
`RUN_DIR/mlflow`, which `mlflow ui --backend-store-uri sqlite:///RUN_DIR/mlflow/mlflow.db` shows.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.metrics import Metrics
from spiral.core.records import Episode
from spiral.core.steps import step_name
from spiral.runs.trackers.hosted import (
    flat_settings,
    game_rows,
    keep_name,
    kept_name,
    load_client,
    quiet,
    shown_game,
)

logger = logging.getLogger(__name__)

PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""How long a server that does not answer holds up a step, unless the environment says otherwise."""
MAX_PARAMETER = 6000
"""Characters of a parameter that MLflow takes."""
PARAMETERS_A_CALL = 100
METRICS_A_CALL = 1000


class MlflowTracker:
    """A run of MLflow, continued on resume."""

    def __init__(self, run_dir: Path, experiment: str = "spiral", name: str = "", tracking_uri: str = "") -> None:
        """Loads the client."""
        for key, value in PATIENCE.items():
            os.environ.setdefault(key, value)
        self._mlflow = load_client("mlflow")
        for quieted in ("mlflow", "alembic"):
            logging.getLogger(quieted).setLevel(logging.WARNING)
        self._run_dir = run_dir
        self._experiment = experiment
        self._name = name or run_dir.resolve().name
        self._uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self._client: Any = None
        self._run = ""

    def config(self, recipe: Mapping[str, Any], first_step: int) -> None:
        """Begins the run, or continues it; values of steps that are done again stand beside the earlier ones."""
        with quiet():
            self._client = self._mlflow.MlflowClient(tracking_uri=self._uri or self._own_store())
            self._run = self._continued() or self._begun()
            known = self._client.get_run(self._run).data.params
            parameters = [
                self._mlflow.entities.Param(key, value[:MAX_PARAMETER])
                for key, value in flat_settings(recipe).items()
                if key not in known  # MLflow never changes one; recipe.json has the present values
            ]
            for first in range(0, len(parameters), PARAMETERS_A_CALL):
                self._client.log_batch(self._run, params=parameters[first : first + PARAMETERS_A_CALL])
            self._client.log_dict(self._run, dict(recipe), "recipe.json")

    def metrics(self, step: int, metrics: Metrics) -> None:
        """Logs the step."""
        now = int(time.time() * 1000)
        values = [self._mlflow.entities.Metric(key, float(value), now, step) for key, value in metrics.items()]
        for first in range(0, len(values), METRICS_A_CALL):
            self._client.log_batch(self._run, metrics=values[first : first + METRICS_A_CALL])

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Logs one game as the table `games/step-000010.json`."""
        shown = shown_game(step, episodes)
        rows = [] if shown is None else game_rows(step, shown)
        if rows:
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            file = f"games/{step_name(step)}.json"
            with quiet():
                there = {item.path for item in self._client.list_artifacts(self._run, "games")}
                if (
                    file not in there
                ):  # a step done again on resume plays the same game, and `log_table` would add to it
                    self._client.log_table(self._run, columns, file)

    def close(self) -> None:
        """Marks the run as ended."""
        if self._run:
            self._client.set_terminated(self._run)

    def _own_store(self) -> str:
        """A database in the run directory."""
        (self._run_dir / "mlflow").mkdir(exist_ok=True)
        return f"sqlite:///{(self._run_dir / 'mlflow' / 'mlflow.db').resolve()}"

    def _continued(self) -> str:
        """The run of before, marked as running; empty where there is none."""
        known = kept_name(self._run_dir, "mlflow")
        if known is None:
            return ""
        try:
            self._client.update_run(known, status="RUNNING")
        except self._mlflow.MlflowException as error:
            if "RESOURCE_DOES_NOT_EXIST" not in str(getattr(error, "error_code", "")):
                raise
            logger.warning("MLflow has no run %s any more; a new one begins", known)
            return ""
        return known

    def _begun(self) -> str:
        """A new run in the experiment, which is made where there is none."""
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            experiment = found.experiment_id
        else:
            own = None if self._uri else (self._run_dir / "mlflow" / "artifacts").resolve().as_uri()
            experiment = self._client.create_experiment(self._experiment, artifact_location=own)
        run = self._client.create_run(experiment, run_name=self._name)
        return keep_name(self._run_dir, "mlflow", run.info.run_id)
