"""`spiral exploitability` for people: units, a yardstick, and no raw field names; its JSON keeps the field names."""

from __future__ import annotations

import pytest

from commands import spiral
from spiral.cli.theory_words import headline, theory_table, unit
from spiral.evaluation.exploitability import uniform_exploitability
from spiral.games import load_game


def said(model, game, *more):
    result = spiral("exploitability", model, "--game", game, *more)
    assert (result.status, result.err) == (0, "")
    assert not [
        word for word in result.out.split() if "_" in word and not word.startswith(("kuhn_", "leduc_", "results/", "/"))
    ]
    return result.out


@pytest.mark.parametrize(
    ("game", "value"),
    [("kuhn_poker", 11 / 24), ("leduc_poker", 2.373611), ("tictactoe", 0.959830), ("kuhn_poker(hands=2)", None)],
)
def test_the_yardstick_is_uniform_play(game, value):
    rules = load_game(game)
    found = uniform_exploitability(rules)
    json = spiral("exploitability", "random", "--game", game, "--json").json
    assert found == pytest.approx(json["exploitability"], abs=1e-12)
    if value is not None:
        assert found == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("game", "words"),
    [
        ("kuhn_poker", "chips a hand"),
        ("leduc_poker", "chips a hand"),
        ("kuhn_poker(hands=5)", "points a game"),
        ("tictactoe", "points a game"),
        ("connect_four", "points a game"),
    ],
)
def test_units(game, words):
    assert unit(load_game(game)) == words


def test_poker():
    out = said("random", "kuhn_poker")
    assert out.splitlines()[0] == (
        "random in kuhn_poker: exploitability 0.4583 chips a hand; uniform play 0.4583, equilibrium 0"
    )
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "a best response wins, on average over both seats 0.4583 chips a hand" in rows
    assert "from seat 0, from seat 1 +0.5000, +0.4167" in rows
    assert "NashConv, the sum of both 0.9167" in rows
    assert "probability of a reply that is not legal 0.00%" in rows
    assert "bets with J when first to act (a bluff) 50.0%" in rows
    assert "how it was measured its probabilities are known exactly" in rows


def test_a_game_where_nothing_is_hidden():
    out = said("minimax", "tictactoe")
    assert "exploitability 0.0000 points a game; uniform play 0.9598, equilibrium 0" in out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert rows.count("plays an optimal move 100.0%") == 3
    assert "positions asked about 4,520 of 4,520" in rows
    assert rows.count("gives away by a move 0.0000 points a game") == 3


def test_what_was_sampled_has_intervals():
    out = said("nano", "kuhn_poker", "--thinking", "--samples", "5", "--max-new-tokens", "12")
    assert " to " in out.splitlines()[0]
    assert "counted from sampled replies, 5 in each state" in " ".join(out.split())


def test_what_is_not_known_is_said():
    known = spiral("exploitability", "minimax", "--game", "tictactoe", "--json").json
    sampled = {**known, "exploitability": None, "nash_conv": None, "method": "sampled", "samples": 20}
    sampled |= {"optimal_share_low": 0.9, "optimal_share_high": 1.0}
    game = load_game("tictactoe")
    assert "exploitability is not known" in headline("m", game, sampled, 0.0)
    cells = [str(cell) for column in theory_table(game, sampled).columns for cell in column.cells]
    assert "100.0% (90 to 100)" in cells
    assert not any("NashConv" in cell for cell in cells)
