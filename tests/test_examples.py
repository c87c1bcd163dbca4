"""The programs in examples/ do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import spiral
import spiral.policies
from file_modules import module_of

KUHN = spiral.load_game("kuhn_poker")
EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    """A program of examples/ as a module."""
    return module_of(EXAMPLES / f"{name}.py")


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def run(name: str) -> str:
    """What a program prints."""
    program = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout


def test_a_custom_game() -> None:
    assert "value for the first player: -1.0\n" in run("add_a_game")
    game = spiral.load_game("add_a_game:Nim(heap=6)")
    assert game.spec == "add_a_game:Nim(heap=6)"
    assert spiral.minimax_value(game.initial_state()) == 1.0
    with pytest.raises(ValueError, match="nim got heap=0; expected 1 or more"):
        spiral.load_game("add_a_game:Nim", heap=0)


def test_a_custom_estimator() -> None:
    assert run("add_an_estimator").startswith("1122 turns, mean")
    estimator = example("add_an_estimator").ScaledRAE(decay=0.5)
    players = (spiral.policies.scripted_policy("random", KUHN),) * 2
    (hand,) = spiral.play([spiral.Match(game=KUHN, seed=3, policies=players)])
    (first,), (second,) = estimator([hand]), estimator([hand])
    paid = np.array([hand.returns[turn.player] for turn in hand.turns])
    assert first == pytest.approx(paid, rel=1e-5), "mean 0 and variance 1 at first"
    assert second == pytest.approx(0.5 * paid / np.sqrt(0.5 + 0.5 * paid**2), rel=1e-5)
    again = example("add_an_estimator").ScaledRAE(decay=0.5)
    again.load_state_dict(estimator.state_dict())
    assert again([hand])[0] == pytest.approx(estimator([hand])[0])


class TestMinimalSpiral:
    def test_the_rules(self) -> None:
        minimal = example("minimal_spiral")
        game = minimal.TicTacToe()
        for reply in ("0.", "3.", "1.", "4.", "2."):
            assert game.returns is None
            game.apply(reply)
        assert game.returns == [1.0, -1.0]
        game = minimal.TicTacToe()
        game.apply("4.")
        game.apply("4.")
        assert game.returns == [0.5, -1.5]

    def test_role_conditioned_advantages_by_hand(self) -> None:
        minimal = example("minimal_spiral")
        first, second = minimal.TicTacToe(), minimal.TicTacToe()
        first.returns, second.returns = [1.0, -1.0], [-1.5, 0.5]
        estimator = minimal.RAE(decay=0.9)
        assert estimator([first, second]) == [[1.0, -1.0], [-1.6, 0.6]]
        assert estimator.baseline == pytest.approx([0.09 - 0.15, -0.09 + 0.05])

    def test_it_is_short_and_needs_only_torch(self) -> None:
        text = (EXAMPLES / "minimal_spiral.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 250
        assert "import spiral" not in text
        assert "from spiral" not in text

    @pytest.mark.slow
    def test_it_learns(self) -> None:
        assert example("minimal_spiral").main() <= 0.15
