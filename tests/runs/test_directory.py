"""A run's files that are damaged or not its own, as they are read and taken back."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from spiral.core.files import set_mode
from spiral.runs.directory import RunDirectory, read_episodes, read_evaluations, read_metrics
from spiral.runs.evaluation_results import EvaluationResults, record_name

ROWS = [json.dumps({"step": step, "loss/total": step / 7}).encode() for step in range(1, 7)]


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(row + b"\n" for row in ROWS))
    return RunDirectory(tmp_path)


DAMAGES = [
    b"[1, 2]", b"7", b"null", b'"step"', b'{"a": 1}', b'{"step": "3"}', b'{"step": true}', b'{"step": 3.0}',
    b'{"step": -1}', b'{"step": null}', b'{"step": 3, "x": \xff}', b'{"step": 3, "x": 1',
    b"\0\0\0", b"", b"[" * 100_000, b'{"step": 3, "x": 1' + b"0" * 400 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
def test_a_damaged_line_costs_that_line(damage, directory, caplog):
    file = directory.metrics_file
    file.write_bytes(b"".join(row + b"\n" for row in [*ROWS[:2], damage, *ROWS[3:]]))
    with caplog.at_level(logging.WARNING, "spiral"):
        assert [row["step"] for row in read_metrics(directory.path)] == [1, 2, 4, 5, 6]
    assert f"{file}, line 3 is damaged and left out: " in caplog.text
    caplog.clear()
    directory.take_back(5)
    assert file.read_bytes() == b"".join(row + b"\n" for row in [*ROWS[:2], *ROWS[3:5]])
    assert f"{file} lacks the rows of 1 steps: 3" in caplog.text


@pytest.mark.parametrize("read", [read_metrics, read_episodes])
def test_no_run_is_an_error(read, directory):
    assert len(read_metrics(str(directory.path))) == len(ROWS)
    assert read_episodes(directory.path) == []
    empty = directory.path / "empty"
    empty.mkdir()
    for path, words in (
        (directory.path / "nodir", "there is no such directory; give a run directory"),
        (empty, "it holds none of config.toml, metrics.jsonl, episodes and checkpoints"),
        (directory.metrics_file, "which is a file; give the run directory"),
    ):
        for given in (path, str(path)):
            with pytest.raises(ValueError, match=f"no run at {re.escape(str(path))}.*{words}"):
                read(given)


@pytest.mark.parametrize("cut", [1, 2, 10, len(ROWS[-1])])
def test_a_line_cut_short_by_a_kill_is_nothing_to_warn_of(cut, directory, caplog):
    content = directory.metrics_file.read_bytes()[:-1]
    directory.metrics_file.write_bytes(content[:-cut])
    directory.take_back(5)
    assert directory.metrics_file.read_bytes() == b"".join(row + b"\n" for row in ROWS[:5])
    assert caplog.text == ""


def test_a_last_line_without_its_end_counts(directory, caplog):
    content = directory.metrics_file.read_bytes()
    directory.metrics_file.write_bytes(content[:-1])
    directory.take_back(6)
    assert directory.metrics_file.read_bytes() == content
    assert caplog.text == ""


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"7",
        b'{"arena": 1}',
        b'{"arena": [7], "exploitability": []}',
        b"[" * 99_999,
        b'{"arena": [], "exploitability": [{"game": "x", "exploitability": 1' + b"0" * 400 + b"}]}",
    ],
    ids=range(10),
)
def test_a_damaged_report_is_left_out(damage, directory, caplog):
    directory.save_evaluation(0, EvaluationResults())
    directory.save_evaluation(1_000_000, EvaluationResults())
    directory.save_evaluation(2, EvaluationResults())
    file = directory.evaluation / "step-000002.json"
    file.write_bytes(damage)
    assert [step for step, _ in read_evaluations(directory.path)] == [0, 1_000_000]
    assert f"{file} does not hold evaluation results" in caplog.text


def test_going_back_from_beyond_a_million(directory):
    for step in (999_999, 1_000_000, 1_000_001):
        (directory.checkpoints / f"step-{step:06d}").mkdir(parents=True)
        directory.save_evaluation(step, EvaluationResults())
    directory.metrics_file.unlink()
    directory.take_back(1_000_000)
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["step-1000000", "step-999999"]
    assert sorted(path.name for path in directory.evaluation.iterdir()) == ["step-1000000.json", "step-999999.json"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.toml"])
def test_a_directory_that_has_the_name_of_a_file(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} is a directory, where a run keeps a file of that name; move it away"):
        RunDirectory(tmp_path).refuse_existing()


def test_names_of_records_are_short_and_never_shared():
    taken: set[str] = set()
    labels = [
        "tictactoe-against-random",
        "tictactoe-against-minimax(depth=1)",
        "tictactoe-against-" + "/a/long/path" * 40,
        "tictactoe-against-" + "/a/long/path" * 40 + "/b",
        "tictactoe-against-runs/Foo",
        "tictactoe-against-runs/foo",
        "tictactoe-against-runs-foo",
        "\u65e5\u672c",
        "\u672c\u65e5",
    ]
    names = [record_name(label, taken) for label in labels]
    assert names[:2] == ["tictactoe-against-random", "tictactoe-against-minimax-depth=1"]
    assert len({name.casefold() for name in names}) == len(labels)
    assert max(len(name.encode()) for name in names) == 100
    assert all(names)


def test_files_without_a_run_are_not_a_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"loss": 3}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"neither config.toml nor a checkpoint of a run; choose another --run-dir"):
        RunDirectory(tmp_path).refuse_existing()


def test_a_file_system_that_refuses_modes(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    set_mode(file, 0o644)
    assert file.read_bytes() == b"1"
