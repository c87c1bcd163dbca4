"""`spiral check`: whether engine, learner and the model's own forward pass agree, and what its chat template does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.imports import quick_imports
from spiral.cli.output import print_json
from spiral.core.printable import printable
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.runs.model_check import ModelReport
    from spiral.runs.recipe import Recipe


def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name that `spiral models` lists, a run, checkpoint or model directory."
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(help="Check MODEL as this recipe would run it; left out: padded, and auto with checkpointing."),
    ] = None,
    settings: opt.Settings = None,
    engine: Annotated[str | None, typer.Option(help="transformers, vllm, or auto: vllm if installed.")] = None,
    compute: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    layout: Annotated[str | None, typer.Option(help="auto, padded or packed.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Most tokens of prompt and reply together.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_json: opt.Json = False,
) -> None:
    """Check that the engine, the learner and MODEL's own forward pass agree; show what its chat template does.

    Ends with status 2 and one line with the differences when they are larger than rounding explains.
    """
    with quick_imports():
        from spiral.runs.model_check import check_model_report  # loads torch

    given = {
        "model.device": None if device == "auto" else device,
        "engine.kind": engine,
        "model.compute": compute,
        "learner.layout": layout,
        "engine.context": context,
    }
    overrides = [*(settings or []), *(f"{name}={value}" for name, value in given.items() if value is not None)]
    checked = _recipe(model, recipe, overrides)
    chosen = recipe is not None or not {"learner", "lora"}.isdisjoint(checked.model_fields_set)
    report = check_model_report(checked, every_layout=not chosen)
    if as_json:
        print_json(report.to_json())
    else:
        _print(model, report)
    if report.error is not None:
        raise report.error


def _recipe(model: str, name: str | None, settings: list[str]) -> Recipe:
    from spiral.runs.recipe import load_recipe, validate_recipe

    given = [*settings, f"model.path={model}"]
    if name is not None:
        return load_recipe(name, given)
    values: dict[str, Any] = {"engine": {"context": 4096}}
    return validate_recipe(values, "--set", given)


def _print(model: str, report: ModelReport) -> None:
    console = wide_console()
    console.print(printable(f"{model}: {report.headline}"), soft_wrap=True, markup=False, highlight=False)
    limit = report.tolerance
    table = plain_table("difference, in nats a token", "mean", "max", numbers_from=1)
    for found in report.differences:
        verdict = "" if found.within(limit) else "  too large"
        table.add_row(found.pair + verdict, f"{found.mean:.1e}", f"{found.max:.1e}")
    if report.differences:
        console.print(table)
    console.print(
        f"rounding explains a mean of up to {limit.mean:.2g} and a maximum of up to {limit.max:.2g}", highlight=False
    )
    for length in report.not_crossed:
        console.print(f"not checked: {length}, which would take too long here", highlight=False)
    for line in report.template.lines():
        console.print(printable(line), soft_wrap=True, markup=False, highlight=False)
    console.print("an example of a prompt:", highlight=False)
    for line in report.template.game_prompt.splitlines():
        console.print(f"  {printable(line)}", soft_wrap=True, markup=False, highlight=False)
    for warning in report.template.warnings:
        console.print(f"warning: {printable(warning)}", soft_wrap=True, markup=False, highlight=False)
    if report.error is None:
        console.print("all checks passed")
