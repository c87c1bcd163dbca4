"""Levels of generated problems."""

from __future__ import annotations

import re

import pytest

from spiral.evaluation.reasoning.levels import LEVELLED, LEVELS
from spiral.evaluation.reasoning.procedural import CORRECT, generate_problems, verifier_score
from spiral.games import load_game

pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize("family", LEVELLED)
def test_every_level_has_short_answers_that_its_verifier_accepts(family):
    task, asked = f"reasoning_gym/{family}", set()
    for level in range(1, LEVELS + 1):
        problems = generate_problems(task, 10, 1, level)
        for index, (text, answer) in enumerate(problems):
            assert str(int(answer)) == answer
            assert len(answer) <= 8
            assert verifier_score(task, 10, 1, index, answer, level) >= CORRECT
            assert verifier_score(task, 10, 1, index, str(int(answer) + 1), level) < CORRECT
            asked.add(text)
    assert len(asked) > 8 * LEVELS
    assert generate_problems(task, 2, 1, 0) == generate_problems(task, 2, 1)


@pytest.mark.parametrize(("level", "lowest", "highest"), [(1, 3, 20), (3, 41, 400), (5, 2001, 20_000)])
def test_a_game_deals_the_problems_of_its_level(level, lowest, highest):
    game = load_game(f"problems/reasoning_gym/gcd?level={level}")
    assert game.spec == f"problems/reasoning_gym/gcd(level={level})"
    text = " ".join(game.problem(number).question for number in range(30))
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    assert lowest <= min(numbers) < max(numbers) <= highest
    state = game.initial_state().apply("4")
    right = game.problem(4).answer
    assert [state.apply(answer).returns() for answer in (right, right + "0")] == [(1.0,), (0.0,)]


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("problems/reasoning_gym/lcm?level=1", "family 'lcm' has no levels here; these have: chain_sum, products, gcd"),
        ("problems/reasoning_gym/gcd?level=6", "got level 6 of gcd; expected 1 to 5, or 0 for the family's own"),
        ("problems/math12k?level=1", "only generated tasks"),
    ],
)
def test_levels_that_there_are_not_are_refused(spec, fault):
    with pytest.raises(ValueError, match=fault):
        load_game(spec)
