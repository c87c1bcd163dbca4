"""`spiral show`: a run at a glance in the terminal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from spiral.cli import options as opt
from spiral.cli.league import show_league
from spiral.cli.output import print_json, program
from spiral.cli.play import PREFERRED_GAME
from spiral.cli.psro import show_population
from spiral.core.printable import MAX_LINE, one_line, printable
from spiral.core.progress import duration
from spiral.core.transcript import game_excerpt, game_text
from spiral.runs.display import plain_table, wide_console
from spiral.runs.guard_states import GuardState
from spiral.runs.health import SEVERITY, Light
from spiral.runs.league import LEAGUE, MAIN
from spiral.runs.overview import Curve, Overview, ShownGame, overview, shown_game
from spiral.runs.past_selves import PastSelfStandings
from spiral.runs.population import POPULATION
from spiral.runs.summary import arena_table, benchmark_table, exploitability_table

STYLES = {
    "bad": "bold red",
    "collapsed": "bold red",
    "warn": "yellow",
    "warning": "yellow",
    "fine": "green",
    "unknown": "dim",
}
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
"""Heights of a small chart, the lowest first; the second for terminals without these characters."""
MAX_BARS, MIN_BARS = 40, 6
NUMBERS = 34
"""Characters that the three numbers beside a chart take."""
NARROW = 72
"""Columns of a terminal below which there are lines in place of tables."""
MAX_CURVES = 40
MAX_PAST_SELVES = 12
MAX_FOUND, MAX_ANSWERS = 4, 8
"""Findings of a guard, and answers, that are shown."""
MAX_GAME_LINE = 400
"""Characters shown of a line of an excerpt."""


def show(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            parser=opt.path_argument,
            help="A run directory, such as runs/nano-0, or that of a population or a league.",
        ),
    ],
    step: Annotated[int | None, typer.Option(min=0, help="The step of the game to show; left out: the last.")] = None,
    episode: Annotated[
        int | None, typer.Option(min=0, help="Its number in the step, from 0; shows the whole of it.")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Show a run at a glance: progress, health, small charts, the last evaluation and one game.

    A run may be looked at while it goes on. A chart is drawn from its lowest to its highest value; the numbers beside
    it are the first value, the last one and the range. What the health lights judge by is in docs/metrics.md. Of a
    population (`spiral psro`) its shares, payoffs and exploitability are shown, of a league (`spiral league`) what each
    exploiter won, and wins now.
    """
    for file, what, one, show_all in (
        (POPULATION, "population", "response-001", show_population),
        (LEAGUE, "league", MAIN, show_league),
    ):
        if (run / file).is_file() and not (run / "config.toml").exists():
            if step is not None or episode is not None:
                raise ValueError(f"{run} holds a {what}; give one of its runs, such as {run}/{one}")
            show_all(run, as_json=as_json)
            return
    found = overview(run)
    game, passed_over = shown_game(run, [PREFERRED_GAME, *found.games], step, episode)
    if as_json:
        notices = [*found.notices, *passed_over]
        print_json({**found.to_json(), "notices": notices, "game": _game_json(game)})
        return
    console = wide_console()
    _print_head(console, found)
    for notice in (*found.notices, *passed_over):
        console.print(Text(f"Note: {one_line(notice)}.", style="yellow"), soft_wrap=True)
    _print_health(console, found)
    _print_guards(console, found.guards)
    _print_curves(console, found.curves)
    _print_evaluation(console, found)
    _print_past_selves(console, found.past_selves)
    if game is not None:
        _print_game(console, game, whole=episode is not None)


def _game_json(game: ShownGame | None) -> dict[str, Any] | None:
    if game is None:
        return None
    return {
        "step": game.step,
        "episode": game.index,
        "game": game.episode.game,
        "policies": [seat.policy for seat in game.episode.seats],
        "outcome": game.episode.outcome,
        "returns": list(game.episode.returns),
        "text": _text_of(game, whole=True),
    }


def _print_head(console: Console, found: Overview) -> None:
    """Two lines: the run and how far it is."""
    console.print(Text(str(found.path), style="bold"), soft_wrap=True)
    of = "" if found.steps is None else f" of {found.steps:,}"
    parts = [f"{found.state}, step {found.step:,}{of}"]
    if found.seconds:
        parts.append(f"{duration(found.seconds)} of training")
    if found.seconds_left is not None:
        parts.append(f"about {duration(found.seconds_left)} left")
    if found.model is not None:
        opponents = f" against {', '.join(found.opponents)}" if found.opponents else ""
        parts.append(f"{found.model} on {', '.join(found.games)}{opponents}")
    console.print(one_line("; ".join(parts)))


def _print_health(console: Console, found: Overview) -> None:
    """A line for each kind of light, and one more for each further player whose light is not fine."""
    rows: list[tuple[str, Text, str]] = []
    for name in dict.fromkeys(light.name for light in found.lights):
        lights = sorted(
            (light for light in found.lights if light.name == name), key=lambda light: SEVERITY.index(light.state)
        )
        raised = [light for light in lights if light.state in ("bad", "warn")]
        for light in raised or lights[:1]:
            state = Text(light.state, style=STYLES[light.state])
            rows.append((name, state, _reading(light, lights)))
    console.print()
    if console.width < NARROW:
        for name, state, reading in rows:
            console.print(Text.assemble(f"{name}: ", state, f", {printable(reading)}"))
        return
    table = plain_table("health", "", "")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for (name, state, reading), before in zip(rows, ("", *(row[0] for row in rows)), strict=False):
        table.add_row("" if name == before else name, state, reading)
    console.print(table)


def _print_guards(console: Console, guards: Sequence[GuardState]) -> None:
    """The guards that found something with what they found, the others in one line, and the answers given."""
    if not guards:
        return
    quiet: dict[str, list[str]] = {}
    table = plain_table("guard", "", "since step", "")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for guard in guards:
        if guard.state in ("fine", "unknown"):
            quiet.setdefault(guard.state, []).append(guard.name)
            continue
        since = "" if guard.since is None else f"{guard.since:,}"
        found = [one["message"] for one in guard.findings[:MAX_FOUND]] or ["why is not on record"]
        found += [f"and {len(guard.findings) - MAX_FOUND} more"] if len(guard.findings) > MAX_FOUND else []
        light = Text(guard.state, style=STYLES[guard.state])
        if console.width < NARROW:
            console.print(Text.assemble(f"\n{one_line(guard.name)}: ", light, f", {one_line('; '.join(found))}"))
            continue
        for number, message in enumerate(found):
            first = (one_line(guard.name), light, since) if not number else ("", "", "")
            table.add_row(*first, one_line(message))
    if table.row_count:
        console.print()
        console.print(table)
    for state, names in quiet.items():
        word = {"fine": "fine", "unknown": "not known (not judged yet, or disabled)"}[state]
        console.print(Text(f"\nguards that are {word}: {one_line(', '.join(names))}"))
    given = [(line["step"], guard.name, line) for guard in guards for line in guard.changes if line["answer"]]
    for step, name, change in sorted(given, key=lambda one: one[:2])[-MAX_ANSWERS:]:
        worst = sorted(change["findings"], key=lambda one: one["level"])[:1]  # a collapse before a warning
        reason = f", for {worst[0]['about']}" if worst else ""
        effect = f" ({change['effect']})" if change["effect"] else ""
        text = f"answer of the guard {name} after step {step:,}{reason}: {change['answer']}{effect}"
        console.print(Text(one_line(text)))


def _reading(light: Light, lights: Sequence[Light]) -> str:
    """What a light says, for all of its kind where nothing is wrong."""
    if light.game is None:
        return light.reading
    if light.state == "fine" and len(lights) > 1:
        values = [other.value for other in lights if other.value is not None]
        span = f", {min(values):.0%} to {max(values):.0%}" if light.name in ("seat collapse", "illegal moves") else ""
        what = {"seat collapse": " of games lost", "illegal moves": " of moves"}.get(light.name, "")
        return f"all {len(lights)} players{span}{what}"
    return f"{light.about}: {light.reading}"


def _print_curves(console: Console, curves: Sequence[Curve]) -> None:
    """A small chart for every curve, with its first and last value and its range."""
    if not curves:
        return
    shown = curves[:MAX_CURVES]
    narrow = console.width < NARROW
    widest = 0 if narrow else max(len(printable(curve.caption)) for curve in shown)
    room = console.width - min(widest, console.width // 3) - NUMBERS - 10
    width = max(MIN_BARS, min(MAX_BARS, console.width - 22 if narrow else room))
    marks = PLAIN_BARS if console.options.ascii_only else BARS
    steps = [step for curve in curves for step in (curve.steps[0], curve.steps[-1])]
    title = f"steps {min(steps)} to {max(steps)}"
    table = plain_table(title, "", "first", "last", "range", numbers_from=2)
    table.columns[1].no_wrap = True
    console.print()
    if narrow:
        console.print(title)
    for curve in shown:
        bars = chart(curve.values, width, marks)
        first, last, low, high = (
            _number(value, curve.share)
            for value in (curve.values[0], curve.values[-1], min(curve.values), max(curve.values))
        )
        if narrow:
            console.print(f"{curve.caption}\n  {bars}  {first}, last {last}")
        else:
            table.add_row(curve.caption, bars, first, last, f"{low} to {high}")
    if not narrow:
        console.print(table)
    if len(curves) > len(shown):
        console.print(f"and {len(curves) - len(shown)} more (--json has the last values)")


def chart(values: Sequence[float], width: int, marks: str = BARS) -> str:
    """Values as a row of at most `width` bars, each the mean of its share of them, from the lowest to the highest."""
    count = min(width, len(values))
    edges = [round(index * len(values) / count) for index in range(count + 1)]
    means = [math.fsum(values[low:high]) / (high - low) for low, high in itertools.pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    if not span > 0:
        return marks[len(marks) // 2 - 1] * count
    return "".join(marks[min(len(marks) - 1, int((mean - low) / span * len(marks)))] for mean in means)


def _number(value: float, share: bool) -> str:
    if share:
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _print_evaluation(console: Console, found: Overview) -> None:
    """The last evaluation beside the first."""
    if not found.evaluations:
        return
    (first, before), (last, after) = found.evaluations[0], found.evaluations[-1]
    compared = f", and before training (step {first})" if first != last else ""
    console.print(f"\nEvaluation after step {last}{compared}:\n")
    if after.arena:
        console.print(arena_table(before, after))
    for rows, table in ((after.exploitability, exploitability_table), (after.benchmarks, benchmark_table)):
        if rows:
            console.print()
            console.print(table(before, after))


def _print_past_selves(console: Console, standings: Sequence[PastSelfStandings]) -> None:
    """The newest past selves of each game, with their ratings, and how the policy did against them."""
    for game in standings:
        shown = game.past_selves[-MAX_PAST_SELVES:]
        console.print(f"\nPast selves in {one_line(game.game)}, at step {game.step:,} (Elo {game.elo:.0f}):\n")
        table = plain_table("step", "Elo", "games against it", "won by the policy", "plays on", numbers_from=1)
        for past in shown:
            won = "-" if past.win_rate is None else f"{past.win_rate:.1%}"
            table.add_row(f"{past.step:,}", f"{past.elo:.0f}", f"{past.games:,}", won, "yes" if past.plays else "no")
        console.print(table)
        if len(game.past_selves) > len(shown):
            console.print(f"and {len(game.past_selves) - len(shown)} older ones (--json has all, and every payoff)")


def _print_game(console: Console, game: ShownGame, *, whole: bool) -> None:
    console.print(f"\nGame {game.index} of step {game.step}:\n", style="bold")
    longest = MAX_LINE if whole else MAX_GAME_LINE
    console.print("\n".join(_cut(line, longest) for line in _text_of(game, whole=whole).split("\n")))
    if not whole:
        command = f"{program('spiral')} show RUN --step {game.step} --episode {game.index}"
        console.print(f"\nThe whole game: {command}", style="dim")


def _cut(line: str, length: int) -> str:
    """A line of at most `length` characters, cut before a megabyte is made printable."""
    return line if len(line) <= length else f"{line[:length]} ... ({len(line) - length:,} more characters)"


def _text_of(game: ShownGame, *, whole: bool) -> str:
    """The game in words; without its positions where its rules are not available here."""
    try:
        return game_text(game.episode) if whole else game_excerpt(game.episode)
    except Exception as error:
        turns = [f"player {turn.player}: {turn.reply}" for turn in game.episode.turns]
        return "\n".join([f"The game {game.episode.game} cannot be replayed here ({error}).", *turns])
