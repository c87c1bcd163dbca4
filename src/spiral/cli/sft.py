"""`spiral sft`: fine-tunes a model on expert games."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spiral.cli import options as opt
from spiral.cli.train import TrainCommand, overrides_of, train_recipe
from spiral.training.settings import NLL

app = typer.Typer(add_completion=False)


@app.command(cls=TrainCommand)
def sft(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A built-in recipe (sft-nano, sft-qwen3-4b) or a .toml file.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="Of `spiral collect`, a run, or a Parquet file of episodes; may be repeated (sft.data)."
        ),
    ] = None,
    run_dir: opt.RunDir = None,
    seed: opt.RunSeed = None,
    model: opt.RunModel = None,
    resume: opt.Resume = False,
    dry_run: opt.DryRun = False,
    settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:
    """Fine-tune a model on expert games of `spiral collect`: the winners' turns, as the model would write them.

    The section [sft] of the recipe says which turns; everything else is as in `spiral train`. The number of steps
    follows from the data and sft.epochs.
    """
    overrides = overrides_of(settings, None, seed, model)
    if any(text.partition("=")[0].strip() == "run.steps" for text in overrides):
        raise ValueError("got --set run.steps, but the steps follow from the data; set sft.epochs or sft.max_episodes")
    if recipe is not None:
        overrides.append(f"loss.kind={NLL}")
    if data:
        overrides.append(f"sft.data={json.dumps(data, ensure_ascii=False)}")
    train_recipe(recipe, overrides, run_dir, resume=resume, dry_run=dry_run, as_json=as_json)
