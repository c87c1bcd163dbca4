"""A run belongs to one process: the second is refused, and one that has lost its run stops before it writes."""

from __future__ import annotations

import json
import shutil

import pytest

from commands import refused, spiral, tiny_run, tiny_settings
from lock_holder import held_elsewhere
from spiral.runs.directory import read_metrics
from spiral.runs.display import PlainDisplay
from spiral.runs.lock import RunHeldError, hold_run, run_held


def test_a_second_process_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    with held_elsewhere(path / ".lock") as holder:
        for command in (["nano", *tiny_settings()], ["nano", "--resume"], ["--resume"]):
            line = refused("train", *command, "--run-dir", str(path))
            assert line.startswith(f"process {holder.pid} on ")
            assert f" uses the run in {path} since 20" in line
            assert line.endswith(f"; wait until it ends, or stop it there (kill {holder.pid})")
        assert sorted(entry.name for entry in path.iterdir()) == [".lock", ".lock.owner"]
        holder.kill()
        holder.wait(10)
    assert tiny_run(path, evaluation__games="[]", evaluation__exploitability="[]").status == 0
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    assert not (path / ".lock.owner").exists()


def test_a_process_that_was_taken_over_stops_before_it_writes(monkeypatch, tmp_path):
    """As after a night in suspension, on a disk whose locks do not reach the machine that has gone on."""
    path, show = tmp_path / "run", PlainDisplay.show

    def taken_over(self, step, metrics):
        show(self, step, metrics)
        owner = json.loads((path / ".lock.owner").read_bytes())
        owner |= {"token": "feedfeedfeedfeed", "host": "elsewhere", "pid": 7}
        (path / ".lock.owner").write_text(json.dumps(owner))

    monkeypatch.setattr(PlainDisplay, "show", taken_over)
    result = tiny_run(path, run__steps="5", evaluation__games="[]", evaluation__exploitability="[]")
    assert result.status == 1
    last = result.err.splitlines()[-1]
    assert last.startswith(f"spiral: this process does not hold {path} any more: process 7 on elsewhere has held it ")
    assert [row["step"] for row in read_metrics(path)] == [1]
    names = [entry.name for directory in ("checkpoints", "episodes") for entry in (path / directory).iterdir()]
    assert not [name for name in names if "000002" in name]
    assert json.loads((path / ".lock.owner").read_bytes())["pid"] == 7


def test_a_directory_in_which_nothing_was_written_is_left_as_it_was(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for path in (tmp_path / "a" / "b", tmp_path / "empty", tmp_path / "full"):
        with run_held(path), run_held(path):
            assert (path / ".lock").exists()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "empty", "full", "full/.lock", "full/file",
    ]  # fmt: skip


def test_a_holder_that_may_be_suspended_is_reported(tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.mkdir()
    with held_elsewhere(path / ".lock"):
        monkeypatch.setattr("spiral.core.locks._silent_seconds", lambda _: 90.0)
        with pytest.raises(RunHeldError, match=r"has not updated its lock for 90 s, .* gone, remove .*/\.lock$"):
            hold_run(path)


def test_a_copy_of_a_running_run_is_not_locked(tmp_path):
    path, copy = tmp_path / "run", tmp_path / "copy"
    path.mkdir()
    with held_elsewhere(path / ".lock"):
        shutil.copytree(path, copy)
        assert (copy / ".lock.owner").exists()
        with pytest.raises(RunHeldError):
            hold_run(path)
        hold_run(copy).release()


def test_it_is_free_at_the_end_of_a_command(tmp_path):
    path = tmp_path / "run"
    assert tiny_run(path, evaluation__games="[]", evaluation__exploitability="[]").status == 0
    hold_run(path).release()
    assert spiral("train", "--resume", "--run-dir", str(path)).status == 0
