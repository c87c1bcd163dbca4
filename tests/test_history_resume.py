"""A run whose prompts have a history, killed and resumed, is bit for bit the run that was never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from killed_runs import KILLED, contents, go_on, metrics_rows, run
from spiral.core.storage import read_episodes

CHAT = (
    "run.steps=5",
    "run.checkpoint_every=2",
    "run.episodes_every=1",
    "run.snapshots=[]",
    "prompt.history='chat'",
    "prompt.history_thoughts='keep'",
    "selfplay.games={tictactoe=0.5, 'kuhn_poker(hands=3)'=0.5}",
    "selfplay.episodes_per_step=12",
    "sampling.max_new_tokens=8",
    "evaluation.exploitability=[]",
    "evaluation.every=0",
)


@pytest.mark.slow
def test_a_killed_run_with_a_history_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, settings=CHAT) == 0
    rows = [json.loads(line) for line in metrics_rows(whole)]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert min(row["rollout/history_turns"] for row in rows) > 0.2
    assert {row["rollout/history_cut"] for row in rows} == {0.0}
    turns = [turn for e in read_episodes(whole / "episodes" / "step-000005.parquet") for turn in e.turns]
    assert max(turn.history_turns or 0 for turn in turns) >= 2
    assert run(killed, "after step 3", CHAT) == KILLED
    assert go_on(killed) == 0
    assert metrics_rows(killed) == metrics_rows(whole)
    ours, theirs = contents(killed), contents(whole)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == []
