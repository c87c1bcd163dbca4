"""Walks through games: chance, random play and replay."""

from __future__ import annotations

import random
from collections import Counter

from flip import Flip
from small_games import Echo, OddOneOut
from spiral.games import load_game
from spiral.games.playout import draw, random_decisions, random_game, replay, resolve_chance


def test_outcomes_are_drawn_by_their_probabilities():
    rng = random.Random(0)
    drawn = Counter(draw((("a", 0.75), ("b", 0.25)), rng) for _ in range(2000))
    assert abs(drawn["a"] - 1500) < 80


def test_chance_is_resolved_until_a_player_acts_or_the_game_is_over():
    kuhn = load_game("kuhn_poker")
    first = resolve_chance(kuhn.initial_state())
    assert (first.current_player, first) == (0, kuhn.initial_state().apply("J").apply("Q"))
    dealt = {resolve_chance(kuhn.initial_state(), random.Random(seed)) for seed in range(60)}
    assert len(dealt) == 6
    over = resolve_chance(Flip().initial_state().apply("heads"))
    assert over.is_terminal


def test_random_games_replay_and_list_their_decisions():
    for game in (load_game("leduc_poker"), OddOneOut(), Echo(rounds=3)):
        steps = list(random_game(game, random.Random(5)))
        end = replay(game, [action for _, action in steps])
        assert end.is_terminal
        for number, (state, _) in enumerate(steps):
            assert state == replay(game, [action for _, action in steps[:number]])
        decisions = list(random_decisions(game, random.Random(5)))
        assert decisions == [state for state, _ in steps if not state.is_chance]
        assert decisions
