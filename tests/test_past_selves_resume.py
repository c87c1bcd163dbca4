"""Runs against past selves that are killed and resumed are, bit for bit, those that were never stopped."""

from __future__ import annotations

import json
import shutil

import pytest

from killed_runs import KILLED, contents, go_on, metrics_rows, run

HALF = "selfplay.opponents={mirror=1.0, past=1.0}"
SMALL = (
    "run.steps=8",
    "run.checkpoint_every=3",
    "run.snapshots=[]",
    "selfplay.games={kuhn_poker=1.0}",
    "selfplay.opening_plies={}",
    "selfplay.episodes_per_step=12",
    "evaluation.games=[]",
    "evaluation.exploitability=[]",
    HALF,
)
SAMPLERS = {
    "past_selves": "selfplay.opponent_options={save_every=2, window=2, swap_every=3}",
    "pfsp": "selfplay.opponent_options={save_every=2, window=2}",
}
WORKERS = ("cluster.rollout_workers=2",)


def of(sampler):
    return (*SMALL, f"selfplay.opponent_sampler={sampler}", SAMPLERS[sampler])


def weights_kept(path):
    return sorted(directory.name for directory in (path / "past_selves").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "cluster"),
    [
        ("pfsp", ()),
        ("past_selves", ()),
        ("pfsp", WORKERS),
        ("past_selves", WORKERS),
    ],
    ids=["pfsp", "past_selves", "pfsp with workers", "past_selves with workers"],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(sampler, cluster, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, settings=(*of(sampler), *cluster)) == 0
    assert run(killed, "after step 5", settings=(*of(sampler), *cluster)) == KILLED
    assert weights_kept(killed) == ["step-000000", "step-000002", "step-000004"]
    assert go_on(killed) == 0
    assert weights_kept(whole)[-2:] == ["step-000006", "step-000008"]
    ours, theirs = (
        {name: content for name, content in contents(path).items() if name not in ("cluster.json", "metrics.jsonl")}
        for path in (killed, whole)
    )
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    rows = [
        [{key: value for key, value in json.loads(row).items() if not key.startswith("cluster/")} for row in found]
        for found in map(metrics_rows, (killed, whole))
    ]
    assert rows[0] == rows[1]
    assert rows[0][-1]["against/kuhn_poker/past/games"] == 6
    assert rows[0][-1]["opponents/past_selves"] == 2
    assert rows[0][-1]["opponents/kuhn_poker/elo"] != 0


def test_a_checkpoint_whose_past_selves_are_gone_is_refused(tmp_path):
    path = tmp_path / "run"
    assert run(path, settings=(*of("pfsp"), "run.steps=3")) == 0
    shutil.rmtree(path / "past_selves" / "step-000002")
    from spiral.launch import resume

    with pytest.raises(ValueError, match=r"past@2 is to play, but .*/run holds no weights of step 2"):
        resume(path, steps=5)
