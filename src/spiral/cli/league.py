"""`spiral league`: a main agent, and exploiters that look for its weaknesses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console

from spiral.cli import options as opt
from spiral.cli.output import print_json, shown_path
from spiral.cli.series import series_directory, series_under_way
from spiral.core.printable import printable
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.launch.league import LeagueOptions
    from spiral.runs.recipe import Recipe

STARTS = ("initial", "main")


def league(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A built-in recipe, such as league-nano, or a .toml file.")
    ],
    run_dir: opt.RunDir = None,
    *,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Exploiters to train.")] = 4,
    win_rate: Annotated[float, typer.Option(help="Freeze an exploiter when it wins this share of its games.")] = 0.7,
    exploiter_steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps of an exploiter; left out: run.steps.")
    ] = None,
    exploiter_start: Annotated[
        str, typer.Option(help="Where an exploiter begins: 'initial', the recipe's model, or 'main', the main agent.")
    ] = "initial",
    share: Annotated[
        float, typer.Option(help="Share of the main agent's games that are against exploiters, all together.")
    ] = 0.25,
    seed: opt.RunSeed = None,
    model: opt.RunModel = None,
    resume: opt.Resume = False,
    settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:
    """Train a main agent and, round by round, exploiters that look for its weaknesses.

    The main agent trains for run.steps. In each round an exploiter, a run of the recipe against the newest main agent
    alone, trains until it wins its share; it is frozen and becomes an opponent of the main agent, which trains for
    run.steps more. In the end a table says what each exploiter won then, and what it wins against the last main agent.
    With --resume, the same command line begins a league and continues it, however often it is stopped; more --rounds
    continue a finished one.
    """
    from spiral.cli.train import given_recipe

    if exploiter_start not in STARTS:
        raise ValueError(f"got --exploiter-start {exploiter_start!r}; expected {' or '.join(map(repr, STARTS))}")
    loaded = given_recipe(recipe, settings, None, seed, model)
    path = series_directory(recipe, loaded, run_dir)
    from spiral.launch.league import LeagueOptions

    options = LeagueOptions(
        win_rate=win_rate,
        exploiter_steps=exploiter_steps or loaded.run.steps,
        exploiter_start=cast('Literal["initial", "main"]', exploiter_start),
        share=share,
    )
    found = _trained(loaded, path, options, rounds, resume, as_json)
    if as_json:
        print_json({"run_dir": str(path), **found})
        return
    console = wide_console()
    console.print()
    _print_table(console, found)
    print(f"\nLeague: {shown_path(path)}; each agent is a run, such as {shown_path(path)}/main")


def _trained(
    recipe: Recipe, path: Path, options: LeagueOptions, rounds: int, resume: bool, as_json: bool
) -> dict[str, Any]:
    """The league in the end, as plain data; its agents are printed as they are trained."""
    from spiral.launch.league import League, run_league
    from spiral.runs.league import LEAGUE

    found = League(recipe, path, options)

    def watch(entry: dict[str, Any]) -> None:
        print(_line(entry), file=sys.stderr if as_json else sys.stdout, flush=True)

    with series_under_way("league", path) as found.lock:
        if resume and (path / LEAGUE).exists():
            found.load()
        else:
            found.begin()
        run_league(found, rounds, watch)
    return found.to_json()


def _line(entry: Mapping[str, Any]) -> str:
    """An agent in one line: the main agent after a round, or an exploiter."""
    if "exploiters" in entry:
        parts = [f"exploitable by {value:.4f} in {game}" for game, value in entry["exploitability"].items()]
        parts += [f"{name} wins {_wins(results)}" for name, results in entry["exploiters"].items()]
        return f"main agent at step {entry['step']:,}{': ' if parts else ''}{'; '.join(map(printable, parts))}"
    how = "frozen when it won its share, after" if entry["won"] else "frozen after all its"
    steps = f"{entry['step']:,} step{'' if entry['step'] == 1 else 's'}"
    return f"  {printable(entry['name'])} {how} {steps}: wins {printable(_wins(entry['results']))}"


def _wins(results: Mapping[str, Any]) -> str:
    """What an exploiter won, by game."""
    several = len(results) > 1
    return ", ".join(
        f"{result['win_rate']:.1%}{f' of {game}' if several else ''} ({result['return']:+.3f})"
        for game, result in results.items()
    )


def show_league(path: Path, *, as_json: bool = False) -> None:
    """Print the league in a directory: its agents in order, and what each exploiter won then and wins now.

    Raises:
        ValueError: Its file is damaged.
    """
    from spiral.runs.league import LEAGUE, read_league

    found = read_league(path)
    console = wide_console()
    try:
        main, exploiters = found["main"], found["exploiters"]
        lines = [_line(one) for pair in _in_turn(main, exploiters) for one in pair]
        rows = [*_rows(found)]
        games, options = ", ".join(map(str, found["games"])), found["options"]
        start = "the initial model" if options["exploiter_start"] == "initial" else "the main agent"
        head = (
            f"a league in {games}; exploiters begin as {start} and are frozen when they win {options['win_rate']:.0%},"
            f" after at most {options['exploiter_steps']:,} steps"
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path / LEAGUE} is damaged: {type(error).__name__}") from error
    if as_json:
        print_json({"run_dir": str(path), **found})
        return
    console.print(f"{printable(str(path))}: {printable(head)}\n", soft_wrap=True, markup=False)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
    if rows:
        console.print()
        _print_table(console, found)
    here = shown_path(path)
    print(f"\nEach agent is a run: spiral show {here}/main; in the browser: spiral view {here}")


def _in_turn(main: list[Any], exploiters: list[Any]) -> Iterator[list[Any]]:
    """The main agent after each round, with the exploiter that was trained against it where there is one."""
    for at, entry in enumerate(main):
        yield [entry, *exploiters[at : at + 1]]


def _rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """A row for every exploiter and game: its results when it was frozen, and against the last main agent."""
    last = found["main"][-1]["exploiters"] if found["main"] else {}
    for one in found["exploiters"]:
        for game, then in one["results"].items():
            now = last.get(one["name"], {}).get(game)
            yield [
                printable(str(one["name"])),
                f"{one['step']:,}",
                printable(str(game)),
                f"{then['win_rate']:.1%}",
                "-" if now is None else f"{now['win_rate']:.1%}",
                _return(then),
                "-" if now is None else _return(now),
            ]


def _return(result: Mapping[str, Any]) -> str:
    """A mean return with its interval, where there is one."""
    if result["return_low"] is None:
        return f"{result['return']:+.3f}"
    return f"{result['return']:+.3f} ({result['return_low']:+.3f} to {result['return_high']:+.3f})"


def _print_table(console: Console, found: Mapping[str, Any]) -> None:
    step = found["main"][-1]["step"]
    console.print(
        "What each exploiter won against the main agent that it was trained against, and wins against that of step"
        f" {step:,} (draws as half, mean returns in the game's units with 95% intervals):\n",
        soft_wrap=True,
    )
    table = plain_table(
        "exploiter", "steps", "game", "won then", "wins now", "return then", "return now", numbers_from=3
    )
    for row in _rows(found):
        table.add_row(*row)
    console.print(table)
