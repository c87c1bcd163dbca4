"""Writing files: all there or not at all, on disks that lack links, fsync or renaming too."""

from __future__ import annotations

import errno
import json
import os

import pytest

from spiral.core.files import (
    point_to,
    pointed_to,
    read_json,
    remove_unfinished,
    sync,
    write_atomically,
    write_directory_atomically,
    write_jsonl,
)


def test_json_that_anybody_wrote():
    assert read_json(b'{"a": [1, 1e3, -7, null]}') == {"a": [1, 1000.0, -7, None]}
    for text, reason in (("1" * 400, "a number of 400 digits is too large"), ("[" * 50_000, "nested too deeply")):
        with pytest.raises(ValueError, match=reason):
            read_json(text)
    for text in ("1" * 5000, "{", b"\xff\x00"):
        with pytest.raises(ValueError, match=r"."):
            read_json(text)


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


def no_links(*_arguments, **_options):
    raise OSError(errno.EPERM, "Operation not permitted")


def unknown_links(*_arguments, **_options):
    raise NotImplementedError("os.symlink() not available on this platform")


@pytest.mark.parametrize("symlink", [os.symlink, no_links, unknown_links])
def test_a_pointer_is_a_link_or_a_text(symlink, monkeypatch, tmp_path):
    links = symlink is os.symlink
    monkeypatch.setattr(os, "symlink", symlink)
    assert pointed_to(tmp_path / "latest") is None
    for name in ("step-000001", "step-000002"):
        point_to(tmp_path / "latest", name)
        assert pointed_to(tmp_path / "latest") == tmp_path / name
        assert (tmp_path / "latest").is_symlink() == links
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


@pytest.mark.parametrize("text", ["step-000002", "step-000002\n", "step-000002\r\n", "\ufeffstep-000002\n"])
def test_a_pointer_that_a_person_has_written(text, tmp_path):
    (tmp_path / "latest").write_bytes(text.encode())
    assert pointed_to(tmp_path / "latest") == tmp_path / "step-000002"


def test_links_and_pointer_files_replace_each_other(monkeypatch, tmp_path):
    """A run that is moved between disks."""
    point_to(tmp_path / "latest", "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", no_links)
        point_to(tmp_path / "latest", "b")
    assert (tmp_path / "latest").read_bytes() == b"b\n"
    point_to(tmp_path / "latest", "c")
    assert os.readlink(tmp_path / "latest") == "c"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EPERM])
def test_a_disk_that_cannot_be_asked_to_write_now(code, monkeypatch, tmp_path):
    def fsync(_descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    write_jsonl(tmp_path / "records.jsonl", [{"number": 1}])
    write_directory_atomically(tmp_path / "made", lambda path: (path / "file").write_text("whole"))
    assert (tmp_path / "records.jsonl").read_text() == '{"number": 1}\n'
    assert (tmp_path / "made" / "file").read_text() == "whole"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_to_write(code, monkeypatch, tmp_path):
    def fsync(_descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(code)):
        sync(tmp_path)


def test_a_disk_that_cannot_rename_over_a_file(monkeypatch, tmp_path):
    replace = os.replace

    def refuse(source, target):
        if os.path.lexists(target):
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    for number in (1, 2, 3):
        write_jsonl(tmp_path / "records.jsonl", [{"number": number}])
        point_to(tmp_path / "latest", f"step-{number:06d}")
    assert (tmp_path / "records.jsonl").read_text() == '{"number": 3}\n'
    assert pointed_to(tmp_path / "latest") == tmp_path / "step-000003"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "records.jsonl"]


def test_temporary_names_are_never_shared(tmp_path):
    seen = []
    for _ in range(3):
        write_atomically(tmp_path / "file", lambda path: (seen.append(path.name), path.write_text("x")))
        write_directory_atomically(tmp_path / "made", lambda path: seen.append(path.name))
    assert len(set(seen)) == 6
    assert all(f".{os.getpid()}-" in name for name in seen)


def test_what_a_killed_writer_left_is_removed_and_what_it_moved_away_put_back(tmp_path):
    left = (".a.json.12-0123abcd.tmp", ".config.toml.77.tmp", ".step-000004.parquet.9.tmp")
    for name in left:
        (tmp_path / name).write_text("half")
    for name in (".step-000003.12-0123abcd.writing", ".step-000004.writing"):
        (tmp_path / name).mkdir()
    (tmp_path / ".metrics.jsonl.12-0123abcd.before").write_text("moved away")
    (tmp_path / ".b.json.12-0123abcd.before").write_text("old")
    (tmp_path / "b.json").write_text("new")
    mine = (".notes.tmp", ".x.12.tmp", ".backup.writing", ".a.12-0123abcd.tmp.txt", ".d.12-xyz.tmp")
    for name in mine:
        (tmp_path / name).write_text("the user's own")
    (tmp_path / ".e.12-0123abcd.tmp").mkdir()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*mine, ".e.12-0123abcd.tmp", "metrics.jsonl", "b.json"]
    )
    assert (tmp_path / "metrics.jsonl").read_text() == "moved away"
    assert (tmp_path / "b.json").read_text() == "new"
