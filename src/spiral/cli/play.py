"""`spiral play`: a person against a model, in the terminal."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiral.cli import options as opt
from spiral.core.printable import printable
from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.games import Game, load_game

if TYPE_CHECKING:
    from spiral.policies import Policy
    from spiral.policies.human import Read, Write

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
    from spiral.policies.registry import PolicyOptions, load_policy

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
    )
    opponent = load_policy(model, rules, options)
    first_seed = secrets.randbelow(2**31) if seed is None else seed
    _show(f"You play {rules.spec} against {opponent.name}, seed {first_seed}. Ctrl-C ends.")
    hint = parameters_hint(rules)
    if hint:
        _show(hint)
    number, score = 0, Score(opponent.name)
    try:
        while True:
            yours = number % 2 if seat is None else seat
            episode = play_game(rules, opponent, yours, derive_seed(first_seed, "play", number), input, _show)
            number += 1
            _show(score.after(episode, yours))
            if not _another_game():
                break
    except (EOFError, KeyboardInterrupt):
        print()
    print(GOODBYE)


class Score:
    """The games of a sitting, counted."""

    def __init__(self, opponent: str) -> None:
        self._opponent = opponent
        self._wins = self._losses = self._draws = 0
        self._total = 0.0

    def after(self, episode: Episode, seat: int) -> str:
        """The score once this game, played in `seat`, is counted; one without a result is not."""
        if episode.outcome != "not_played":
            own = episode.returns[seat]
            self._wins, self._losses = self._wins + (own > 0), self._losses + (own < 0)
            self._draws, self._total = self._draws + (own == 0), self._total + own
        return (
            f"Score: you {self._wins}, {self._opponent} {self._losses}, draws {self._draws}; your returns add up to"
            f" {self._total:+g}."
        )


def parameters_hint(game: Game) -> str:
    """What else the game can be played with; empty for a game without parameters."""
    values = [f"{field.name}={getattr(game, field.name)}" for field in dataclasses.fields(game)]
    if not values:
        return ""
    name = game.spec.partition("(")[0]
    example = f"{name}({dataclasses.fields(game)[0].name}=...)"
    return f"It is played with {', '.join(values)}; to play with another: --game '{example}'."


def wrapped(text: str, width: int) -> str:
    """Every line in at most `width` columns where its words allow it, broken between words."""
    lines = text.split("\n")
    return "\n".join(
        line if len(line) <= width else textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in lines
    )


def _show(text: str) -> None:
    """Text for the person; a terminal would break lines within words."""
    text = printable(text)
    print(wrapped(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text)


def _another_game() -> bool:
    """Asks until the answer is one; a move typed after the end of a game is none."""
    while True:
        answer = input("\nAnother game? [y/N] ").strip().lower()
        if answer in {"", "n", "no", "q", "quit", "exit"}:
            return False
        if answer in {"y", "yes"}:
            return True
        _show(f"That game is over, so {answer!r} is no move in it. Type y for another game, or n to end.")


def trained_game(model: str) -> str:
    """A game of the run that MODEL comes from. Raises `ValueError` when it comes from none."""
    games: list[str] = []
    if Path(model).is_dir():
        from spiral.policies.registry import run_games  # loads torch

        games = run_games(model)
    if not games:
        raise ValueError("Missing option '--game'; see `spiral play --help`")
    return favourite(games)


def favourite(games: Sequence[str]) -> str:
    """The game to show or to play of those trained."""
    return FAVOURITE if FAVOURITE in games else games[0]


def play_game(game: Game, opponent: Policy, seat: int, seed: int, read: Read, write: Write) -> Episode:
    """One game of a person in `seat` against `opponent`, told from the first move to the result."""
    from spiral.core.transcript import final_position, news, result_line
    from spiral.policies.human import HumanPolicy, NarratedPolicy
    from spiral.rollout.loop import Match
    from spiral.rollout.loop import play as play_matches

    def show(text: str) -> None:
        write(printable(text))

    human, other = HumanPolicy(read, show), NarratedPolicy(opponent, show)
    policies: tuple[Policy, Policy] = (human, other) if seat == 0 else (other, human)
    (episode,) = play_matches([Match(game=game, seed=seed, policies=policies)])
    position = final_position(episode, seat)
    show("\n" + (news(human.seen, position) or position))
    show(result_line(episode, ("you", opponent.name) if seat == 0 else (opponent.name, "you")))
    return episode
