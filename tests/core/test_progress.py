"""Progress of a command: what the line says, that it fits, and that every evaluation command shows it."""

from __future__ import annotations

import io
import re
import time

import pytest

from commands import spiral
from spiral.core import progress as module
from spiral.core.progress import Progress, duration, progress_shown, speed
from spiral.games import load_game
from spiral.policies import ScriptedPolicy, scripted_policy
from spiral.rollout.loop import Match, play


class Clock:
    """Time that a test moves."""

    now = 100.0

    def __call__(self):
        return self.now


def at(seconds, *stages):
    """A progress `seconds` after its start."""
    clock = Clock()
    found = Progress(clock)
    for change in stages:
        change(found)
    clock.now += seconds
    return found, clock


def test_what_the_line_says():
    found, _ = at(65.0, lambda it: it.stage("loading nano"))
    assert found.line() == "loading nano: 1:05 elapsed"
    assert found.line(width=80) == "loading nano  1:05 elapsed"
    found, clock = at(10.0, lambda it: it.stage("nano against random", 400, "games"))
    assert found.line() == "nano against random: 0/400 games  0:10 elapsed"
    found.games(0, 1234)
    assert found.line() == "nano against random: 0/400 games  1,234 turns  0:10 elapsed"
    clock.now += 10.0
    found.games(100, 2000)
    assert found.line() == "nano against random: 100/400 games  10/s  0:20 elapsed, 0:30 left"
    assert found.line(width=100) == (
        "nano against random  " + "━" * 5 + "─" * 15 + "  100/400 games  10/s  0:20 elapsed, 0:30 left"
    )


def test_what_was_kept_from_before_does_not_count_for_the_speed():
    found, clock = at(5.0, lambda it: it.stage("math500", 1000, "replies"), lambda it: it.update(900))
    clock.now = 105.0
    found.update(950)
    assert found.line() == "math500: 950/1,000 replies  10/s  0:05 elapsed, 0:05 left"
    found.count("games of self-play", 0, 200)
    assert found.line() == "math500: 0/200 games of self-play  0:05 elapsed"


@pytest.mark.parametrize(("width", "bar"), [(40, False), (80, False), (110, True), (200, True)])
def test_it_fits(width, bar):
    found, clock = at(0.0, lambda it: it.stage("runs/a-very-long-name/checkpoints/step-000100 " * 3, 10**6, "games"))
    found.games(0, 10)
    clock.now += 3000
    found.games(123_456, 1_000_000)
    line = found.line(width=width)
    assert len(line) <= max(width, 70)
    assert "123,456/1,000,000 games" in line
    assert line.endswith(" left")
    assert ("━" in line) == bar


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(1234.5, "1,234/s"), (12.3, "12/s"), (1.25, "1.2/s"), (0.5, "30.0/min"), (0.001, "3.6/h"), (0.0, "0.0/s")],
)
def test_speeds(per_second, text):
    assert speed(per_second) == text
    assert [duration(seconds) for seconds in (0, 59.6, 3661)] == ["0:00", "1:00", "1:01:01"]


def test_games_report_their_progress():
    game, reported = load_game("tictactoe"), []
    player = scripted_policy("random", game)
    matches = [Match(game=game, seed=seed, policies=(player, player)) for seed in range(5)]
    episodes = play(matches, 2, lambda games, turns: reported.append((games, turns)))
    turns = sum(len(episode.turns) for episode in episodes)
    assert reported[-1] == (5, turns)
    assert [taken for _, taken in reported] == list(range(1, turns + 1))
    assert [games for games, _ in reported] == sorted(games for games, _ in reported)


class Slow(ScriptedPolicy):
    """Takes its time for every move."""

    name = "slow"

    def choose(self, state, player, rng):
        time.sleep(0.004)
        return state.legal_actions()[0]


def slow(monkeypatch):
    monkeypatch.setattr("spiral.policies.registry.load_policy", lambda name, game, options=None: Slow())


def test_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.05)
    slow(monkeypatch)
    names = ("random", "--game", "tictactoe", "--opponent", "minimax")
    result = spiral("evaluate", *names, "--episodes", "20", "--json")
    assert result.status == 0
    assert result.json["episodes"] == 20, "standard output holds the JSON alone"
    lines = result.err.splitlines()
    assert lines
    assert all(
        re.fullmatch(
            r"(loading (random|minimax)|tictactoe, random against minimax): .*\d:\d\d elapsed(, \d:\d\d left)?", line
        )
        for line in lines
    )
    assert any(re.search(r"\d+/20 games", line) for line in lines)


def test_nothing_is_written_by_what_is_quick():
    assert spiral("evaluate", "random", "--game", "tictactoe", "--opponent", "random", "--episodes", "2").err == ""


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


def screen(monkeypatch, term="xterm-256color"):
    """What standard error shows, as a terminal of 100 columns."""
    found = Screen()
    monkeypatch.setattr("sys.stderr", found)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "100")
    return found


def test_a_line_that_is_redrawn_in_a_terminal(monkeypatch):
    terminal = screen(monkeypatch)
    with progress_shown() as found:
        found.stage("loading nano")
        time.sleep(0.4)
        found.stage("nano [red]against[/] random :smile:", 10, "games")
        found.games(5, 10)
        time.sleep(0.4)
    shown = terminal.getvalue()
    assert "loading nano  0:00 elapsed" in shown
    assert "nano [red]against[/] random :smile:  " in shown
    assert "5/10 games" in shown
    assert shown.rstrip().endswith("\x1b[2K"), "the line is taken away at the end"


@pytest.mark.parametrize(("term", "bar"), [("xterm", False), ("dumb", True)])
def test_no_line_is_redrawn_when_none_is_wanted_or_possible(term, bar, monkeypatch):
    terminal = screen(monkeypatch, term)
    with progress_shown(bar=bar) as found:
        found.stage("x")
        time.sleep(0.1)
    assert terminal.getvalue() == ""


def test_an_error_ends_it(monkeypatch):
    terminal = screen(monkeypatch)
    with pytest.raises(ValueError, match="no"), progress_shown():
        raise ValueError("no")
    assert terminal.getvalue().rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        (("evaluate", "nano", "--opponent", "random", "--episodes", "4"), ["loading nano", "kuhn_poker, nano against"]),
        (("exploitability", "nano"), ["loading nano", "exploitability of nano in kuhn_poker"]),
        (("tournament", "nano", "random", "--episodes", "4"), ["loading nano", "kuhn_poker: nano against", "ratings"]),
        (
            ("compare", "nano", "random", "--episodes", "4"),
            ["loading nano", "nano: kuhn_poker", "random: kuhn"],
        ),
    ],
)
def test_every_evaluation_command_reports_its_stages(arguments, stages, monkeypatch):
    reported = []
    for method in ("stage", "describe"):
        real = getattr(Progress, method)

        def report(self, what, *rest, real=real):
            reported.append(what)
            real(self, what, *rest)

        monkeypatch.setattr(Progress, method, report)
    counts = []
    real_update = Progress.update

    def update(self, done, detail=""):
        counts.append((done, self._total))
        real_update(self, done, detail)

    monkeypatch.setattr(Progress, "update", update)
    assert spiral(*arguments, "--game", "kuhn_poker").status == 0
    positions = [next(position for position, what in enumerate(reported) if what.startswith(stage)) for stage in stages]
    assert positions == sorted(positions)
    done, total = counts[-1]
    assert done == total > 0
