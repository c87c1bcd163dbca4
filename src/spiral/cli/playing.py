"""`spiral play`: a person against a model, in the terminal."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from spiral.cli import options as opt
from spiral.games import load_game
from spiral.printable import printable
from spiral.seeds import derive_seed

GOODBYE = "Goodbye."
FAVOURITE = "tictactoe"
"""The game taken when it is among those trained: everyone can read its board."""


def play(
    model: opt.Model,
    game: Annotated[
        str | None,
        typer.Option(help="Such as tictactoe; see `spiral games`. Left out: a game that MODEL's run was trained on."),
    ] = None,
    seat: Annotated[
        int | None, typer.Option(min=0, max=1, help="Where you sit; left out: seat 0, then the other in turn.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="For the same deals again; left out: new ones.")] = None,
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
) -> None:
    """Play against MODEL. A mistyped move is asked about again; Ctrl-C or Ctrl-D ends."""
    rules = load_game(game or trained_game(model))
    from spiral.human import play_game  # loads torch
    from spiral.seating import SeatOptions, seat_policy

    options = SeatOptions(
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
    )
    opponent = seat_policy(model, rules, options)
    first_seed = secrets.randbelow(2**31) if seed is None else seed
    print(printable(f"You play {rules.spec} against {opponent.name}, seed {first_seed}. Ctrl-C ends."))
    number = 0
    try:
        while True:
            yours = number % 2 if seat is None else seat
            play_game(rules, opponent, yours, derive_seed(first_seed, "play", number), input, print)
            number += 1
            if input("\nAnother game? [y/N] ").strip().lower() not in {"y", "yes"}:
                break
    except (EOFError, KeyboardInterrupt):
        print()
    print(GOODBYE)


def trained_game(model: str) -> str:
    """A game of the run that MODEL comes from. Raises `ValueError` when it comes from none."""
    games: list[str] = []
    if Path(model).is_dir():
        from spiral.seating import run_games  # loads torch

        games = run_games(model)
    if not games:
        raise ValueError("Missing option '--game'; see `spiral play --help`")
    return favourite(games)


def favourite(games: Sequence[str]) -> str:
    """The game to show or to play of those trained."""
    return FAVOURITE if FAVOURITE in games else games[0]
