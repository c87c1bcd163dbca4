"""Writing files: lines of JSON that are all there or not at all, and locks between real processes."""

from __future__ import annotations

import json
import os
import sys

import pytest

from lock_holder import held_elsewhere
from spiral.files import locked, write_jsonl


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    with held_elsewhere(tmp_path / "lock") as process:
        yield process


def refused_by(path):
    """Who holds the lock."""
    with pytest.raises(BlockingIOError) as caught, locked(path):
        pass
    return caught.value.strerror


def test_lines_of_json(tmp_path):
    records = [{"reply": "a\u2028b\n", "share": 0.1}, {}, {"reply": "\u221a2"}]
    write_jsonl(tmp_path / "records.jsonl", iter(records))
    text = (tmp_path / "records.jsonl").read_bytes().decode()
    assert [json.loads(line) for line in text.split("\n")[:-1]] == records
    assert text.endswith('{"reply": "\u221a2"}\n')
    write_jsonl(tmp_path / "records.jsonl", [])
    assert (tmp_path / "records.jsonl").read_bytes() == b""


def test_lines_that_cannot_be_written_leave_the_old_ones(tmp_path):
    write_jsonl(tmp_path / "records.jsonl", [{"number": 1}])
    with pytest.raises(TypeError):
        write_jsonl(tmp_path / "records.jsonl", [{"number": 2}, {"number": object()}])
    assert (tmp_path / "records.jsonl").read_text() == '{"number": 1}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_lock_that_another_process_holds(tmp_path, holder):
    assert refused_by(tmp_path / "lock").startswith(f"process {holder.pid} on ")
    holder.stdin.close()
    assert holder.wait(10) == 0
    with locked(tmp_path / "lock"):
        assert refused_by(tmp_path / "lock").startswith(f"process {os.getpid()} on ")


def test_a_lock_dies_with_its_process(tmp_path, holder):
    assert str(holder.pid) in refused_by(tmp_path / "lock")
    holder.kill()
    holder.wait(10)
    with locked(tmp_path / "lock"):
        assert str(holder.pid) not in (tmp_path / "lock").read_text()


def test_a_lock_ends_with_its_block_whatever_comes(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    assert (tmp_path / "lock").read_text() == ""
    with locked(tmp_path / "lock"), locked(tmp_path / "another"):
        assert (tmp_path / "another").read_text().startswith("process ")


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(tmp_path / "lock"), locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
