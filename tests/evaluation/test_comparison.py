"""Two models side by side: paired differences computed by hand, and significance."""

import csv
import dataclasses
import io

import pytest

from spiral.core.records import Episode, Seat, Turn
from spiral.evaluation.arena import paired_matches
from spiral.evaluation.comparison import (
    Row,
    benchmark_row,
    corrected,
    exploitability_row,
    game_rows,
    to_csv,
    to_markdown,
)
from spiral.evaluation.exploitability import evaluate_exploitability
from spiral.evaluation.group_comparison import group_game_rows
from spiral.evaluation.reasoning.runner import Attempt
from spiral.evaluation.statistics import Estimate
from spiral.games import load_game
from spiral.policies import scripted_policy
from spiral.rollout.loop import play
from spiral.theory import kuhn_equilibrium, uniform_policy

SEATS = (Seat(policy="a", trainable=False), Seat(policy="b", trainable=False))


def episode(seed, first, outcome="finished", loser=0):
    turn = Turn(player=loser, observation="", action=None if outcome == "illegal_move" else "0")
    return Episode(game="g", seed=seed, seats=SEATS, turns=(turn,), returns=(first, -first), outcome=outcome)


def attempts(shares):
    """Four attempts at each problem, of which the given number is right."""
    return [
        Attempt(
            id=name, sample=sample, prompt="", reply="", answer="", extracted=None, correct=sample < right, boxed=True,
            timed_out=False, truncated=False, tokens=1, thinking_tokens=0,
        )
        for name, right in shares.items()
        for sample in range(4)
    ]  # fmt: skip


def test_scores_by_pairs_of_games():
    # A wins from player 0 and loses from player 1; B wins both games, then wins one and draws one.
    a = [episode(1, 1.0), episode(1, 1.0), episode(2, 1.0), episode(2, 1.0)]
    b = [episode(1, 1.0), episode(1, -1.0), episode(2, 1.0), episode(2, 0.0)]
    score, illegal = game_rows("g", "o", a, b)
    assert (score.measure, score.n, score.better) == ("g against o: score", 2, "higher")
    assert (score.a.value, score.b.value, score.difference.value) == (0.5, 0.875, 0.375)
    assert (illegal.a.value, illegal.b.value, illegal.better) == (0.0, 0.0, "lower")


def test_the_model_is_each_of_more_than_two_players():
    def deal(seed, *scores):
        """A deal of a game of four: what the model gets as player 0, 1, 2 and 3; the others get the rest."""
        for player, score in enumerate(scores):
            returns = tuple(score if other == player else -score / 3 for other in range(4))
            seats = tuple(Seat(policy="a" if other == player else "b", trainable=False) for other in range(4))
            yield Episode(game="g", seed=seed, seats=seats, turns=(), returns=returns, outcome="finished")

    always, once = [*deal(1, 1, 1, 1, 1), *deal(2, 1, 1, 1, 1)], [*deal(1, -1, -1, -1, 1), *deal(2, -1, -1, -1, -1)]
    score, illegal = game_rows("g", "o", always, once)
    assert (score.n, score.a.value, score.b.value) == (2, 1.0, 0.125)
    assert illegal.difference.value == 0
    group = group_game_rows("g", "o", [always], [once])[0]
    assert (group.items.n, group.runs_a, group.runs_b) == (2, (1.0,), (0.125,))
    # A deal that was not played as every player is left out whole.
    broken = [*once[:6], dataclasses.replace(once[6], outcome="not_played"), *once[7:]]
    assert [row.n for row in game_rows("g", "o", always, broken)] == [1, 1]


def test_a_single_pair_has_an_interval_but_no_test():
    a, b = [episode(1, -1.0), episode(1, 1.0)], [episode(1, 1.0), episode(1, -1.0)]
    score, _ = corrected(game_rows("g", "o", a, b))
    assert (score.n, score.difference.value, score.p_value, score.p_adjusted) == (1, 1.0, None, None)
    # A win of both games over a loss of both; of one pair Wilson's bound of no success is 3.841459 / 4.841459.
    assert (score.difference.low, score.difference.high) == pytest.approx((1 - 2 * 0.793451, 1.0), abs=1e-6)
    missing = [episode(1, 0.0, "not_played"), episode(1, 1.0)]
    assert game_rows("g", "o", missing, b) == []


def test_illegal_rates_count_own_illegal_moves():
    a = [episode(1, -1.5, "illegal_move", 0), episode(1, -1.5, "illegal_move", 0), *[episode(2, 0.0)] * 2]
    _, illegal = game_rows("g", "o", a, a)
    # Of the first pair one illegal move is the model's, in player 0, and one the opponent's.
    assert (illegal.a.value, illegal.difference.value, illegal.p_value) == (0.25, 0.0, 1.0)
    # That two pairs agree says little: 3.841459 / 5.841459.
    assert illegal.difference.high == -illegal.difference.low == pytest.approx(0.657620, abs=1e-6)


def test_agreement_has_an_interval_in_the_tables():
    row = benchmark_row("t", attempts({f"{n}": 4 for n in range(50)}), attempts({f"{n}": 4 for n in range(50)}))
    assert to_markdown(corrected([row]), "a", "b").splitlines()[-1] == (
        "| t: accuracy | 50 | 1.000 [0.929, 1.000] | 1.000 [0.929, 1.000] | +0.000 [-0.071, +0.071] | 1 |"
    )


def test_unplayed_games_are_left_out():
    fine = [episode(seed, 1.0) for seed in (1, 1, 2, 2, 3, 3)]
    broken = [*fine[:3], episode(2, 0.0, "not_played"), *fine[4:]]
    assert [row.n for row in game_rows("g", "o", fine, broken)] == [2, 2]
    assert [row.n for row in game_rows("g", "o", fine[:4], broken[:4])] == [1, 1]


def test_games_with_different_seeds_are_refused():
    with pytest.raises(ValueError, match="have different seeds"):
        game_rows("g", "o", [episode(1, 1.0)] * 2, [episode(2, 1.0)] * 2)


def test_real_games():
    game = load_game("tictactoe")
    played = {
        name: play(paired_matches(scripted_policy(name, game), scripted_policy("random", game), game, 100, seed=3))
        for name in ("random", "minimax")
    }
    score = corrected(game_rows("tictactoe", "random", played["random"], played["minimax"]))[0]
    assert score.a.value == 0.5
    assert score.b.value > 0.9
    assert score.difference.low > 0.3
    assert score.significant


def test_accuracy_by_problem():
    row = benchmark_row("t", attempts({"x": 0, "y": 2, "z": 4}), attempts({"x": 4, "y": 2, "z": 4}))
    assert (row.n, row.a.value, row.b.value) == (3, 0.5, pytest.approx(5 / 6))
    assert row.difference.value == pytest.approx(1 / 3)
    assert row.p_value == 1.0  # one problem has changed: either sign is as likely
    with pytest.raises(ValueError, match="different problems of t"):
        benchmark_row("t", attempts({"x": 0, "y": 2}), attempts({"x": 0, "z": 2}))


def test_exact_exploitability_has_no_test():
    kuhn = load_game("kuhn_poker")
    uniform, equilibrium = (
        evaluate_exploitability(table, kuhn).to_json() for table in (uniform_policy, kuhn_equilibrium())
    )
    row = exploitability_row(uniform, equilibrium, 12)
    assert row.difference.value == pytest.approx(-11 / 24)
    assert row.difference.low == row.difference.high == row.difference.value
    assert (row.p_value, row.significant, row.better) == (None, False, "lower")
    assert (row.measure, row.n) == ("kuhn_poker: exploitability (exact)", 12)


def test_sampled_exploitability_has_an_interval():
    a = {"game": "g", "method": "sampled", "exploitability": 0.5, "exploitability_low": 0.2, "exploitability_high": 0.6}
    b = {"game": "g", "method": "scored", "exploitability": 0.1}
    row = exploitability_row(a, b, 12)
    assert (row.difference.value, row.difference.low, row.difference.high) == pytest.approx((-0.4, -0.5, -0.1))
    assert row.measure == "g: exploitability (sampled and scored)"


def test_regret_replaces_unknown_exploitability():
    unknown = {"exploitability": None, "regret_self": 0.5, "regret_self_low": 0.25, "regret_self_high": 0.75}
    a = {"game": "g", "method": "sampled", **unknown}
    b = {"game": "g", "method": "exact", "exploitability": 0.0, "regret_self": 0.125}
    row = exploitability_row(a, b, 9)
    assert (row.measure, row.better) == ("g: regret in self-play (sampled and exact)", "lower")
    assert (row.difference.value, row.difference.low, row.difference.high) == (-0.375, -0.625, -0.125)


def row(p_value, measure="m"):
    half = Estimate(value=0.5, low=0.25, high=0.75)
    return Row(kind="games", measure=measure, better="higher", n=9, a=half, b=half, difference=half, p_value=p_value)


def test_holm_counts_tested_rows_only():
    rows = corrected([row(0.04), row(None), row(0.01), row(0.03)])
    assert [found.p_adjusted for found in rows] == [pytest.approx(0.06), None, pytest.approx(0.03), pytest.approx(0.06)]
    assert [found.significant for found in rows] == [False, False, True, False]


def test_tables():
    rows = corrected([row(0.01, "first"), row(None, "second")])
    assert to_markdown(rows, "base", "trained").splitlines() == [
        "| | n | base | trained | difference | p (Holm) |",
        "|---|---|---|---|---|---|",
        "| first | 9 | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] | +0.500 [+0.250, +0.750] * | 0.01 |",
        "| second | 9 | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] | +0.500 [+0.250, +0.750] |  |",
    ]
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [line["measure"] for line in table] == ["first", "second"]
    assert (table[0]["difference_low"], table[0]["significant"], table[1]["p_value"]) == ("0.25", "True", "")
    assert rows[0].to_json()["p_adjusted"] == 0.01
