"""`spiral report`: one file without scripts, the curves of papers, and the games that say most."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from commands import refused, spiral
from made_up import new_episode, new_turn
from made_up_run import made_run
from spiral.core.records import Seat
from spiral.core.storage import write_episodes
from spiral.runs import report
from spiral.runs.charts import Chart, Line, charts, draw, running_mean, svg
from spiral.runs.chosen_games import choose_games
from spiral.runs.overview import overview
from spiral.runs.report import changed_settings, report_html

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\x1b]0;owned\x07\u202eright\u200bzero{{ 7*7 }}"
ACTING = "\x1b\x07\u202e\u200b"


@pytest.fixture
def undrawn(monkeypatch):
    """Curves are empty pictures, which takes a tenth of the time."""
    monkeypatch.setattr(report, "svg", lambda chart, name: f"<svg id='{name}'></svg>")


class Tags(HTMLParser):
    """The tags of a page, its attributes' names and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "mine", reply=HOSTILE + "x" * 1_000_000)


def test_one_file_in_which_text_does_nothing(undrawn, run, tmp_path):
    result = spiral("report", str(run), "--out", str(tmp_path / "r.html"), drawn=True)
    assert (result.status, result.err) == (0, "")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert result.out == f"Report: {tmp_path / 'r.html'} ({len(page.encode()) / 1024:,.0f} KiB)\n"
    assert len(page) < 300_000, "a reply of a megabyte is cut"
    assert not any(character in page for character in ACTING)
    found = Tags(page)
    assert not found.tags & {"script", "img", "iframe", "link", "object", "form", "a:script"}
    assert not [name for name in found.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    assert "default-src 'none'" in page
    assert "<script>alert(1)</script><img src=x onerror=alert(1)>\\u001b[2J" in found.text
    assert "{{ 7*7 }}" in found.text, "a reply is no template"
    assert not re.findall(r"""(?:href|url\(|xlink:href)=?["'(]?(?!#)\w+://""", page), "nothing is loaded from elsewhere"
    for expected in ("75% (70 to 80)", "50% (45 to 55)", "60.0% of its moves are illegal", "stopped, step 12 of 20"):
        assert expected in found.text
    assert page.count("<svg") == len(charts(overview(run))) == 7
    assert '<td class="bad">bad</td>' in page
    assert '<td class="X">0</td>' not in page
    assert '<td class="X last">X</td>' in page, "the board is drawn"
    assert "The longest game" in page
    assert "An illegal move" not in page, "the last turn of the forfeit has an action"


def test_the_same_files_give_the_same_report(undrawn, run, tmp_path):
    first = report_html(overview(run))
    assert "(training, step 12, game 1)" in first
    assert report_html(overview(run)) == first
    chart = charts(overview(run))[0]
    assert svg(chart, "c0") == svg(chart, "c0") != svg(chart, "c1"), "identifiers differ between pictures"


def test_curves_for_papers(run, tmp_path):
    (run / "metrics.jsonl").unlink()  # leaves one curve
    out = tmp_path / "curves"
    result = spiral("report", str(run), "--curves", str(out), "--json", drawn=True)
    assert (result.status, result.err) == (0, "")
    assert result.json["report"] == str(run / "report.html")
    files = [Path(name) for name in result.json["curves"]]
    assert [file.name for file in files] == ["tictactoe-win-or-draw.svg", "tictactoe-win-or-draw.png"]
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        else:
            assert ElementTree.fromstring(content).tag.endswith("svg")


def test_names_of_games_are_not_formulas():
    line = Line(label="$x_{$ <b>", steps=(1, 2), values=(0.0, 1.0))
    other = dataclasses.replace(line, label="$\\frac$")
    figure = draw(Chart(title="$\\oops{ <script>", lines=(line, other)))
    figure.canvas.draw()
    assert figure.axes[0].get_title(loc="left") == "$\\oops{ <script>"


def test_running_mean():
    assert running_mean([1.0, 2.0, 6.0, 3.0], 3) == [1.5, 3.0, pytest.approx(11 / 3), 4.5]
    line = Line(label="x", steps=tuple(range(100)), values=(1.0,) * 100)
    assert [Chart(title="x", lines=(line,), evaluated=flag).mean_over for flag in (False, True)] == [4, 0]


def test_damaged_files_are_named_and_the_rest_is_shown(undrawn, run):
    (run / "episodes" / "step-000020.parquet").write_bytes(b"PAR1 half of a file")
    (run / "config.toml").write_text("[run\n", encoding="utf-8")
    page = report_html(overview(run))
    assert "step-000020.parquet cannot be read and is left out" in page
    assert "config.toml cannot be read" in page
    assert "75% (70 to 80)" in page


def test_a_run_that_has_done_nothing(undrawn, tmp_path):
    run = made_run(tmp_path / "new", steps=0)
    for file in (run / "metrics.jsonl", *(run / "episodes").iterdir(), *(run / "evaluation").iterdir()):
        file.unlink()
    page = report_html(overview(run))
    for text in ("This run has no evaluation.", "This run has no metrics yet.", "No games of this run are kept."):
        assert text in page


def test_wrong_use(run, tmp_path):
    assert "no run at" in refused("report", str(tmp_path / "nothing"))
    assert "--out" in refused("report", str(run), "--out", str(tmp_path))
    assert "there is no directory" in refused("report", str(run), "--out", str(tmp_path / "no" / "r.html"))
    assert "is a file; give a directory" in refused("report", str(run), "--curves", str(run / "config.toml"))


def games_file(path, games):
    path.parent.mkdir(exist_ok=True, parents=True)
    write_episodes(path, games)


def against(returns, cells, *, outcome="finished"):
    """A game of the policy, player 0, against minimax."""
    turns = [new_turn(number % 2, action=cell) for number, cell in enumerate(cells)]
    if outcome == "illegal_move":
        turns[-1] = dataclasses.replace(turns[-1], action=None)
    seats = (Seat(policy="policy", trainable=False), Seat(policy="minimax", trainable=False))
    return dataclasses.replace(new_episode(returns, turns, outcome=outcome), seats=seats)


def test_the_games_that_say_most(run):
    for file in (run / "evaluation").glob("*.json"):
        values = json.loads(file.read_text())
        values["arena"][0] |= {"policy": "policy"}
        file.write_text(json.dumps(values))
    short, long = against((1.0, -1.0), "03142"), against((1.0, -1.0), "0314862")
    lost, slow = against((-1.0, 1.0), "031452"), against((-1.0, 1.0), "03184752")
    forfeit = against((-1.5, 0.5), "031", outcome="illegal_move")
    games_file(run / "evaluation" / "step-000012" / "g.parquet", [short, long, slow, lost, forfeit])
    thinker = new_turn(0, tokens=(1, 2, 3, 4), thinking_tokens=3, has_thought=True)
    other = new_turn(1, tokens=(1, 2, 3), thinking_tokens=2, has_thought=True)
    bad = dataclasses.replace(new_turn(0), action=None)
    games_file(
        run / "episodes" / "step-000010.parquet",
        [
            new_episode((0.0, 0.0), [new_turn(0), other, thinker], outcome="truncated"),
            new_episode((-1.5, 0.5), [new_turn(0), new_turn(1), bad], outcome="illegal_move"),
        ],
    )
    chosen, notices = choose_games(overview(run))
    assert notices == []
    assert [(game.title, game.source, game.turn) for game in chosen] == [
        ("The best game", "evaluation after step 12, game 1", None),
        ("The worst game", "evaluation after step 12, game 3", None),
        ("The longest thought", "training, step 10, game 0", 2),
        ("An illegal move", "training, step 10, game 1", 2),
    ]


def test_a_game_that_is_not_installed_here_keeps_its_observations(undrawn, run):
    turns = [dataclasses.replace(new_turn(0), observation="what was shown then")]
    games_file(run / "episodes" / "step-000012.parquet", [new_episode((1.0, -1.0), turns, game="gone:Game")])
    assert "what was shown then" in report_html(overview(run))


BOARD = {"rows": 3, "columns": 3, "numbers": True, "last": None}


def cells_of(state):
    return [{None: "", 0: "X", 1: "O"}[holder] for holder in state._board()]


def test_a_random_opening_comes_before_the_first_turn(undrawn, run):
    turns = [new_turn(0, action="4")]
    opened = dataclasses.replace(new_episode((0.0, 0.0), turns, outcome="finished"), actions=("0", "8", "4"))
    games_file(run / "episodes" / "step-000012.parquet", [opened])
    page = report_html(overview(run), lambda state: {"kind": "grid", **BOARD, "cells": cells_of(state)})
    board, last = re.findall(r'<table class="board".*?</table>', page, re.DOTALL)[-2:]
    assert re.findall(r"<td[^>]*>(.)</td>", board) == list("X1234567O")
    assert re.findall(r"<td[^>]*>(.)</td>", last) == list("X123X567O")


def test_settings_that_differ_from_their_defaults(run):
    changed = dict(changed_settings(overview(run)))
    assert changed["run.steps"] == "20"
    assert changed["sampling.max_new_tokens"] == "8"
    assert changed["evaluation.opponents"] == '["random", "minimax"]'
    assert "learner.beta1" not in changed
