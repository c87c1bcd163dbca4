"""How much thoughts depend on the prompt: exact cases, no dependence, and what small steps do to it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spiral.core.information import thought_information


def replies(count, share, rng):
    """Replies to two prompts, a `share` of whose tokens tells which it was."""
    prompts = [b"ab"[index : index + 1] for index in rng.permutation([0, 1] * count)]
    common = [rng.integers(0, 10, 20) for _ in prompts]
    return prompts, [
        np.where(rng.random(20) < share, 10 + (prompt == b"b"), words)
        for prompt, words in zip(prompts, common, strict=True)
    ]


def test_nothing_is_said_where_prompts_do_not_repeat():
    thought = np.array([1, 2])
    assert thought_information([], []) is None
    assert thought_information([b"a", b"b", b"c"], [thought] * 3) is None
    assert thought_information([b"a", b"a", b"b"], [thought] * 3) is None, "one prompt has nothing to be compared with"


def test_the_same_thought_for_every_prompt_tells_nothing():
    thought = np.array([1, 2, 3])
    assert thought_information([b"a", b"a", b"b", b"b"], [thought] * 4) == 0.0
    assert thought_information([b"a", b"a", b"b", b"b"], [np.array([], dtype=int)] * 4) == 0.0


def test_thoughts_without_a_dependence_are_0_on_average():
    rng = np.random.default_rng(0)
    found = [thought_information(*replies(4, 0.0, rng)) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(len(found)) < 0.005
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize(
    ("count", "share", "low", "high"), [(64, 1.0, 0.68, 0.694), (4, 1.0, 0.55, 0.66), (64, 0.25, 0.16, 0.185)]
)
def test_what_a_dependence_comes_to(count, share, low, high):
    """The truth is share * log 2."""
    rng = np.random.default_rng(0)
    assert low < np.mean([thought_information(*replies(count, share, rng)) for _ in range(40)]) < high
