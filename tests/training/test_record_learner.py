"""What the learner knows of a step's turns is on record, and nothing of the run depends on it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from commands import TINY, spiral
from spiral.core.storage import read_episodes
from spiral.runs.directory import read_metrics


def trained(path, **changes):
    settings = {**TINY, "run.seed": "4", "learner.minibatches": "2", "selfplay.games": "{kuhn_poker = 1}"}
    settings |= {"evaluation.games": "[]", "evaluation.exploitability": "[]"} | changes
    chosen = [argument for name, value in settings.items() for argument in ("--set", f"{name}={value}")]
    result = spiral("train", "nano", "--run-dir", str(path), *chosen)
    assert result.status == 0, result.err
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    return [trained(root / name, **{"run.record_learner": name}) for name in ("true", "false")]


def test_weights_and_metrics_are_the_same_to_the_bit(runs):
    weights = [run / "checkpoints" / "step-000002" / "model.safetensors" for run in runs]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in weights}) == 1
    rows = [
        [{key: value for key, value in row.items() if not key.startswith("time/")} for row in read_metrics(run)]
        for run in runs
    ]
    assert rows[0] == rows[1]


def test_advantages_and_log_probabilities_are_those_of_the_update(runs):
    for step, row in enumerate(read_metrics(runs[0]), 1):
        episodes = read_episodes(runs[0] / "episodes" / f"step-{step:06d}.parquet")
        turns = [turn for episode in episodes for turn in episode.turns]
        assert {turn.advantages.shape for turn in turns} == {(1,)}
        assert [turn.learner_logprobs.shape for turn in turns] == [turn.generation.logprobs.shape for turn in turns]
        gaps = np.concatenate([turn.generation.logprobs - turn.learner_logprobs for turn in turns])
        assert np.abs(gaps).max() < 1e-4  # in float32 the engine plays with the learner's weights
        assert row["credit/samples"] == len(turns)
    first = read_episodes(runs[0] / "episodes" / "step-000001.parquet")[0]
    assert [float(turn.advantages[0]) for turn in first.turns] == pytest.approx(
        [first.rewards[turn.player] for turn in first.turns]  # the baselines begin at zero
    )


def test_without_it_files_are_as_before(runs):
    episodes = read_episodes(runs[1] / "episodes" / "step-000002.parquet")
    assert {turn.advantages is None and turn.learner_logprobs is None for e in episodes for turn in e.turns} == {True}
