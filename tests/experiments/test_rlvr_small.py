"""The experiment with verifiable rewards: what it starts from can be made and trained."""

import json
from pathlib import Path

from commands import spiral
from file_modules import module_of
from spiral.runs.directory import read_metrics

FOLDER = Path(__file__).parents[2] / "experiments/rlvr_small"


def test_its_problems_and_its_start_can_be_made_and_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build = module_of(FOLDER / "build.py")
    monkeypatch.setattr(build, "SIZE", 300)
    build.main(Path("sums"), steps=2)
    rows = [json.loads(line) for line in Path("sums/sums.jsonl").read_text().splitlines()]
    assert len({row["question"] for row in rows}) == len(rows) > 250
    for row in rows[:50]:
        assert eval(row["question"].partition(":")[2].rstrip(" =")) == int(row["answer"])
    settings = ["run.steps=1", "selfplay.episodes_per_step=8", "selfplay.attempts=4"]
    result = spiral(
        "train", str(FOLDER / "sums.toml"), "--run-dir", "run", *[word for one in settings for word in ("--set", one)]
    )
    assert result.status == 0, result.err
    assert [row["step"] for row in read_metrics("run")] == [1]
