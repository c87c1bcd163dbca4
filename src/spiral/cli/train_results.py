"""The results that `spiral train` prints at its end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from spiral.cli.output import program
from spiral.cli.play import PREFERRED_GAME, preferred_game
from spiral.core.seeds import derive_seed
from spiral.core.steps import checkpoints_in
from spiral.core.transcript import game_excerpt
from spiral.launch import Run
from spiral.runs.curves import draw_learning_curve
from spiral.runs.directory import read_evaluations, read_metrics
from spiral.runs.display import Watched, wide_console
from spiral.runs.guards import Guards
from spiral.runs.summary import arena_table, exploitability_table


def json_results(run: Run) -> dict[str, Any]:
    """The run directory, the steps done, the steps with a snapshot and the last step's metrics. Draws the curves."""
    path = run.directory.path
    draw_learning_curve(path, Watched.from_recipe(run.recipe).trained)
    rows = read_metrics(path)
    metrics = {key: value for key, value in rows[-1].items() if key != "step"} if rows else {}
    return {"run_dir": str(path), "step": run.learner.version, "snapshots": _snapshots(run), "metrics": metrics}


def show_results(run: Run, guards: Guards) -> None:
    """Prints one game, the files and what the guards find; last, what was learned and what to try next."""
    console, path = wide_console(), run.directory.path
    games = run.recipe.selfplay.games
    shown = preferred_game(list(games))
    episode = run.sample_game(shown, derive_seed(run.recipe.run.seed, "game shown at the end"))
    console.print()
    console.print(game_excerpt(episode), soft_wrap=True)
    trained = Watched.from_recipe(run.recipe).trained
    curve = draw_learning_curve(path, trained)
    console.print(f"\nRun directory: {path}\nLearning curves: {curve}", soft_wrap=True)
    if kept := _snapshots(run):
        console.print(f"Snapshots: steps {', '.join(map(str, kept))}; {path}@{kept[-1]} names one", soft_wrap=True)
    console.print()
    for found in guards(read_metrics(path), trained):
        console.print(f"Warning: {found.message}.", style="bold yellow")
    _print_tables(console, run)
    console.print("Next:")
    for command in next_commands(str(path), shown, run.recipe.evaluation.exploitability, list(games)):
        console.print(f"  {command}", soft_wrap=True)


def _snapshots(run: Run) -> list[int]:
    """The steps whose model the run keeps for ever."""
    return [step for step, _ in checkpoints_in(run.directory.snapshots)]


def _print_tables(console: Console, run: Run) -> None:
    """Prints the evaluation before and after training, if there was one."""
    reports = read_evaluations(run.directory.path)
    if not reports:
        return
    (_, before), (step, after) = reports[0], reports[-1]
    if after.arena or after.exploitability:
        console.print(f"Before training and after step {step}:\n")
    if after.arena:
        console.print(arena_table(before, after))
        console.print(f"{after.arena[0]['episodes']} games each, half as each player; 95% intervals in brackets.\n")
    if after.exploitability:
        console.print(exploitability_table(before, after))
        console.print()


def next_commands(run: str, game: str, exact: list[str], games: Sequence[str] = ()) -> list[str]:
    """Commands to try with the trained model. They repeat PYTHONPATH if a game is a module found through it."""
    where = shlex.quote(run)
    opponent = "minimax" if game == PREFERRED_GAME else "random"
    against = "" if game.startswith("problems/") else f" --opponent {opponent}"
    spec, spiral = shlex.quote(game), python_path([game, *games]) + program("spiral")
    commands = [
        f"{spiral} play {where} --game {spec}",
        f"{spiral} evaluate {where} --game {spec}{against}",
    ]
    commands += [f"{spiral} exploitability {where} --game {spec}" for spec in map(shlex.quote, exact[:1])]
    return [*commands, f"{spiral} show {where}", f"{program('tensorboard')} --logdir {where}"]


def python_path(games: Sequence[str]) -> str:
    """`PYTHONPATH=...` and a space if one of these games is found only through it; otherwise empty."""
    given = os.environ.get("PYTHONPATH", "")
    folders = [Path(folder or ".") for folder in given.split(os.pathsep)] if given else []
    modules = [game.partition(":")[0].split(".")[0] for game in games if ":" in game.partition("(")[0]]
    files = [folder / module for folder in folders for module in modules]
    found = any(file.is_dir() or file.with_suffix(".py").is_file() for file in files)
    return f"PYTHONPATH={shlex.quote(given)} " if found else ""
