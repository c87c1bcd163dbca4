"""Metrics of earlier versions under the keys of today."""

from __future__ import annotations

import pytest

from spiral.runs.old_metrics import with_current_keys


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kuhn_poker(hands=3)/return_seat_0", "selfplay/kuhn_poker-3/player0/return"),
        ("kuhn_poker(hands=3) against random/win_seat_1", "against/kuhn_poker-3/random/player1/win"),
        ("openspiel/liars_dice/games", "selfplay/openspiel.liars_dice/games"),
        ("tictactoe against minimax(depth=4)/draw", "against/tictactoe/minimax-4/draw"),
        ("credit/baseline tictactoe against random seat 1", "against/tictactoe/random/player1/baseline"),
        ("credit/baseline my_games:Nim seat 0", "selfplay/my_games.Nim/player0/baseline"),
        ("evaluation/tictactoe against minimax: win", "evaluation/tictactoe/minimax/win"),
        ("evaluation/kuhn_poker: exploitability", "evaluation/kuhn_poker/exploitability"),
        ("evaluation/reasoning_gym/gcd: accuracy", "benchmark/reasoning_gym.gcd/accuracy"),
        ("cluster/worker_10_tokens_per_s", "cluster/worker10/tokens_per_s"),
    ],
)  # fmt: skip
def test_old_keys(old, new):
    assert with_current_keys({"step": 1, old: 0.5}) == {"step": 1, new: 0.5}
    assert with_current_keys({new: 0.5}) == {new: 0.5}, "a current key stays as it is"


@pytest.mark.parametrize("key", ["step", "rollout/games", "rollout/turns", "cluster/workers", "credit/samples"])
def test_other_keys_stay(key):
    assert list(with_current_keys({key: 1})) == [key]
