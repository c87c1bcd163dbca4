"""`spiral cluster status`: what the processes of a run are doing.

The answer comes from files in the run directory alone, so any machine that sees the directory can give it, during the
run and after its end.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.output import print_json, resume_command
from spiral.core.progress import duration
from spiral.distributed.status import STATUS_FILE, STATUS_SECONDS
from spiral.runs.display import phase_seconds, plain_table, wide_console, worker_metrics
from spiral.runs.old_metrics import with_current_keys

SILENT_SECONDS = 12 * STATUS_SECONDS
"""Seconds without a new status after which a run counts as silent."""

cluster = typer.Typer(help="The processes of a run that is spread over several.")


@cluster.callback()
def _cluster() -> None:
    """Keeps `status` a subcommand although it is the only one."""


@cluster.command("status")
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    as_json: opt.Json = False,
) -> None:
    """Show the processes of RUN, their progress and speed, and where the time of a step goes.

    A run writes its status every few seconds. A worker's speed and idle share and the seconds of a step are those of
    the last complete step.
    """
    found = read_status(run)
    if as_json:
        print_json(found)
    else:
        _print(found)


def read_status(run: Path) -> dict[str, Any]:
    """The status of a run on a cluster, as `--json` prints it. Raises `ValueError` for a run in one process."""
    _check_cluster_run(run)
    try:
        status = json.loads((run / STATUS_FILE).read_text(encoding="utf-8"))
        age = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(status["time"])).total_seconds()
        return _merged(run, status, max(0.0, age), _last_row(run))
    except FileNotFoundError as error:
        raise ValueError(f"the run in {run} has not written a status yet; its workers may be starting") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{run / STATUS_FILE} is damaged; the run writes it again within seconds, unless it has ended"
        ) from error


def _check_cluster_run(run: Path) -> None:
    file = run / "config.toml"
    try:
        recipe = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{run} is not a run directory: there is no {file.name} in it") from error
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not recipe.get("cluster", {}).get("rollout_workers"):
        raise ValueError(
            f"the run in {run} has only one process; to spread it over several, start or resume it with --set"
            " cluster.rollout_workers=2"
        )


def _last_row(run: Path) -> dict[str, Any]:
    """The last complete row of the metrics, or {} before the first step. Read without loading torch."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in reversed(lines[-2:]):
        try:
            row: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:  # cut short by a kill
            continue
        return with_current_keys(row)
    return {}


def _merged(run: Path, status: dict[str, Any], age: float, row: dict[str, Any]) -> dict[str, Any]:
    """The status file and the metrics of the last step in one dictionary."""
    driver = {**status["driver"], "alive": _is_alive(status["driver"])}
    rates, idle = (worker_metrics(row, name, status["workers"]) for name in ("tokens_per_s", "idle"))
    workers = [
        {**worker, "tokens_per_s": rates.get(worker["number"]), "idle": idle.get(worker["number"])}
        for worker in status["rollout_workers"]
    ]
    return {
        "run": str(run),
        "state": _state(status["state"], driver["alive"], age),
        "driver": driver,
        "age_s": age,
        "step": row.get("step", 0),
        "steps": status["steps"],
        "schedule": status["schedule"],
        "version": status["version"],
        "rollout_workers": status["workers"],
        "ready": len(workers),
        "workers": sorted(workers, key=lambda worker: int(worker["number"])),
        "learners": status["learners"],
        "staleness": row.get("cluster/staleness"),
        "staleness_max": row.get("cluster/staleness_max"),
        "dropped_turns": row.get("cluster/dropped_turns"),
        "restarts": row.get("cluster/restarts"),
        "step_s": row.get("cluster/wall_s", row.get("time/step_s")),
        "phases_s": phase_seconds(row),
    }


def _is_alive(driver: dict[str, Any]) -> bool | None:
    """Whether the driver process exists; None when it runs on another machine."""
    if driver["host"] != socket.gethostname():
        return None
    try:
        os.kill(driver["pid"], 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _state(reported: str, alive: bool | None, age: float) -> str:
    """The reported state, or "killed" or "silent" for a run that no longer reports one."""
    if reported == "ended":
        return reported
    if alive is False:
        return "killed"
    return "silent" if age > SILENT_SECONDS else reported


def _print(found: dict[str, Any]) -> None:
    console = wide_console()
    console.print(
        f"{found['run']}: {found['state']}, step {found['step']} of {found['steps']} done, schedule"
        f" {found['schedule']}, weights after {found['version']} updates",
        soft_wrap=True,
    )
    console.print(_driver_line(found), soft_wrap=True)
    console.print()
    table = plain_table(
        "worker", "process", "host", "state", "weights", "games", "tokens", "tokens/s", "idle", numbers_from=4
    )
    ready = {worker["number"]: worker for worker in found["workers"]}
    for number in range(found["rollout_workers"]):
        table.add_row(str(number), *_worker_row(ready.get(number)))
    console.print(table)
    console.print(f"\nLearner processes: {', '.join(map(str, found['learners'])) or 'starting'}")
    if found["step"]:
        console.print(_step_line(found), soft_wrap=True)
        console.print(
            f"Turns were {found['staleness']:.1f} updates old when learned from (at most"
            f" {found['staleness_max']:.0f}); {found['dropped_turns']:.0f} dropped as too old; workers replaced:"
            f" {found['restarts']:.0f}",
            soft_wrap=True,
        )


def _driver_line(found: dict[str, Any]) -> str:
    """Where the driver runs, and what to do when it does not."""
    driver, state = found["driver"], found["state"]
    driver_line = f"Driver: process {driver['pid']} on {driver['host']}, last status {duration(found['age_s'])} ago"
    finished = found["step"] >= found["steps"]
    if state == "killed" or (state == "ended" and not driver["alive"]):
        how = "; it was killed" if state == "killed" else "; it has ended"
        return driver_line + how + ("" if finished else f"; to resume: {resume_command(Path(found['run']))}")
    if state == "ended":
        return f"{driver_line}; its workers have ended, and it is finishing or restarting them from a checkpoint"
    if state == "silent":
        return f"{driver_line}, instead of every {STATUS_SECONDS:.0f} seconds: it is stuck, suspended or dead"
    return driver_line


def _worker_row(worker: dict[str, Any] | None) -> list[str]:
    if worker is None:
        return ["", "", "starting or not responding", "", "", "", "", ""]
    return [
        str(worker["pid"]),
        worker["host"],
        worker["doing"],
        str(worker["version"]),
        f"{worker['games']:,}",
        f"{worker['tokens']:,}",
        "" if worker["tokens_per_s"] is None else f"{worker['tokens_per_s']:,.0f}",
        "" if worker["idle"] is None else f"{worker['idle']:.0%}",
    ]


def _step_line(found: dict[str, Any]) -> str:
    phases = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in found["phases_s"].items())
    return f"Step {found['step']} took {found['step_s']:.2f} s: {phases}"
