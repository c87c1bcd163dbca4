"""A run as one HTML file that needs nothing else: curves, health, evaluations with intervals, games and settings.

The file holds no script, and a policy in its head forbids any; nothing is loaded from elsewhere. Text of models and
settings is escaped, its control, bidirectional and invisible characters are written out, and long texts are cut. The
same files give the same report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from spiral.core.printable import one_line, printable
from spiral.core.progress import duration
from spiral.core.transcript import new_lines, result_line, turn_states
from spiral.core.versions import versions
from spiral.games import State
from spiral.runs.charts import MEAN_SHARE, MIN_SMOOTHED, Chart, charts, svg
from spiral.runs.chosen_games import ChosenGame, choose_games
from spiral.runs.health import SEVERITY
from spiral.runs.overview import Overview
from spiral.runs.recipe import Recipe
from spiral.runs.summary import RATES, rate_text
from spiral.text.thinking import split_reply

TEMPLATE = Path(__file__).with_name("report.html")
MAX_CHARTS = 60
MAX_TURNS = 100
"""Turns shown of a game, the last ones."""
MAX_TEXT = 6_000
"""Characters shown of an observation, a thought or an answer."""
MAX_SETTING = 300
"""Characters shown of one setting in the table."""
Drawing = Callable[[State], Mapping[str, Any]]
"""Gives a state as a drawing, `{"kind": "grid", ...}`; another kind is shown as text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownTurn:
    """A turn as the report shows it."""

    number: int
    player: int
    position: str
    """What is new to the player since its last turn."""
    grid: Mapping[str, Any] | None
    thought: str
    answer: str
    action: str | None
    marked: bool
    """Whether the game was chosen for this turn."""


def report_html(found: Overview, drawing: Drawing | None = None) -> str:
    """The report of a run.

    Args:
        found: The run.
        drawing: Draws the positions of games; None, and games that it does not draw, give text.
    """
    from jinja2 import Environment, StrictUndefined

    games, notices = choose_games(found)
    drawn = charts(found)
    if len(drawn) > MAX_CHARTS:
        notices.append(f"{len(drawn) - MAX_CHARTS} further curves are left out; --curves writes all of them")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    lights = sorted(found.lights, key=lambda light: SEVERITY.index(light.state))
    values: dict[str, Any] = {
        "title": one_line(found.path.resolve().name),
        "facts": _facts(found),
        "notices": [one_line(notice) for notice in (*found.notices, *notices)],
        "lights": [(light, one_line(light.about), one_line(light.reading)) for light in lights],
        "charts": [
            (one_line(chart.title), svg(chart, f"c{number}")) for number, chart in enumerate(drawn[:MAX_CHARTS])
        ],
        "smoothing": _smoothing(drawn),
        "tables": tables(found),
        "games": [_game(game, drawing) for game in games],
        "changed": [(one_line(key), one_line(value, max_length=MAX_SETTING)) for key, value in changed_settings(found)],
        "config": printable(tomli_w.dumps(found.settings)) if found.settings else "",
        "versions": versions(),
    }
    return template.render(values)


def _facts(found: Overview) -> list[tuple[str, str]]:
    """Captions and values of the head."""
    of = "" if found.steps is None else f" of {found.steps:,}"
    facts = [("state", f"{found.state}, step {found.step:,}{of}")]
    if found.model is not None:
        facts.append(("model", found.model))
    if found.games:
        facts.append(("games", ", ".join(found.games)))
    if found.opponents:
        facts.append(("opponents", ", ".join(found.opponents)))
    if found.seconds:
        facts.append(("time", f"{duration(found.seconds)} of training"))
    played = sum(row.get("rollout/games", 0) for row in found.rows)
    if played:
        facts.append(("episodes", f"{played:,.0f}"))
    seed = found.settings.get("run", {}).get("seed")
    if seed is not None:
        facts.append(("seed", str(seed)))
    return [(caption, one_line(value)) for caption, value in facts]


def _smoothing(drawn: Sequence[Chart]) -> str:
    if not any(chart.mean_over for chart in drawn):
        return ""
    return (
        f"Curves of {MIN_SMOOTHED} steps or more: thin, every step; thick, the running mean over one in {MEAN_SHARE} of"
        " the steps."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultTable:
    """A table of results; the first `names` columns are text."""

    title: str
    note: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def tables(found: Overview) -> list[ResultTable]:
    """The evaluations before training and after the last step, with 95% intervals."""
    if not found.evaluations:
        return []
    (first, before), (last, after) = found.evaluations[0], found.evaluations[-1]
    both = [(first, before), (last, after)] if first != last else [(last, after)]
    made = []
    arena = []
    for row in after.arena:
        for step, results in both:
            for other in results.arena:
                if (other["game"], other["opponent"]) == (row["game"], row["opponent"]):
                    rates = [rate_text(other, rate) for rate in RATES]
                    arena.append((row["game"], row["opponent"], f"{step:,}", *rates, f"{other['illegal']:.1%}"))
    if arena:
        games = sorted({row["episodes"] for row in after.arena})
        count = f"{games[0]:,}" if len(games) == 1 else f"{games[0]:,} to {games[-1]:,}"
        made.append(
            ResultTable(
                title="Games against opponents",
                note=f"{count} games each, half as each player; in brackets 95% intervals.",
                headers=("game", "against", "step", "win", "draw", "loss", "win or draw", "illegal"),
                rows=_safe(arena),
                names=2,
            )
        )
    theory = [
        (row["game"], f"{step:,}", f"{other['exploitability']:.4f}", f"{other['illegal_mass']:.1%}", other["method"])
        for row in after.exploitability
        for step, results in both
        for other in results.exploitability
        if other["game"] == row["game"]
    ]
    if theory:
        made.append(
            ResultTable(
                title="Exploitability",
                note="What best responses win, averaged over the players, in the game's units.",
                headers=("game", "step", "exploitability", "illegal", "method"),
                rows=_safe(theory),
            )
        )
    tasks = [
        (
            row["task"],
            f"{step:,}",
            f"{other['items'] * other['samples']:,}",
            rate_text(other, "accuracy"),
            f"{other['truncated']:.1%}",
            f"{other['unboxed']:.1%}",
        )
        for row in after.benchmarks
        for step, results in both
        for other in results.benchmarks
        if other["task"] == row["task"]
    ]
    if tasks:
        made.append(
            ResultTable(
                title="Benchmarks",
                note="In brackets 95% intervals.",
                headers=("task", "step", "replies", "accuracy", "cut off", "without a box"),
                rows=_safe(tasks),
            )
        )
    return made


def _safe(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(one_line(str(cell), max_length=MAX_SETTING) for cell in row) for row in rows)


def changed_settings(found: Overview) -> list[tuple[str, str]]:
    """The settings that differ from their defaults, as `section.key` and the value in TOML."""
    defaults = Recipe().model_dump()
    changed = []
    for section, values in found.settings.items():
        for key, value in values.items():
            default = defaults.get(section, {}).get(key)
            if value != default and not (value in ("", {}, []) and not default):
                changed.append((f"{section}.{key}", _toml(value)))
    return changed


def _toml(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, Mapping):
        pairs = (f"{tomli_w.dumps({key: 0}).rpartition(' = ')[0]} = {_toml(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _game(chosen: ChosenGame, drawing: Drawing | None) -> dict[str, Any]:
    """A chosen game for the template."""
    episode = chosen.episode
    names = [f"player {player}" for player in range(len(episode.returns))]
    turns, last = _turns(chosen, drawing)
    return {
        "title": chosen.title,
        "why": chosen.why,
        "source": chosen.source,
        "game": one_line(episode.game),
        "players": [f"player {player}: {one_line(seat.policy)}" for player, seat in enumerate(episode.seats)],
        "result": one_line(result_line(episode, names)),
        "left_out": max(0, len(episode.turns) - MAX_TURNS),
        "turns": turns[-MAX_TURNS:],
        "last": last,
    }


def _turns(chosen: ChosenGame, drawing: Drawing | None) -> tuple[list[ShownTurn], Mapping[str, Any] | None]:
    """The turns and the last position, where it is drawn; observations as they were kept where no rules are here."""
    episode = chosen.episode
    try:
        states = turn_states(episode)
    except Exception:  # a game of the user's that is not installed here, or has changed, can raise anything
        states = []
    found: list[ShownTurn] = []
    seen: dict[int, str] = {}
    before = ""
    for number, turn in enumerate(episode.turns):
        state = states[number] if number < len(states) else None
        observation = turn.observation
        if state is not None:
            observation = state.observation(turn.player)
        thought = split_reply(turn.reply)
        bare = not thought.delimited
        found.append(
            ShownTurn(
                number=number,
                player=turn.player,
                position=_cut(new_lines(seen.get(turn.player, before), observation)),
                grid=_grid(state, drawing),
                thought="" if bare else _cut(thought.thinking.strip()),
                answer=_cut((turn.reply if bare else thought.answer).strip()),
                action=None if turn.action is None else one_line(turn.action),
                marked=number == chosen.turn,
            )
        )
        seen[turn.player] = before = observation
    last = states[len(episode.turns)] if len(states) > len(episode.turns) else None  # none after an illegal move
    return found, _grid(last, drawing)


def _grid(state: State | None, drawing: Drawing | None) -> Mapping[str, Any] | None:
    """The board of a game on a grid; None for other games."""
    if state is None or drawing is None:
        return None
    found = drawing(state)
    return found if found.get("kind") == "grid" else None


def _cut(text: str) -> str:
    """A text of at most `MAX_TEXT` characters, safe to show; a longer one keeps its beginning and its end."""
    left = len(text) - MAX_TEXT
    if left > 0:
        half = MAX_TEXT // 2
        text = f"{text[:half]}\n... ({left:,} more characters) ...\n{text[-half:]}"
    return printable(text, max_line=2 * MAX_TEXT)
