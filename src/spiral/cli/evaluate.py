"""`spiral evaluate`: a model's games against an opponent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from spiral.cli import options as opt
from spiral.cli.errors import Stopped
from spiral.cli.exploitability import unit
from spiral.cli.output import endpoint_usage, print_json, print_usage, shown_path
from spiral.core.progress import progress_shown
from spiral.games import Game, load_game
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.policies.registry import PolicyOptions


@opt.expand_options
def evaluate(
    model: opt.Model,
    *,
    game: opt.Game,
    opponent: Annotated[
        str | None,
        typer.Option(help="Anything that can be a MODEL, or endpoint:NAME; left out for a game of one player."),
    ] = None,
    episodes: Annotated[int, typer.Option(help="Games, an even number: half as player 0, half as player 1.")] = 400,
    seed: opt.Seed = 0,
    prompt: opt.PromptOptions,
    engine: opt.EngineOptions,
    in_flight: opt.InFlight = 256,
    out: opt.Out = None,
    as_json: opt.Json = False,
) -> None:
    """Play MODEL against an opponent: win, draw and loss rates with 95% intervals.

    Games of one player, such as problems/reasoning_gym/gcd, have no opponent: share of right answers and mean return.
    """
    rules = load_game(game)
    if rules.num_players == 1:
        if opponent is not None:
            raise ValueError(f"{rules.spec} is a game of one player; leave out --opponent")
        _evaluate_alone(
            model, rules, episodes, seed, opt.policy_options(prompt, engine, alone=True), in_flight, out, as_json
        )
        return
    if opponent is None:
        raise ValueError("Missing option '--opponent'; see `spiral evaluate --help`")
    opt.check_episodes(episodes)
    from spiral.core.policy import NotPlayedError
    from spiral.evaluation.arena import evaluate_games, games_directory  # loads torch
    from spiral.policies.registry import PolicyOptions, is_language_model, load_policy

    with progress_shown(bar=not as_json) as progress:
        progress.stage(f"loading {opponent}")
        other = load_policy(opponent, rules, PolicyOptions(device=engine.device, compute=engine.compute))
        progress.stage(f"loading {model}")
        alone = not is_language_model(opponent)
        policy = load_policy(model, rules, opt.policy_options(prompt, engine, alone=alone))
        directory = games_directory(policy, other, rules, episodes=episodes, seed=seed, out=out)
        progress.stage(f"{rules.spec}, {model} against {opponent}", episodes, "games")
        games: dict[str, Any] = {"episodes": episodes, "seed": seed, "in_flight": in_flight, "directory": directory}
        try:
            found, _ = evaluate_games(policy, other, rules, **games, watch=progress.games)
        except NotPlayedError as error:
            raise Stopped(str(error)) from error
    result = found.to_json() | endpoint_usage("model", policy) | endpoint_usage("opponent", other)
    if as_json:
        print_json({**result, "files": str(directory.path)})
    else:
        _print_rates(result)
        print(f"Every game: {shown_path(directory.path)}")


def _evaluate_alone(
    model: str,
    game: Game,
    episodes: int,
    seed: int,
    options: PolicyOptions,
    in_flight: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Plays a game of one player and prints the results."""
    from spiral.core.policy import NotPlayedError
    from spiral.evaluation.solo import evaluate_alone, solo_directory  # loads torch
    from spiral.policies.registry import load_policy

    with progress_shown(bar=not as_json) as progress:
        progress.stage(f"loading {model}")
        policy = load_policy(model, game, options)
        directory = solo_directory(policy, game, episodes=episodes, seed=seed, out=out)
        progress.stage(f"{game.spec}, {model}", episodes, "games")
        games: dict[str, Any] = {"episodes": episodes, "seed": seed, "in_flight": in_flight, "directory": directory}
        try:
            found, _ = evaluate_alone(policy, game, **games, watch=progress.games)
        except NotPlayedError as error:
            raise Stopped(str(error)) from error
    result = found.to_json() | endpoint_usage("model", policy)
    if as_json:
        print_json({**result, "files": str(directory.path)})
        return
    from spiral.runs.summary import rate_text

    console = wide_console()
    console.print(f"{result['policy']}: {result['played']} episodes of {result['game']}", soft_wrap=True)
    table = plain_table("", "share of episodes (95% interval)")
    table.add_row("right" if game.instructs else "highest return", rate_text(result, "best"))
    table.add_row("no answer in a box" if game.instructs else "illegal move", f"{result['illegal']:.1%}")
    table.add_row("cut off at the response budget", f"{result['truncated']:.1%}")
    console.print(table)
    console.print(
        f"Mean return {result['mean_return']:+.3f} ({result['mean_return_low']:+.3f} to"
        f" {result['mean_return_high']:+.3f}); {result['response_length']:.1f} tokens a reply.",
        soft_wrap=True,
    )
    _print_not_played(console, result)
    print(f"Every game: {shown_path(directory.path)}")


def _print_rates(result: dict[str, Any]) -> None:
    """Prints the JSON form of an `ArenaResult` as a table."""
    from spiral.runs.summary import rate_text

    console = wide_console()
    heading = f"{result['policy']} against {result['opponent']}: {result['played']} games of {result['game']}"
    console.print(heading, soft_wrap=True)
    table = plain_table("", "share of games (95% interval)")
    for rate, caption in (("win", "win"), ("draw", "draw"), ("loss", "loss"), ("not_lost", "win or draw")):
        table.add_row(caption, rate_text(result, rate))
    table.add_row("won on the board", rate_text(result, "win_on_board"))
    table.add_row("won by an illegal move of the opponent", f"{result['opponent_illegal']:.1%}")
    table.add_row("lost on the board", rate_text(result, "loss_on_board"))
    table.add_row("lost by an illegal move", f"{result['illegal']:.1%}")
    console.print(table)
    means = ["none played" if mean is None else f"{mean:+.3f}" for mean in result["seat_returns"]]
    console.print(
        f"Mean return of {result['policy']}, in {unit(load_game(result['game']))}: {means[0]} as player 0, {means[1]}"
        f" as player 1. Player 0 earned {result['seat_advantage']:+.3f} more than player 1 in all games together.",
        soft_wrap=True,
    )
    _print_not_played(console, result)


def _print_not_played(console: Console, result: dict[str, Any]) -> None:
    """Prints how many games have no result and why, and the usage of endpoints."""
    if result["not_played"]:
        console.print(
            f"{result['not_played']} of {result['episodes']} games could not be played and are not counted:",
            soft_wrap=True,
        )
    for reason, games in result["faults"].items():
        console.print(f"  {games} x {reason}", soft_wrap=True, markup=False, highlight=False)
    print_usage(console, result)
