"""What is said without a model is said without loading torch, and the front door opens lazily."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import spiral

HEAVY = ("torch", "transformers", "matplotlib", "pyarrow", "ray")
THREADS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def run(code, **environment):
    """The JSON that a new process prints last, which has nothing of the environment's settings of threads."""
    own = {key: value for key, value in os.environ.items() if key not in THREADS} | environment
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=own)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_commands_that_only_speak_load_neither_torch_nor_transformers(tmp_path):
    (tmp_path / "typo.toml").write_text("[learner]\nepoch = 3\n")
    (tmp_path / "empty.toml").write_text("this is not TOML")
    lines = [
        ["train", str(tmp_path / "typo.toml")],
        ["train", str(tmp_path / "empty.toml")],
        ["train", "nanoo"],
        ["train", "nano", "--set", "selfplay.games=connect_for"],
        ["train", "nano", "--set", "selfplay.opponents=mirror=3, mnimax=1"],
        ["train", "nano", "--dry-run", "--set", "learner.epochs=0"],
        ["train", "nano", "--model", "./nowhere"],
        ["train", "--help"],
        ["--version"],
        ["games", "--help"],
    ]
    code = f"""
import contextlib, io, json, sys
import spiral.runs.recipe
seen = []
for line in {lines!r}:
    from spiral.cli import main
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(line)
    seen.append([status, said.getvalue(), [name for name in {HEAVY!r} if name in sys.modules]])
print(json.dumps(seen))
"""
    seen = run(code)
    assert [loaded for _, _, loaded in seen] == [[]] * len(lines)
    assert [status for status, _, _ in seen] == [2] * 7 + [0] * 3
    words = ["did you mean 'epochs'?", "not valid TOML", "did you mean 'nano'?", "did you mean 'connect_four'?"]
    words += ["did you mean 'minimax'?", "greater than or equal to 1", "there is no model './nowhere'"]
    words += ["final_learning_rate_share", "spiral 0", "Usage"]
    assert [word in said for word, (_, said, _) in zip(words, seen, strict=True)] == [True] * len(lines)


def test_the_help_imports_no_command():
    seen = run(
        "import json, sys\n"
        "from spiral.cli import main\n"
        "status = main(['--help'])\n"
        "print(json.dumps([status, sorted(name for name in sys.modules if name.startswith('spiral.cli.')),"
        " 'pydantic' in sys.modules]))"
    )
    assert seen == [0, ["spiral.cli.app", "spiral.cli.errors"], False]


def test_the_front_door_loads_what_is_asked_for():
    seen = run(
        "import json, sys, spiral\n"
        "first = sorted(name for name in sys.modules if name.startswith('spiral'))\n"
        "game = spiral.load_game('kuhn_poker', hands=1)\n"
        "value = spiral.nash_conv(game, lambda state, player: {a: 0.5 for a in state.legal_actions()})\n"
        "print(json.dumps([first, value, 'torch' in sys.modules]))"
    )
    assert seen[0] == ["spiral"]
    assert seen[1] == pytest.approx(11 / 12)
    assert not seen[2]


def test_every_public_name_is_there():
    assert {name for name in spiral.__all__ if getattr(spiral, name) is None} == set()
    assert set(spiral.__all__) <= set(dir(spiral))
    assert callable(spiral.train)
    assert callable(spiral.play)
    assert spiral.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        spiral.trian  # noqa: B018


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["PASSIVE", None, "0"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", None, None]),
        ({"GOMP_SPINCOUNT": "1000"}, [None, "1000", None]),
        ({"KMP_BLOCKTIME": "200"}, [None, None, "200"]),
    ],
)
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(given, expected):
    code = f"import json, os, spiral; print(json.dumps([os.environ.get(name) for name in {THREADS!r}]))"
    assert run(code, **given) == expected


def test_the_files_of_a_run_are_read_without_torch(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss/policy": 0.5}\n')
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "step-000000.json").write_text('{"arena": [], "exploitability": [], "benchmarks": []}')
    code = f"""
import json, pathlib, sys
from spiral.runs.directory import read_evaluations, read_metrics
path = pathlib.Path({str(tmp_path)!r})
read = [read_metrics(path), [step for step, _ in read_evaluations(path)]]
print(json.dumps([*read, [name for name in ("torch", "transformers") if name in sys.modules]]))
"""
    assert run(code) == [[{"step": 1, "loss/policy": 0.5}], [0], []]
