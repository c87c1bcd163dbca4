"""`spiral collect`: games of any policy, kept to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from spiral.cli import options as opt
from spiral.cli.errors import INTERRUPTED, Stopped
from spiral.cli.output import endpoint_usage, print_json, print_usage, shown_path
from spiral.core.policy import NotPlayedError
from spiral.core.progress import progress_shown
from spiral.core.stopping import stops_interrupt
from spiral.games import Game, load_game
from spiral.policies import Policy, is_scripted, scripted_policy
from spiral.runs.display import plain_table, wide_console

SERVING = ("base_url", "api_key_env", "max_in_flight", "requests_per_minute", "retries", "timeout_seconds")
"""Settings of an endpoint that do not change its replies, so that they may change when a collection continues."""
SAME_COMMAND = "the same command continues"


@opt.expand_options
def collect(
    *,
    policy: Annotated[str, typer.Option(help="Who plays: anything that can be a MODEL, or endpoint:NAME.")],
    game: Annotated[list[str], typer.Option(help="Such as tictactoe; may be repeated. See `spiral games`.")],
    episodes: Annotated[int, typer.Option(min=1, help="Games of each --game.")] = 400,
    out: Annotated[Path, typer.Option(parser=opt.path_argument, metavar="DIR", help="Directory that keeps the games.")],
    opponent: Annotated[
        str | None,
        typer.Option(help="Who plays all other players (left out: the policy itself). Its turns are not learned from."),
    ] = None,
    seed: opt.Seed = 0,
    opening_plies: Annotated[
        int,
        typer.Option(min=0, max=1000, help="Half of the games open with up to this many random moves, no turns."),
    ] = 0,
    max_turns: Annotated[int, typer.Option(min=1, help="A game that takes more turns is cut off.")] = 1000,
    prompt: opt.PromptOptions,
    engine: opt.EngineOptions,
    in_flight: opt.InFlight = 256,
    as_json: opt.Json = False,
) -> None:
    """Play games and keep every turn, for `spiral sft`: those of a scripted player, a model, or an endpoint's thoughts.

    The directory holds episodes in the form of a run's. A collection that was stopped continues with the same command;
    with more --episodes it grows.
    """
    games = [load_game(spec) for spec in game]
    from spiral.rollout.collection import Collection

    collection = Collection(
        out,
        games=games,
        episodes=episodes,
        policy=policy,
        opponent=opponent,
        seed=seed,
        opening_plies=opening_plies,
        max_turns=max_turns,
    )
    from spiral.policies.registry import is_language_model  # loads torch

    with progress_shown(bar=not as_json) as progress, stops_interrupt():
        alone = opponent is None or not is_language_model(opponent)
        loaded = {}
        if opponent is not None:
            progress.stage(f"loading {opponent}")
            loaded[opponent] = _policies(opponent, games, opt.policy_options(opt.PromptOptions(), engine, alone=False))
        progress.stage(f"loading {policy}")
        loaded[policy] = _policies(policy, games, opt.policy_options(prompt, engine, alone=alone))
        players = {name: next(iter(found.values())) for name, found in loaded.items()}
        progress.stage(f"{policy} plays {', '.join(rules.spec for rules in games)}", episodes * len(games), "games")
        try:
            found = collection.play(
                lambda name, rules: loaded[name][rules.spec],
                more_settings=_settings(players, policy, opponent),
                in_flight=in_flight,
                watch=lambda done, _total: progress.update(done),
            )
        except NotPlayedError as error:
            raise Stopped(f"{error}; the games so far are in {shown_path(out)}, and {SAME_COMMAND}") from error
        except KeyboardInterrupt as error:
            message = f"stopped; the games so far are in {shown_path(out)}, and {SAME_COMMAND}"
            raise Stopped(message, INTERRUPTED) from error
    result = found.to_json() | endpoint_usage("model", players[policy])
    if opponent is not None:
        result |= endpoint_usage("opponent", players[opponent])
    if as_json:
        print_json({"out": str(out), **result})
    else:
        _print(wide_console(), result, out)


def _policies(name: str, games: Sequence[Game], options: Any) -> dict[str, Policy]:
    """The policy called `name` for every game by its spec. A model or an endpoint is loaded once."""
    from spiral.inference.room import check_room
    from spiral.policies.registry import load_policy

    if is_scripted(name):
        return {game.spec: scripted_policy(name, game) for game in games}
    first, *others = games
    policy = load_policy(name, first, options)
    for game in others:
        check_room(policy, game)
    return dict.fromkeys([game.spec for game in games], policy)


def _settings(players: dict[str, Policy], policy: str, opponent: str | None) -> dict[str, Any]:
    """How models and endpoints play, so that a collection is not continued with another model of the same name."""
    from spiral.evaluation.results import describe_player

    roles = {"policy": policy} | ({} if opponent is None else {"opponent": opponent})
    settings = {}
    for role, name in roles.items():
        described = describe_player(name, players[name])
        described.pop("measured_once", None)  # marks results whose weights cannot be compared
        for key in SERVING:
            described.get("endpoint", {}).pop(key, None)
        if len(described) > 1:
            settings[f"{role}_settings"] = described
    return settings


def _print(console: Console, result: dict[str, Any], out: Path) -> None:
    """Prints the games by kind, what could not be played, and the next command."""
    table = plain_table("game", "games", "finished", "with a winner", "mean returns", numbers_from=1)
    for spec, counts in result["games"].items():
        returns = [f"{value:+.2f}" for name, value in counts.items() if name.startswith("return_player")]
        shares = (f"{counts[key] / counts['episodes']:.0%}" for key in ("finished", "decided"))
        table.add_row(spec, f"{counts['episodes']:,}", *shares, " / ".join(returns))
    console.print(table)
    if result["not_played"]:
        console.print(f"{result['not_played']} games could not be played; {SAME_COMMAND}:", soft_wrap=True)
    for reason, games in result["faults"].items():
        console.print(f"  {games} x {reason}", soft_wrap=True, markup=False, highlight=False)
    print_usage(console, result)
    print(f"{result['episodes']:,} games with {result['turns']:,} turns are in {shown_path(out)}")
