"""The experiments of the paper: every command is one that `spiral` takes, at both scales, without a network."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest

from spiral.cli.experiment import check_command
from spiral.experiments.experiment import load_experiment
from spiral.experiments.sweep import SCALES
from spiral.experiments.tables import Entry, Results, Table, load_tables, markdown

PAPER = Path(__file__).parents[2] / "experiments" / "paper"
FOLDERS = sorted(path.parent.name for path in PAPER.glob("*/sweep.toml"))


@pytest.fixture
def no_network(monkeypatch):
    def connect(*_):
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_every_table_and_figure_has_a_folder():
    wanted = ["F5", "F6_F9", "T10", "T11", "T12", "T13", "T1_T9", "T2_F4", "T3", "T4", "T5", "T8"]
    assert wanted == FOLDERS
    listed = re.findall(r"^\| \[(\w+)\]\(\1\) \|", (PAPER / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == wanted


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("scale", SCALES)
def test_it_resolves_and_its_table_knows_the_papers_figures(name, scale, tmp_path, no_network):
    folder = tmp_path / name
    shutil.copytree(PAPER / name, folder, ignore=shutil.ignore_patterns("results"))
    for file in (*PAPER.glob("*.toml"), *PAPER.glob("*.jsonl")):
        shutil.copy(file, tmp_path)
    experiment = load_experiment(folder, scale, None, tmp_path / "runs", check_command)
    assert all(one.job.hours_from for one in experiment.jobs if scale == "full")
    assert experiment.seeds == ((14, 42, 100) if name == "T10" else (14,))
    found, files = experiment.make_tables()
    entries = [entry for table in found if isinstance(table, Table) for entry in table.entries]
    assert {entry.value for entry in entries} == {None}
    assert all(0 <= entry.paper <= 5000 for entry in entries if entry.paper is not None)
    assert [file.suffix for file in files if file.suffix == ".png"] == []
    assert "not done" in "".join(markdown(table) for table in found)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert [part in readme for part in ("**The paper (v3).**", "**Here.**", "**On a laptop.**")] == [True] * 3


def test_table_1_has_every_arm_of_the_paper(tmp_path):
    experiment = load_experiment(PAPER / "T1_T9", "full", None, tmp_path, check_command)
    assert sum(one.job.is_run for one in experiment.jobs) == 14
    results = Results(scale="full", seeds=(14,), jobs=experiment.jobs)
    (table,) = load_tables(PAPER / "T1_T9", results)
    assert Entry(row="multi", column="mean", value=None, paper=0.445) in table.entries
    assert len(table.entries) == 19
