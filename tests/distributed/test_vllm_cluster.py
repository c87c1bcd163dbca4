"""vLLM in rollout workers: SmolLM2 trained for three steps on a cluster, on a CPU."""

from __future__ import annotations

import pytest

from distributed_session import end_small_ray
from spiral.launch import execute, start
from spiral.models.store import local_model_directory
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe
from vllm_models import with_vllm

pytest.importorskip("ray")
pytestmark = with_vllm

SETTINGS = [
    "engine.kind=vllm",
    "engine.memory_share=0.15",
    "run.steps=3",
    "selfplay.episodes_per_step=4",
    "selfplay.in_flight=4",
    "evaluation.games=[]",
    "cluster.rollout_workers=1",
    "cluster.schedule=overlap",
    "cluster.object_store_gib=2",
]


def test_smollm2_learns_from_games_that_vllm_workers_play(tmp_path):
    if local_model_directory("smollm2") is None:
        pytest.skip("SmolLM2 is not here; `spiral models get smollm2` fetches it")
    end_small_ray()  # which has no room for such weights
    run = execute(start(load_recipe("smollm2-cpu", SETTINGS), tmp_path / "run"), lambda *_: None)
    run.close()
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["cluster/staleness"] for row in rows] == [0, 1, 1]
    assert all(row["sampler/gap_mean"] < 0.2 for row in rows)
    assert all(row["rollout/games"] == 4 for row in rows)
    assert rows[-1]["cluster/restarts"] == 0
