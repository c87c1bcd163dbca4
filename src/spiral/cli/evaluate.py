"""`spiral evaluate`: a model's games against an opponent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from spiral.cli import options as opt
from spiral.cli.errors import Stopped
from spiral.cli.exploitability import unit
from spiral.cli.output import endpoint_usage, print_json, print_usage, shown_path
from spiral.core.progress import Progress, progress_shown
from spiral.games import Game, load_game
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.policies import Policy
    from spiral.policies.registry import PolicyOptions

logger = logging.getLogger(__name__)

RATES = ("win", "draw", "loss", "not_lost")


@opt.expand_options
def evaluate(
    model: opt.Model,
    *,
    game: Annotated[
        list[str], typer.Option(help="Such as tictactoe or 'kuhn_poker(hands=5)'; see `spiral games`; may be repeated.")
    ],
    opponent: Annotated[
        str | None,
        typer.Option(help="Anything that can be a MODEL, or endpoint:NAME; left out for a game of one player."),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            help="Games of each --game, as each player in turn: a multiple of its players. 400 if left out, or the next"
            " multiple."
        ),
    ] = None,
    seed: opt.Seed = 0,
    prompt: opt.PromptOptions,
    engine: opt.EngineOptions,
    theirs: opt.OpponentOptions,
    in_flight: opt.InFlight = 256,
    out: opt.Out = None,
    as_json: opt.Json = False,
) -> None:
    """Play MODEL against an opponent: win, draw and loss rates with 95% intervals, and their mean over games.

    Games of one player, such as problems/reasoning_gym/gcd, have no opponent: share of right answers and mean return.
    """
    specs = {rules.spec: rules for rules in map(load_game, game)}
    single = [rules for rules in specs.values() if rules.num_players == 1]
    if single and len(specs) > 1:
        raise ValueError(f"{single[0].spec} is a game of one player; evaluate it by itself")
    for rules in single:
        if opponent is not None or theirs.given:
            raise ValueError(f"{rules.spec} is a game of one player; leave out --opponent")
        count, options = 400 if episodes is None else episodes, opt.policy_options(prompt, engine, alone=True)
        _evaluate_alone(model, rules, count, seed, options, in_flight, out, as_json)
        return
    if opponent is None:
        raise ValueError("Missing option '--opponent'; see `spiral evaluate --help`")
    opt.check_episodes([*specs.values()], episodes)
    from spiral.evaluation.arena import games_directory, rounded_up  # loads torch
    from spiral.policies.registry import is_language_model, load_policy
    from spiral.policies.scripted import is_scripted

    theirs.check([opponent])
    options = opt.policy_options(prompt, engine, alone=not is_language_model(opponent))
    against = options if is_scripted(opponent) else opt.opponent_options(theirs, options, model)
    results: list[dict[str, Any]] = []
    used: dict[str, Any] = {}
    with progress_shown(bar=not as_json) as progress:
        others = _Loaded(opponent, lambda rules: load_policy(opponent, rules, against), progress)
        policies = _Loaded(model, lambda rules: load_policy(model, rules, options), progress)
        pairs = [(rules, others(rules), policies(rules)) for rules in specs.values()]
        for rules, other, policy in pairs:
            count = rounded_up(400, rules.num_players) if episodes is None else episodes
            directory = games_directory(policy, other, rules, episodes=count, seed=seed, out=out)
            progress.stage(f"{rules.spec}, {model} against {opponent}", count, "games")
            games = {"episodes": count, "seed": seed, "in_flight": in_flight, "directory": directory}
            results.append({**_played(policy, other, rules, progress, **games), "files": str(directory.path)})
            used = endpoint_usage("model", policy) | endpoint_usage("opponent", other)
    _warn_of_cut_off(results, model, opponent)
    _report(results, {"policy": model, "opponent": opponent, "seed": seed}, used, as_json)


def _report(results: list[dict[str, Any]], about: dict[str, Any], used: dict[str, Any], as_json: bool) -> None:
    """Prints the result of one game, or those of several with their mean."""
    if len(results) > 1:
        result = {**about, "mean": mean_rates(results), "games": results, **used}
    else:
        files = results[0].pop("files")
        result = {**results[0], **used, "files": files}
    if as_json:
        print_json(result)
    elif len(results) > 1:
        _print_games(result)
    else:
        _print_rates(result)
        print(f"Every game: {shown_path(Path(result['files']))}")


class _Loaded:
    """A policy for one game after another; a model or an endpoint is loaded once."""

    def __init__(self, name: str, load: Callable[[Game], Policy], progress: Progress) -> None:
        self._name = name
        self._load = load
        self._progress = progress
        self._kept: Policy | None = None

    def __call__(self, rules: Game) -> Policy:
        """The policy for a game. Raises `ValueError` when there is none, or the game leaves no room for a reply."""
        from spiral.inference.room import check_room
        from spiral.policies import is_scripted

        if self._kept is None or is_scripted(self._name):
            self._progress.stage(f"loading {self._name}")
            self._kept = self._load(rules)
        check_room(self._kept, rules)
        return self._kept


def _played(policy: Policy, other: Policy, rules: Game, progress: Progress, **games: Any) -> dict[str, Any]:
    """The JSON form of an `ArenaResult`."""
    from spiral.core.policy import NotPlayedError
    from spiral.evaluation.arena import evaluate_games

    try:
        found, _ = evaluate_games(policy, other, rules, **games, watch=progress.games)
    except NotPlayedError as error:
        raise Stopped(str(error)) from error
    return found.to_json()


def _warn_of_cut_off(results: Sequence[Mapping[str, Any]], model: str, opponent: str) -> None:
    """Warns of a model whose replies were often cut off, in all games together."""
    from spiral.policies.cut_off import CutOff

    for key, name, setting in (
        ("replies", model, "--{}"),
        ("opponent_replies", f"the opponent {opponent}", "--opponent-{}"),
    ):
        warning = CutOff.together(CutOff(**row[key]) for row in results).warning(name, setting)
        if warning is not None:
            logger.warning("%s", warning)


def mean_rates(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over games, each with the same weight: `RATES` with their bounds, and illegal moves."""
    from spiral.evaluation.statistics import Estimate, mean_of_estimates

    found: dict[str, Any] = {}
    for rate in RATES:
        bounds = [Estimate(value=row[rate], low=row[f"{rate}_low"], high=row[f"{rate}_high"]) for row in results]
        mean = mean_of_estimates(bounds)
        found |= {rate: mean.value, f"{rate}_low": mean.low, f"{rate}_high": mean.high}
    return {**found, **{key: fmean(row[key] for row in results) for key in ("illegal", "opponent_illegal")}}


def _print_games(result: dict[str, Any]) -> None:
    """Prints the results in several games and their mean as a table."""
    from spiral.runs.summary import rate_text

    console = wide_console()
    console.print(f"{result['policy']} against {result['opponent']} in {len(result['games'])} games", soft_wrap=True)
    table = plain_table("game", "played", "win", "draw", "loss", "win or draw", "illegal", "opponent illegal")
    for row in (*result["games"], {**result["mean"], "game": "mean of games", "played": ""}):
        shares = [f"{row[key]:.1%}" for key in ("illegal", "opponent_illegal")]
        table.add_row(row["game"], str(row["played"]), *(rate_text(row, rate) for rate in RATES), *shares)
    console.print(table)
    console.print(
        "95% intervals in brackets. The mean gives every game the same weight; its interval is over the games played,"
        " from those of the games (Zou and Donner, 2008).",
        soft_wrap=True,
    )
    for row in result["games"]:
        _print_not_played(console, row)
        print(f"{row['game']}: every game in {shown_path(Path(row['files']))}")
    print_usage(console, result)


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
    print_usage(console, result)
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
    game = load_game(result["game"])
    means = [
        f"{'none played' if mean is None else f'{mean:+.3f}'} as player {player}"
        for player, mean in enumerate(result["seat_returns"])
    ]
    low, high = result["mean_return_low"], result["mean_return_high"]
    spread = "" if low is None else f" ({low:+.3f} to {high:+.3f})"
    others = "player 1" if game.num_players == 2 else "the others on average"
    console.print(
        f"Mean return of {result['policy']}, in {unit(game)}: {result['mean_return']:+.3f}{spread}; {', '.join(means)}."
        f" Player 0 earned {result['seat_advantage']:+.3f} more than {others} in all games together.",
        soft_wrap=True,
    )
    if not game.zero_sum or game.num_players > 2:
        rule = "the larger return wins" if game.num_players == 2 else "a return above 0 wins"
        console.print(
            f"{rule[0].upper()}{rule[1:]}, so that rates say little here; the mean return does.", soft_wrap=True
        )
    _print_not_played(console, result)
    print_usage(console, result)


def _print_not_played(console: Console, result: dict[str, Any]) -> None:
    """Prints how many games have no result and why."""
    if result["not_played"]:
        console.print(
            f"{result['not_played']} of {result['episodes']} games could not be played and are not counted:",
            soft_wrap=True,
        )
    for reason, games in result["faults"].items():
        console.print(f"  {games} x {reason}", soft_wrap=True, markup=False, highlight=False)
