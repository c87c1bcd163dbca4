"""What the tests of commands share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Leaves out the learning curves at the end of a run, half of the time of a tiny one.

    The module's first run, made by a fixture of the module, still draws them.
    """
    monkeypatch.setattr("spiral.cli.train_results.draw_learning_curve", lambda path, _trained: path / "none.png")
