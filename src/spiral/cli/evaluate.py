"""`spiral evaluate` and `spiral exploitability`: how good a model is."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from spiral.cli import options as opt
from spiral.cli.endpoints import endpoint_usage, print_usage
from spiral.cli.faults import Stopped
from spiral.cli.listing import print_json
from spiral.cli.programs import shown_path
from spiral.cli.theory_words import headline, theory_table, unit
from spiral.core.progress import progress_shown
from spiral.games import load_game
from spiral.runs.display import plain_table, wide_console


def evaluate(
    model: opt.Model,
    game: opt.Game,
    opponent: Annotated[str, typer.Option(help="Anything that can be a MODEL, or endpoint:NAME.")],
    episodes: Annotated[int, typer.Option(help="Games, an even number: half from each seat.")] = 400,
    seed: opt.Seed = 0,
    template: opt.Template = None,
    observation: opt.Observation = None,
    thinking: opt.Thinking = None,
    example: opt.Example = None,
    system: opt.System = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    max_new_tokens: opt.MaxNewTokens = None,
    device: opt.Device = "auto",
    compute: opt.Compute = "float32",
    engine: opt.Engine = "transformers",
    context: opt.Context = None,
    in_flight: opt.InFlight = 256,
    out: opt.Out = None,
    as_json: opt.Json = False,
) -> None:
    """Win, draw and loss rates of MODEL against an opponent, with 95% intervals."""
    rules = load_game(game)
    opt.check_episodes(episodes)
    from spiral.core.policy import NotPlayedError  # loads torch
    from spiral.evaluation.measurements import games_directory, measure_games
    from spiral.policies.registry import PolicyOptions, is_language_model, load_policy

    options = PolicyOptions(
        template=template,
        observation=observation,
        thinking=thinking,
        example=example,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        device=device,
        compute=compute,
        engine=engine,
        context=context,
        alone=not is_language_model(opponent),
    )
    with progress_shown(bar=not as_json) as progress:
        progress.stage(f"loading {opponent}")
        other = load_policy(opponent, rules, PolicyOptions(device=device, compute=compute))
        progress.stage(f"loading {model}")
        policy = load_policy(model, rules, options)
        place = games_directory(policy, other, rules, episodes=episodes, seed=seed, out=out)
        progress.stage(f"{rules.spec}, {model} against {opponent}", episodes, "games")
        games: dict[str, Any] = {"episodes": episodes, "seed": seed, "in_flight": in_flight, "place": place}
        try:
            found, _ = measure_games(policy, other, rules, **games, watch=progress.games)
        except NotPlayedError as error:
            raise Stopped(str(error)) from error
    result = found.to_json() | endpoint_usage("model", policy) | endpoint_usage("opponent", other)
    if as_json:
        print_json({**result, "files": str(place.path)})
    else:
        _print_rates(result)
        print(f"Every game: {shown_path(place.path)}")


def exploitability(
    model: opt.Model,
    game: opt.Game,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Replies for each information state, where the model thinks first; 200 if left out, or 20 for each of"
            " the positions chosen where nothing is hidden.",
        ),
    ] = None,
    seed: opt.Seed = 0,
    template: opt.Template = None,
    observation: opt.Observation = None,
    thinking: opt.Thinking = None,
    example: opt.Example = None,
    system: opt.System = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    max_new_tokens: opt.MaxNewTokens = None,
    device: opt.Device = "auto",
    compute: opt.Compute = "float32",
    engine: opt.Engine = "transformers",
    context: opt.Context = None,
    out: opt.Out = None,
    as_json: opt.Json = False,
) -> None:
    """What a best response wins against MODEL on average over both seats: exact, for games with exact theory.

    Where nothing is hidden, as in tic-tac-toe, also how often it plays an optimal move, and what its moves give away.
    """
    rules = load_game(game)
    from spiral.evaluation.exploitability import uniform_exploitability  # loads torch
    from spiral.evaluation.measurements import measure_kept_theory, theory_directory
    from spiral.policies.registry import PolicyOptions, load_exploitable_policy

    options = PolicyOptions(
        template=template,
        observation=observation,
        thinking=thinking,
        example=example,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        device=device,
        compute=compute,
        engine=engine,
        context=context,
    )
    with progress_shown(bar=not as_json) as progress:
        progress.stage(f"loading {model}")
        policy = load_exploitable_policy(model, rules, options)
        place = theory_directory(model, policy, rules, samples=samples, seed=seed, out=out)
        progress.stage(f"exploitability of {model} in {rules.spec}")
        result = measure_kept_theory(policy, rules, samples=samples, seed=seed, place=place, watch=progress.count)
        uniform = 0.0 if as_json or result["exploitability"] is None else uniform_exploitability(rules)
    if as_json:
        print_json({**result, "files": str(place.path)})
        return
    console = wide_console()
    console.print(headline(model, rules, result, uniform), soft_wrap=True)
    console.print(theory_table(rules, result))
    print(f"Every state: {shown_path(place.path)}")


def _print_rates(result: dict[str, Any]) -> None:
    """The numbers of an `ArenaResult` for people."""
    from spiral.runs.summary import rate_text  # loads torch

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
        f"Mean return of {result['policy']}, in {unit(load_game(result['game']))}: {means[0]} from seat 0, {means[1]}"
        f" from seat 1. Seat 0 earned {result['seat_advantage']:+.3f} more than seat 1, over both players' games.",
        soft_wrap=True,
    )
    _print_not_played(console, result)


def _print_not_played(console: Console, result: dict[str, Any]) -> None:
    """Games without a result, and what endpoints cost."""
    if result["not_played"]:
        console.print(
            f"{result['not_played']} of {result['episodes']} games could not be played and count as nothing:",
            soft_wrap=True,
        )
    for reason, games in result["faults"].items():
        console.print(f"  {games} x {reason}", soft_wrap=True, markup=False, highlight=False)
    print_usage(console, result)
