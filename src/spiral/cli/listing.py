"""`spiral games`, `spiral recipes`, `spiral models`: what there is."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from spiral.display import plain_table, wide_console
from spiral.games import Game, game_names, load_game
from spiral.recipes import recipe_files

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def games(as_json: Json = False) -> None:
    """Every game: its seats, its parameters, where its rules come from, and whether exact theory covers it."""
    rows = [_game_row(load_game(name)) for name in game_names()]
    if as_json:
        print_json({"games": rows})
        return
    table = plain_table("game", "seats", "what", "rules", "parameters", "exact theory")
    for row in rows:
        parameters = ", ".join(f"{key}={value}" for key, value in row["parameters"].items())
        theory = "yes" if row["exact_theory"] else "no"
        table.add_row(row["name"], str(row["seats"]), row["summary"], row["rules"], parameters, theory)
    wide_console().print(table)


def recipes(as_json: Json = False) -> None:
    """The built-in recipes for `spiral train`."""
    rows = [_recipe_row(file) for file in recipe_files()]
    if as_json:
        print_json({"recipes": rows})
        return
    table = plain_table("recipe", "what", "model", "games", "steps")
    for row in rows:
        table.add_row(row["name"], row["summary"], row["model"], ", ".join(row["games"]), str(row["steps"]))
    wide_console().print(table)


def models(as_json: Json = False) -> None:
    """The models that need no download."""
    from spiral.policies.loading import NANO_DIRECTORY  # loads torch

    rows = [_model_row("nano", NANO_DIRECTORY)]
    if as_json:
        print_json({"models": rows})
        return
    table = plain_table("model", "parameters", "size on disk", "path")
    for row in rows:
        table.add_row(row["name"], f"{row['parameters']:,}", f"{row['bytes'] / 1e6:.1f} MB", row["path"])
    wide_console().print(table)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output, and nothing else."""
    print(json.dumps(value))


def _game_row(game: Game) -> dict[str, Any]:
    return {
        "name": game.name,
        "summary": game.summary,
        "seats": game.num_players,
        "rules": game.rules,
        "free_text": game.free_text,
        "exact_theory": game.enumerable and not game.free_text,
        "parameters": {field.name: getattr(game, field.name) for field in dataclasses.fields(game)},
    }


def _recipe_row(file: Path) -> dict[str, Any]:
    """Read as plain TOML: checking a recipe takes torch, and listing should not."""
    values = tomllib.loads(file.read_text())
    return {
        "name": file.stem,
        "summary": values["summary"],
        "model": values["model"]["path"],
        "games": list(values["selfplay"]["games"]),
        "steps": values["run"]["steps"],
    }


def _model_row(name: str, directory: Path) -> dict[str, Any]:
    """Size from the header of the safetensors files: eight bytes of length, then JSON with every shape."""
    parameters = 0
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for tensor, entry in header.items():
            if tensor != "__metadata__":
                count = 1
                for size in entry["shape"]:
                    count *= size
                parameters += count
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    return {"name": name, "parameters": parameters, "bytes": size, "path": str(directory)}
