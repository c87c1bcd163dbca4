"""A user's estimator with state survives a kill: the resumed run is, bit for bit, the run that never stopped."""

from __future__ import annotations

import json
from pathlib import Path

from killed_runs import KILLED, contents, go_on, metrics_rows, run

SETTINGS = (
    "credit.estimator=user_estimator:RunningMean",
    "credit.options={prior=0.25}",
    "run.steps=4",
    "run.checkpoint_every=2",
    "run.episodes_every=2",
    "selfplay.episodes_per_step=8",
    "loss.kl_coefficient=0.0",
    "loss.reference_refresh_steps=0",
    "learner.minibatches=1",
    "evaluation.games=[]",
    "evaluation.exploitability=[]",
)


def test_a_custom_estimator_survives_a_kill(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, settings=SETTINGS) == 0
    assert run(killed, "after step 3", SETTINGS) == KILLED
    state = json.loads((killed / "checkpoints" / "latest" / "state.json").read_text())
    assert state["step"] == 2
    counts = {key: count for key, (count, _) in state["estimator"].items()}
    assert counts == {f"{game}/{player}": 8.0 for game in ("tictactoe", "kuhn_poker") for player in (0, 1)}
    assert go_on(killed) == 0
    assert metrics_rows(killed) == metrics_rows(whole)
    ours, theirs = contents(killed), contents(whole)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    first = json.loads(metrics_rows(whole)[0])
    assert "selfplay/tictactoe/player0/baseline" in first
