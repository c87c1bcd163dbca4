"""A fine-tuning run that was killed and resumed is, bit for bit, the run that was never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from killed_runs import KILLED, contents, go_on, metrics_rows, run
from spiral.games import load_game
from spiral.policies import scripted_policy
from spiral.rollout.collection import Collection

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(data: Path) -> tuple[str, ...]:
    """Eleven steps, the last of which is small, over two passes and a part of a third."""
    return (f"sft.data=['{data}']", "loss.kind=nll", "sft.keep=all", "sft.samples_per_step=24", "sft.epochs=3",
            "sft.max_episodes=20", "evaluation.games=[]", "evaluation.exploitability=[]")  # fmt: skip


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    data = tmp_path / "data"
    games = [load_game("tictactoe"), load_game("kuhn_poker")]
    Collection(data, games=games, episodes=12, policy="random").play(scripted_policy)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, settings=settings(data)) == 0
    rows = [json.loads(line) for line in metrics_rows(whole)]
    assert len(rows) > 8
    assert rows[-1]["credit/samples"] < 24
    assert len({row["learner/learning_rate"] for row in rows}) > 5
    assert rows[-1]["loss/nll"] < rows[0]["loss/nll"]
    assert run(killed, "after step 7", settings=settings(data)) == KILLED
    assert (killed / "checkpoints" / "latest").readlink() == Path("step-000005")
    assert go_on(killed) == 0
    assert metrics_rows(killed) == metrics_rows(whole)
    ours, theirs = contents(killed), contents(whole)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
