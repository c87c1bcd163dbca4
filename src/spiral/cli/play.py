"""`spiral play`: play against a model in the terminal."""

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

PREFERRED_GAME = "tictactoe"
"""The game to show if it is among those trained, since everyone can read its board."""


@opt.expand_options
def play(
    model: opt.Model,
    *,
    game: Annotated[
        str | None,
        typer.Option(help="Such as tictactoe; see `spiral games`. Default: a game that MODEL's run was trained on."),
    ] = None,
    player: Annotated[
        int | None,
        typer.Option(
            "--seat", min=0, help="Your player number, such as 0 or 1; left out: 0 in the first game, then in turn."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same deals; random if unset.")
    ] = None,
    thoughts: Annotated[bool, typer.Option("--thoughts", help="Show what MODEL thought, after each move.")] = False,
    prompt: opt.PromptOptions,
    device: opt.DeviceOptions,
) -> None:
    """Play against MODEL. You are asked again after a mistyped move; help shows the rules, quit or Ctrl-D ends."""
    rules = load_game(game or trained_game(model))
    from spiral.policies.registry import load_policy

    opponent = load_policy(model, rules, opt.policy_options(prompt, device))
    first_seed = secrets.randbelow(2**31) if seed is None else seed
    alone = rules.num_players == 1
    if player is not None and player >= rules.num_players:
        raise ValueError(f"got --seat {player}; {rules.spec} has the players 0 to {rules.num_players - 1}")
    order = "first, then" if alone else "against"
    _show(f"You play {rules.spec} {order} {opponent.name}, seed {first_seed}. Type help for the rules, quit to end.")
    hint = parameters_hint(rules)
    if hint:
        _show(hint)
    number, score = 0, Score(opponent.name)
    try:
        while True:
            own = number % rules.num_players if player is None else player
            deal = derive_seed(first_seed, "play", number)
            number += 1
            if alone:
                play_alone(rules, opponent, deal, input, _show, thoughts=thoughts)
            else:
                episode = play_game(rules, opponent, own, deal, input, _show, thoughts=thoughts)
                _show(score.after(episode, own))
            if not _another_game():
                break
    except (EOFError, KeyboardInterrupt):
        print()
    print("Goodbye.")


class Score:
    """Wins, losses, draws and returns of the games played so far."""

    def __init__(self, opponent: str) -> None:
        self._opponent = opponent
        self._wins = self._losses = self._draws = 0
        self._total = 0.0

    def after(self, episode: Episode, player: int) -> str:
        """Counts a game that the person played as `player`, unless it has no result, and returns the score in words."""
        if episode.outcome != "not_played":
            result = episode.result(player)
            self._wins, self._losses = self._wins + (result > 0), self._losses + (result < 0)
            self._draws, self._total = self._draws + (result == 0), self._total + episode.returns[player]
        return (
            f"Score: you {self._wins}, {self._opponent} {self._losses}, draws {self._draws}; your returns add up to"
            f" {self._total:+g}."
        )


def parameters_hint(game: Game) -> str:
    """Says which parameters the game has; empty for a game without parameters."""
    values = [f"{field.name}={getattr(game, field.name)}" for field in dataclasses.fields(game)]
    if not values:
        return ""
    name = game.spec.partition("(")[0]
    example = f"{name}({dataclasses.fields(game)[0].name}=...)"
    return f"It is played with {', '.join(values)}; to play with another: --game '{example}'."


def wrapped(text: str, width: int) -> str:
    """Wraps every line to `width` columns, breaking only between words."""
    lines = text.split("\n")
    return "\n".join(
        line if len(line) <= width else textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in lines
    )


def _show(text: str) -> None:
    """Prints text; a terminal alone would break lines within words."""
    text = printable(text)
    print(wrapped(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text)


def _another_game() -> bool:
    """Asks until the answer is yes or no, in case a move is typed after the end of a game."""
    while True:
        answer = input("\nAnother game? [y/N] ").strip().lower()
        if answer in {"", "n", "no", "q", "quit", "exit"}:
            return False
        if answer in {"y", "yes"}:
            return True
        _show(f"The game is over, so {answer!r} is not a move. Type y for another game or n to end.")


def trained_game(model: str) -> str:
    """The preferred game of the run that produced MODEL. Raises `ValueError` when MODEL does not come from a run."""
    games: list[str] = []
    if Path(model).is_dir():
        from spiral.policies.registry import run_games

        games = run_games(model)
    if not games:
        raise ValueError("Missing option '--game'; see `spiral play --help`")
    return preferred_game(games)


def preferred_game(games: Sequence[str]) -> str:
    """Which of the trained games to show or to play."""
    return PREFERRED_GAME if PREFERRED_GAME in games else games[0]


def play_game(
    game: Game, opponent: Policy, player: int, seed: int, read: Read, write: Write, *, thoughts: bool = False
) -> Episode:
    """Plays one game of a person, who is `player`, against `opponent`, and writes moves and result."""
    from spiral.core.transcript import final_state, new_lines, result_line
    from spiral.policies.human import HumanPolicy, NarratedPolicy
    from spiral.rollout.loop import Match
    from spiral.rollout.loop import play as play_matches

    def show(text: str) -> None:
        write(printable(text))

    human, other = HumanPolicy(read, show), NarratedPolicy(opponent, show, thoughts=thoughts)
    players = range(game.num_players)
    policies: tuple[Policy, ...] = tuple(human if seat == player else other for seat in players)
    (episode,) = play_matches([Match(game=game, seed=seed, policies=policies)])
    last = final_state(episode)
    position = last.observation(player)
    show("\n" + (new_lines(human.seen, position) or position))
    if last.revealed():
        show(last.revealed())
    names = [opponent.name if len(players) == 2 else f"{opponent.name} (seat {seat})" for seat in players]
    show(result_line(episode, tuple("you" if seat == player else names[seat] for seat in players)))
    return episode


def play_alone(
    game: Game, model: Policy, seed: int, read: Read, write: Write, *, thoughts: bool = False
) -> list[Episode]:
    """Has a person and then the model play the same deal of a game of one player, and writes moves and results."""
    from spiral.core.transcript import final_state, new_lines, result_line
    from spiral.policies.human import HumanPolicy, NarratedPolicy
    from spiral.rollout.loop import Match
    from spiral.rollout.loop import play as play_matches

    def show(text: str) -> None:
        write(printable(text))

    human, other = HumanPolicy(read, show), NarratedPolicy(model, show, thoughts=thoughts)
    episodes = []
    for name, policy in (("you", human), (model.name, other)):
        episodes += play_matches([Match(game=game, seed=seed, policies=(policy,))])
        position = final_state(episodes[-1]).observation(0)
        show("\n" + (new_lines(human.seen, position) or position))
        show(result_line(episodes[-1], (name,)))
    return episodes
