"""Trackers: what they get, that one that fails costs nothing else, and runs without any."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time

import pytest

from commands import tiny_run
from made_up import new_episode
from spiral.runs.directory import read_metrics
from spiral.runs.trackers import BUILTIN, Trackers
from spiral.runs.trackers.hosted import quiet

SOURCE = """
import json


class Lines:
    def __init__(self, run_dir, name="lines"):
        self.file = (run_dir / f"{name}.jsonl").open("a")

    def config(self, recipe, first_step):
        self.write("config", recipe["model"]["path"], first_step)

    def metrics(self, step, metrics):
        self.write("metrics", step, sorted(metrics))
        metrics.clear()

    def episodes(self, step, episodes):
        self.write("episodes", step, len(episodes))

    def close(self):
        self.write("close")
        self.file.close()

    def write(self, *what):
        print(json.dumps(what), file=self.file, flush=True)


class Broken(Lines):
    def metrics(self, step, metrics):
        raise OSError(f"no network at step {step}")
"""
SILENT = {"evaluation__games": "[]", "evaluation__exploitability": "[]", "run__guards": "[]"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of trackers."""
    (tmp_path / "own_trackers.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_trackers", None)


def test_run_with_custom_trackers(own, tmp_path):
    run = tmp_path / "run"
    result = tiny_run(
        run,
        run__trackers="['own_trackers:Lines', 'own_trackers:Broken']",
        run__tracker_options="{'own_trackers:Lines' = {name = 'mine'}}",
        **SILENT,
    )
    assert result.status == 0, result.err
    mine, broken = (
        [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()] for name in ("mine", "lines")
    )
    rows = read_metrics(run)
    keys = [sorted(key for key in row if key != "step") for row in rows]
    assert mine == [
        ["config", "nano", 1],
        ["episodes", 1, 8],
        ["metrics", 1, keys[0]],
        ["episodes", 2, 8],
        ["metrics", 2, keys[1]],
        ["close"],
    ]
    assert broken == [["config", "nano", 1], ["episodes", 1, 8], ["close"]]
    (warning,) = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(
        "warning: tracker 'own_trackers:Broken' failed and gets nothing more of this run: OSError:"
    )
    assert not (run / "tensorboard").exists()
    assert len(rows) == 2, "metrics.jsonl is always kept"


def test_trackers_are_independent(caplog):
    seen = []

    class Good:
        def episodes(self, step, episodes):
            seen.append(step)

    class Bad:
        def episodes(self, step, episodes):
            raise ValueError("no")

    trackers = Trackers({"bad": Bad(), "good": Good()})
    with caplog.at_level(logging.WARNING, "spiral"):
        for step in (1, 2):
            trackers.episodes(step, [new_episode((1.0, -1.0))])
    assert seen == [1, 2]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("failure", [SystemExit(7), OSError("full")])
def test_a_tracker_that_exits_is_disabled(failure, caplog):
    class Exits:
        def metrics(self, step, metrics):
            raise failure

        def close(self):
            raise failure

    trackers = Trackers({"exits": Exits()})
    with caplog.at_level(logging.WARNING, "spiral"):
        trackers.metrics(1, {})
        trackers.metrics(2, {})
        trackers.close()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"tracker 'exits' failed and gets nothing more of this run: {type(failure).__name__}: ")


def test_a_tracker_may_be_interrupted():
    class Interrupted:
        def metrics(self, step, metrics):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trackers({"mine": Interrupted()}).metrics(1, {})


class Hangs:
    """A tracker whose server takes a request and never answers, while nothing may be printed."""

    def __init__(self, run_dir=None, *, at_once=False):
        self.calls = []
        if at_once:
            self.metrics(0, {})

    def metrics(self, step, metrics):
        self.calls.append(step)
        with quiet():
            time.sleep(30)

    def close(self):
        self.calls.append("close")


def test_a_tracker_that_hangs_holds_the_run_up_for_a_time_only(caplog, capsys):
    seen, hangs = [], Hangs()

    class Good:
        def metrics(self, step, metrics):
            seen.append((step, threading.current_thread().name))

    trackers = Trackers({"hangs": hangs, "good": Good()}, seconds=0.2)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "spiral"):
        for step in (1, 2):
            trackers.metrics(step, {})
        trackers.close()
    assert time.monotonic() - began < 10
    assert (hangs.calls, seen) == ([1], [(1, "tracker good"), (2, "tracker good")])
    assert caplog.records[0].getMessage() == (
        "tracker 'hangs' failed and gets nothing more of this run: no answer within 0.2 s (run.tracker_seconds)"
    )
    print("heard")
    assert capsys.readouterr().out == "heard\n"


def test_a_tracker_that_hangs_at_the_start_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(BUILTIN, "hangs", Hangs)
    with pytest.raises(ValueError, match=r"tracker 'hangs' cannot be made: .*no answer within 0\.1 s"):
        Trackers.from_names(["hangs"], {"hangs": {"at_once": True}}, tmp_path, seconds=0.1)


def test_a_tracker_that_cannot_be_made_is_named(tmp_path, own):
    with pytest.raises(ValueError, match="'own_trackers:Lines' has no option 'names'; did you mean"):
        Trackers.from_names(["own_trackers:Lines"], {"own_trackers:Lines": {"names": "x"}}, tmp_path)
    with pytest.raises(ValueError, match=r"tracker 'own_trackers:Lines' cannot be made: FileNotFoundError: "):
        Trackers.from_names(["own_trackers:Lines"], {}, tmp_path / "nowhere")
