"""`spiral psro`: a population of policies, each a response to a mixture of those before it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.output import print_json, shown_path
from spiral.cli.series import series_directory, series_under_way
from spiral.core.printable import printable
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.runs.recipe import Recipe


def psro(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A built-in recipe, such as psro-nano, or a .toml file.")
    ],
    run_dir: opt.RunDir = None,
    *,
    iterations: Annotated[int, typer.Option(min=1, max=1000, help="Responses to train.")] = 8,
    solver: Annotated[str, typer.Option(help="Meta-strategy: nash, alpharank or uniform.")] = "nash",
    target: Annotated[
        float, typer.Option(min=0, help="Stop at this exploitability of the mixture, in the game's units.")
    ] = 0.0,
    seed: opt.RunSeed = None,
    model: opt.RunModel = None,
    resume: opt.Resume = False,
    settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:
    """Grow a population of policies: each is trained against a mixture of those before it.

    A meta-strategy gives each policy a share; the next policy learns to beat that mixture, by a run of the recipe whose
    opponents are the policies. Payoffs and the exploitability of the mixture are exact, so the recipe's game is Kuhn or
    Leduc poker, or another with hidden information and exact theory. With --resume, the same command line begins a
    population and continues it, however often it is stopped; more --iterations continue a finished one.
    """
    from spiral.cli.train import given_recipe

    loaded = given_recipe(recipe, settings, None, seed, model)
    path = series_directory(recipe, loaded, run_dir)
    found = _grown(loaded, path, solver, iterations, target, resume, as_json)
    if as_json:
        print_json(found)


def _grown(
    recipe: Recipe, path: Path, solver: str, iterations: int, target: float, resume: bool, as_json: bool
) -> dict[str, Any]:
    """The population in the end, as plain data; printed as it grows unless it will be printed as JSON."""
    from spiral.launch.psro import Psro, run_psro
    from spiral.runs.population import POPULATION

    population = Psro(recipe, path, solver=solver)

    def watch(found: dict[str, Any]) -> None:
        print(_line(found), file=sys.stderr if as_json else sys.stdout, flush=True)

    with series_under_way("psro", path) as population.lock:
        if resume and (path / POPULATION).exists():
            population.load()
        else:
            population.begin()
        run_psro(population, iterations, target, watch)
    last = population.iterations[-1]
    if not as_json:
        print(
            f"\nPopulation: {shown_path(path / POPULATION)}; each response is a run, such as"
            f" {shown_path(path)}/response-001"
        )
    return {
        "run_dir": str(path),
        **{key: last[key] for key in ("exploitability", "shares")},
        **{key: value for key, value in population.to_json().items() if key != "members"},
        "members": [
            {"name": member.name, "model": member.model, "method": member.method} for member in population.members
        ],
    }


def _line(found: dict[str, Any]) -> str:
    """An iteration in one line."""
    number, exploitable = found["iteration"], found["exploitability"]
    if "response_gain" in found:
        share = found["response_gain"] / exploitable if exploitable > 0 else 0.0
        return f"  response-{number + 1:03d} wins {found['response_gain']:.4f} of it, {share:.0%} of the most possible"
    largest = sorted(found["shares"].items(), key=lambda item: -item[1])
    mixed = ", ".join(f"{printable(name)} {share:.0%}" for name, share in largest if share >= 0.005)
    return f"{number} response{'' if number == 1 else 's'}: the mixture ({mixed}) is exploitable by {exploitable:.4f}"


def show_population(path: Path, *, as_json: bool = False) -> None:
    """Print the population in a directory: shares, payoffs and the exploitability of every mixture.

    Raises:
        ValueError: Its file is damaged.
    """
    from spiral.runs.population import POPULATION, read_population

    found = read_population(path)
    try:
        members = [{key: member[key] for key in ("name", "model", "method")} for member in found["members"]]
        last = found["iterations"][-1] if found["iterations"] else {"shares": {}, "payoffs": []}
        lines = [
            _line({key: one[key] for key in ("iteration", "exploitability", "shares")}) for one in found["iterations"]
        ]
        rows = [
            [str(at + 1), printable(name), f"{share:.1%}", *(f"{value:+.3f}" for value in last["payoffs"][at])]
            for at, (name, share) in enumerate(last["shares"].items())
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path / POPULATION} is damaged: {type(error).__name__}") from error
    if as_json:
        print_json({"run_dir": str(path), **found, "members": members})
        return
    console = wide_console()
    console.print(
        f"{printable(str(path))}: a population of {len(members)} policies in {printable(str(found.get('game')))},"
        f" mixed by {printable(str(found['solver']))}\n",
        soft_wrap=True,
        markup=False,
    )
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
    if rows:
        console.print("\nExact mean return of the row's policy against the column's, in the game's units:\n")
        table = plain_table("", "policy", "share", *(str(column + 1) for column in range(len(rows))), numbers_from=2)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    here = shown_path(path)
    print(f"\nEach response is a run: spiral show {here}/response-001; in the browser: spiral view {here}")
