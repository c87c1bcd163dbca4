"""`spiral evaluate` and `spiral exploitability`: how good a model is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.listing import print_json
from spiral.display import plain_table, wide_console
from spiral.games import load_game


def evaluate(
    model: opt.Model,
    game: opt.Game,
    opponent: Annotated[str, typer.Option(help="Anything that can be a MODEL.")],
    episodes: Annotated[int, typer.Option(help="Games, an even number: half from each seat.")] = 400,
    seed: opt.Seed = 0,
    template: opt.Template = None,
    observation: opt.Observation = None,
    thinking: opt.Thinking = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    max_new_tokens: opt.MaxNewTokens = None,
    device: opt.Device = "auto",
    compute: opt.Compute = "float32",
    as_json: opt.Json = False,
) -> None:
    """Win, draw and loss rates of MODEL against an opponent, with 95% intervals."""
    rules = load_game(game)
    if episodes < 2 or episodes % 2:
        raise ValueError(f"got --episodes {episodes}; expected an even number of at least 2, half for each seat")
    from spiral.evaluation import evaluate as play_games  # loads torch
    from spiral.seating import SeatOptions, seat_policy

    options = SeatOptions(
        template=template,
        observation=observation,
        thinking=thinking,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        device=device,
        compute=compute,
    )
    other = seat_policy(opponent, rules, SeatOptions(device=device, compute=compute))
    result = play_games(seat_policy(model, rules, options), other, rules, episodes, seed).to_json()
    if as_json:
        print_json(result)
    else:
        _print_rates(result)


def exploitability(
    model: opt.Model,
    game: opt.Game,
    samples: Annotated[
        int, typer.Option(min=1, help="Replies for each information state, where the model thinks first.")
    ] = 200,
    seed: opt.Seed = 0,
    template: opt.Template = None,
    observation: opt.Observation = None,
    thinking: opt.Thinking = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    max_new_tokens: opt.MaxNewTokens = None,
    device: opt.Device = "auto",
    compute: opt.Compute = "float32",
    as_json: opt.Json = False,
) -> None:
    """What a best response wins against MODEL on average over both seats: exact, for games with exact theory."""
    rules = load_game(game)
    from spiral.evaluation import measure_exploitability  # loads torch
    from spiral.seating import SeatOptions, exploitable_policy

    options = SeatOptions(
        template=template,
        observation=observation,
        thinking=thinking,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        device=device,
        compute=compute,
    )
    policy = exploitable_policy(model, rules, options)
    result = measure_exploitability(policy, rules, samples=samples, seed=seed).to_json()
    if as_json:
        print_json(result)
        return
    table = plain_table("figure", "value")
    for key, value in result.items():
        table.add_row(key.replace("_", " "), f"{value:.6f}" if isinstance(value, float) else str(value))
    wide_console().print(table)


def _print_rates(result: dict[str, Any]) -> None:
    """The numbers of an `ArenaResult` for people."""
    from spiral.summary import rate_text  # loads torch

    console = wide_console()
    heading = f"{result['policy']} against {result['opponent']}: {result['episodes']} games of {result['game']}"
    console.print(heading, soft_wrap=True)
    table = plain_table("", "share of games (95% interval)")
    for rate, caption in (("win", "win"), ("draw", "draw"), ("loss", "loss"), ("not_lost", "win or draw")):
        table.add_row(caption, rate_text(result, rate))
    table.add_row("illegal moves", f"{result['illegal']:.1%}")
    table.add_row("opponent's illegal moves", f"{result['opponent_illegal']:.1%}")
    first, second = result["seat_returns"]
    table.add_row("mean return", f"{first:+.3f} from seat 0, {second:+.3f} from seat 1")
    console.print(table)
