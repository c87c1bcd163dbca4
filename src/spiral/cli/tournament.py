"""`spiral tournament`: a round robin of several models, with ratings."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.errors import Stopped
from spiral.cli.output import print_json, shown_path
from spiral.core.progress import Progress, progress_shown
from spiral.core.steps import models_of_run
from spiral.games import Game, load_game
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.evaluation.tournament import Pairing, PolicyCache  # loads torch
    from spiral.policies import Policy
    from spiral.rollout.loop import Watch

Out = Annotated[
    Path | None,
    typer.Option(
        parser=opt.path_argument,
        metavar="PATH",
        help="Directory for the result's files; left out: the one that the environment variable SPIRAL_RESULTS names,"
        " or results/ in the one run, or here.",
    ),
]
logger = logging.getLogger(__name__)

INTERVALS_UP_TO = 5
"""Number of players up to which the payoff table has room for intervals."""


@opt.expand_options
def tournament(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Two or more, each as for `spiral evaluate`, endpoint:NAME too; or one run directory, whose own"
            " checkpoints and random play then take part.",
        ),
    ],
    *,
    game: Annotated[
        list[str] | None,
        typer.Option(help="Such as tictactoe; may be repeated. Default: the games the one run was trained on."),
    ] = None,
    episodes: Annotated[int, typer.Option(help="Games of each pair, an even number: half as player 0.")] = 100,
    seed: opt.Seed = 0,
    most: Annotated[int, typer.Option(min=2, help="Checkpoints of the one run, taken evenly over its steps.")] = 8,
    out: Out = None,
    prompt: opt.PromptOptions,
    engine: opt.EngineOptions,
    as_json: opt.Json = False,
) -> None:
    """Play a round robin: payoffs, Elo, alpha-rank and Nash averaging with 95% intervals, as tables and files."""
    run = models[0] if len(models) == 1 and (Path(models[0]) / "checkpoints").is_dir() else None
    players = history(Path(run), most) if run is not None else models
    games = [load_game(spec) for spec in dict.fromkeys(game or _trained_games(run))]
    check_field(players)
    opt.check_episodes([rules for rules in games if rules.num_players == 2], episodes)  # others are refused below
    from spiral.evaluation.tournament import PolicyCache, check_players  # loads torch
    from spiral.evaluation.tournament_files import open_directory
    from spiral.policies.registry import is_language_model, load_policy, model_card

    models_here = [name for name in players if is_language_model(name)]
    options = opt.policy_options(prompt, engine, alone=len(models_here) < 2)
    budget = _largest_budget(models_here)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_shown(bar=not as_json))

        def load(name: str, rules: Game) -> Policy:
            progress.describe(f"loading {name}")
            if name in models_here and options.max_new_tokens is None and not model_card(name).sampling:
                return load_policy(name, rules, options, max_new_tokens=budget)
            return load_policy(name, rules, options)

        cache = PolicyCache(load)
        check_players(players, games, cache)
        directories = {rules.spec: directory(out, run, rules, len(games), seed) for rules in games}
        for folder in directories.values():
            stack.enter_context(open_directory(folder))
        checkpoints = len(players) - 1 if run is not None else 0
        results = _play(players, games, cache, directories, episodes, seed, checkpoints, progress)
    if as_json:
        print_json(results[0] if len(results) == 1 else {"seed": seed, "games": results})
        return
    for result in results:
        _print_standings(result)


def _largest_budget(models: Sequence[str]) -> int:
    """The response budget of models without a card: the largest that the others were trained with."""
    from spiral.policies.registry import model_card

    return max((model_card(name).evaluation_sampling.max_new_tokens for name in models), default=1)


def history(run: Path, most: int) -> list[str]:
    """Up to `most` checkpoints and snapshots of a run, evenly spaced from the first to the last, and random play."""
    found = [path for path in models_of_run(run).values() if (path / "config.json").is_file()]
    if not found:
        raise ValueError(f"run directory {str(run)!r} holds no checkpoint yet; expected {run / 'checkpoints'}/step-*")
    count = min(most, len(found))
    chosen = [round(number * (len(found) - 1) / max(1, count - 1)) for number in range(count)]
    if count == 1:
        chosen = [len(found) - 1]
    return [*(str(found[index]) for index in chosen), "random"]


def check_field(players: Sequence[str]) -> None:
    """Raises `ValueError` for fewer than two players, or for two names of the same model."""
    if len(players) < 2:
        raise ValueError(
            f"got one player, {players[0]!r}; expected two or more, or one run directory to play its checkpoints"
        )
    from spiral.models.loading import model_directory
    from spiral.policies.endpoint.config import ENDPOINT
    from spiral.policies.scripted import is_scripted

    known: dict[str, str] = {}
    for name in players:
        model = name.replace(" ", "")
        if not is_scripted(name) and not name.startswith(ENDPOINT):
            path = model_directory(name)
            model = os.path.realpath(path) if os.path.exists(path) else path
        if model in known:
            same = (
                f"{name!r} twice"
                if known[model] == name
                else f"{known[model]!r} and {name!r}, which are the same model"
            )
            raise ValueError(f"got {same}; expected every player once")
        known[model] = name


def directory(out: Path | None, run: str | None, game: Game, games: int, seed: int) -> Path:
    """The directory for the files of one game's tournament."""
    from spiral.evaluation.results import default_root, plain_name

    if out is None:
        return default_root("random" if run is None else run) / f"tournament-{plain_name(game.spec)}-{seed}"
    return out if games == 1 else out / plain_name(game.spec)


def _trained_games(run: str | None) -> list[str]:
    """The games of the one run. Raises `ValueError` when there is none."""
    games: list[str] = []
    if run is not None:
        from spiral.policies.registry import run_games

        games = run_games(run)
    if not games:
        raise ValueError("Missing option '--game'; see `spiral tournament --help`")
    return games


def _play(
    players: Sequence[str],
    games: Sequence[Game],
    cache: PolicyCache,
    directories: dict[str, Path],
    episodes: int,
    seed: int,
    checkpoints: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Plays all games and writes the files. Returns one result a game, as `--json` prints it."""
    from spiral.evaluation.arena import count_faults  # loads torch
    from spiral.evaluation.standings import standings
    from spiral.evaluation.tournament import round_robin
    from spiral.evaluation.tournament_files import save_games, save_standings, short_names
    from spiral.policies.cut_off import CutOff

    names = short_names(players)
    total, before = episodes * len(games) * len(players) * (len(players) - 1) // 2, 0

    def begin(rules: Game, row: int, column: int) -> Watch:
        progress.describe(f"{rules.spec}: {names[row]} against {names[column]}")
        return lambda done, turns: progress.games(before + done, turns)

    progress.stage("", total, "games")
    pairings: dict[str, list[Pairing]] = {rules.spec: [] for rules in games}
    faults: dict[str, dict[str, int]] = {rules.spec: {} for rules in games}
    replies = {name: CutOff() for name in players}
    for rules, pair, played in round_robin(players, games, cache, episodes, seed, start=begin):
        before += episodes
        save_games(directories[rules.spec], names, len(pairings[rules.spec]), pair, played)
        pairings[rules.spec].append(pair)
        for index, episode in enumerate(played):
            for turn in episode.turns:
                if turn.generation is not None:
                    own = turn.player == index % 2
                    replies[players[pair.row if own else pair.column]].add(turn.generation)
        for reason, count in count_faults(played).items():
            faults[rules.spec][reason] = faults[rules.spec].get(reason, 0) + count
    for player, counted in replies.items():
        warning = counted.warning(player, "--{}")
        if warning is not None:
            logger.warning("%s", warning)
    progress.stage("ratings and their intervals")
    results = []
    for spec, pairs in pairings.items():
        if sum(pair.not_played for pair in pairs) == episodes * len(pairs):
            raise Stopped(f"none of the games of {spec} could be played: {next(iter(faults[spec]))}")
        result = standings(spec, players, pairs, seed=seed, checkpoints=checkpoints)
        cut_off = {player: counted.share for player, counted in replies.items() if counted.replies}
        more = {"faults": faults[spec], "usage": cache.usage(), "cut_off": cut_off}
        results.append(save_standings(directories[spec], result, names, cache.descriptions, more))
    return results


def _print_standings(result: dict[str, Any]) -> None:
    """Prints ratings, payoffs and remarks."""
    console = wide_console()
    heading = f"{result['game']}: {result['episodes']} games for each pair of players, seed {result['seed']}\n"
    console.print(heading, soft_wrap=True)
    table = plain_table("", "player", "Elo (95% interval)", "score", "alpha-rank", "Nash", "illegal", numbers_from=2)
    count = len(result["labels"])
    for player, name in enumerate(result["labels"]):
        games = sum(result["games"][player])
        scores = [score for other, score in enumerate(result["score"][player]) if other != player and score is not None]
        table.add_row(
            str(player + 1),
            name,
            _rating(result, "elo", player, "{:.0f}"),
            f"{sum(scores) / len(scores):.1%}" if scores else "",
            _rating(result, "alpharank", player, "{:.2f}"),
            _rating(result, "nash", player, "{:.2f}"),
            f"{sum(result['illegal'][player]) / games:.1%}" if games else "",
        )
    console.print(table)
    console.print("\nMean return to the row player, in the game's units; * where the 95% interval leaves out 0:\n")
    table = plain_table("", "player", *(str(column + 1) for column in range(count)), numbers_from=2)
    for row, name in enumerate(result["labels"]):
        table.add_row(str(row + 1), name, *(_payoff(result, row, column) for column in range(count)))
    console.print(table)
    for line in (*remarks(result), f"Files: {shown_path(Path(result['files']['tournament']).parent)}"):
        console.print(line, soft_wrap=True)


def _rating(result: dict[str, Any], key: str, player: int, form: str) -> str:
    """A player's rating with its interval; empty when it was not computed."""
    if result[key] is None:
        return ""
    value, low, high = (result[key + bound][player] for bound in ("", "_low", "_high"))
    interval = "" if low is None else f" ({form.format(low)} to {form.format(high)})"
    return form.format(value) + interval


def _payoff(result: dict[str, Any], row: int, column: int) -> str:
    """A cell of the payoff matrix, marked where its interval leaves out 0."""
    value, low, high = (result[key][row][column] for key in ("payoff", "payoff_low", "payoff_high"))
    if row == column or value is None:
        return "" if row == column else "not played"
    star = "*" if low is not None and (low > 0 or high < 0) else " "
    interval = f"\n{low:+.2f} to {high:+.2f} " if low is not None and len(result["labels"]) <= INTERVALS_UP_TO else ""
    return f"{value:+.2f}{star}{interval}"


def remarks(result: dict[str, Any]) -> list[str]:
    """Sentences on cycles, a run's history, games that were not played, endpoints, and what was left out."""
    lines = []
    history, cycles = result["history"], result["cycles"]
    if history is not None:
        lines.append(
            f"Pairs of checkpoints, by the 95% interval of their games: the later one is better in {history['better']},"
            f" worse in {history['worse']}, undecided in {history['undecided']}."
        )
    if cycles is not None and len(result["players"]) > 2:
        triples = "none to count, since no three players have decided results against each other"
        if cycles["triples"]:
            triples = f"{cycles['cyclic_triples']} of {cycles['triples']} sets of three players with decided games"
        lines.append(
            f"Cycles (A beats B, B beats C, C beats A): {triples}. Cyclic share of the payoffs:"
            f" {cycles['cyclic_part']:.0%}; games without any cycle would show {cycles['cyclic_part_by_chance']:.0%}"
            " by chance."
        )
    lines += [
        f"Games that could not be played and are not counted: {n} ({why})." for why, n in result["faults"].items()
    ]
    lines += [f"{name}: {use['requests']} requests, ${use['cost_usd']:.4f}" for name, use in result["usage"].items()]
    return lines + [f"Note: {note}." for note in result["notes"]]
