"""`spiral psro`: a population of a tiny recipe, stopped and continued, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from commands import refused, spiral

SMALL = (
    "--set", "run.steps=2", "--set", "run.checkpoint_every=2", "--set", "selfplay.episodes_per_step=16",
    "--set", "learner.epochs=1", "--set", "learner.minibatches=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_population_grows_and_goes_on(here):
    first = spiral("psro", "psro-nano", "--run-dir", "one", "--iterations", "1", *SMALL, "--json")
    assert first.status == 0, first.err
    assert "0 responses: the mixture (start 100%) is exploitable by 0.4" in first.err
    found = first.json
    assert [member["name"] for member in found["members"]] == ["start", "response-001"]
    assert found["members"][1]["model"] == "one/response-001@2"
    assert found["exploitability"] == found["iterations"][-1]["exploitability"]
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["iterations"][0]["response_gain"] < found["iterations"][0]["exploitability"]
    metrics = (here / "one" / "response-001" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[-1])["against/kuhn_poker/mixture/games"] == 16
    mixed = json.loads((here / "one" / "mixture-001.json").read_text())
    assert mixed["game"] == "kuhn_poker"
    assert len(mixed["states"]) == 12
    own = [sum(shares.values()) for shares in found["iterations"][-1]["shares_by_player"]]
    assert own == pytest.approx([1, 1])

    saved = (here / "one" / "psro.json").read_bytes()
    again = spiral("psro", "psro-nano", "--run-dir", "one", "--iterations", "1", *SMALL, "--resume", "--json")
    assert again.json == found
    assert (here / "one" / "psro.json").read_bytes() == saved
    enough = spiral("psro", "psro-nano", "--run-dir", "one", "--target", "9", *SMALL, "--resume", "--json")
    assert enough.json == found, "a mixture that is good enough gets no response"

    assert "already holds a population; continue it with --resume" in refused(
        "psro", "psro-nano", "--run-dir", "one", *SMALL
    )
    changed = refused(
        "psro", "psro-nano", "--run-dir", "one", "--resume", "--solver", "uniform", *SMALL, "--set", "run.steps=3"
    )
    assert "psro.json was made with other settings: run.steps is 2 in it and 3 here; --solver is 'nash' in" in changed
    earlier = json.loads(saved)
    del earlier["iterations"][0]["shares_by_player"]
    (here / "one" / "psro.json").write_text(json.dumps(earlier))
    assert "psro.json was made by an earlier version" in refused(
        "psro", "psro-nano", "--run-dir", "one", "--resume", *SMALL
    )
    damaged = [
        (lambda found: found["members"].append(3), "members.2 is 3"),
        (lambda found: found["members"][0].pop("method"), "members.0.method is missing"),
        (lambda found: found["members"][1].update(name="other"), "its members are called start, other; expected start"),
        (lambda found: found["members"][0]["probabilities"].pop(), "start has 23 probabilities, and the game 24"),
        (lambda found: found["iterations"].clear(), "it has 0 iterations and 2 members; expected as many, or one"),
        (lambda found: found["iterations"][0].pop("payoffs"), "iterations.0.payoffs is missing"),
        (lambda found: found["iterations"][0].update(shares_by_player=[]), "iteration 0 is not of the members start"),
    ]
    for edit, words in damaged:
        found = json.loads(saved)
        edit(found)
        (here / "one" / "psro.json").write_text(json.dumps(found))
        line = refused("psro", "psro-nano", "--run-dir", "one", "--resume", *SMALL)
        assert f"psro.json is damaged: {words}" in line
    (here / "one" / "psro.json").write_text("{}")
    assert "psro.json is damaged: parts of it are missing" in refused(
        "psro", "psro-nano", "--run-dir", "one", "--resume", *SMALL
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("psro-nano", "--solver", "best"), "got the meta-solver 'best'; expected nash, alpharank, uniform"),
        (("nano",), "selfplay.games has tictactoe, kuhn_poker; a population has one game, so keep"),
        (("psro-nano", "--set", "selfplay.games={tictactoe=1}"), "tictactoe hides nothing from its players"),
        (("psro-nano", "--set", "selfplay.opponents={random=1}"), "a response plays the population; leave"),
        (("psro-nano", "--set", "sampling.temperature=0.5", "--set", "loss.old_logprobs=learner"), "at temperature 1"),
    ],
)
def test_what_has_no_population_is_refused(arguments, message, here):
    assert message in refused("psro", *arguments, "--run-dir", "two")
    assert not (here / "two").exists()


def test_a_directory_with_other_files_is_refused(here):
    (here / "three").mkdir()
    (here / "three" / "notes.txt").write_text("mine")
    assert "three is not empty; choose another --run-dir" in refused("psro", "psro-nano", "--run-dir", "three")


@pytest.mark.slow
@pytest.mark.parametrize(
    "sight", ["one/mixture-001.json", "one/response-001/checkpoints/step-000002", "one/response-002/config.toml"]
)
def test_a_killed_population_goes_on_as_if_it_had_not_been(here, sight):
    """Killed as soon as a file is there, and continued by the same command."""
    small = [*SMALL, "--set", "run.steps=4"]
    command = [sys.executable, "-m", "spiral", "psro", "psro-nano", "--run-dir", "one", "--iterations", "2", "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("whole", "killed"):
        (here / name).mkdir()
    subprocess.run([*command, *small], cwd=here / "whole", env=environment, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*command, *small], cwd=here / "killed", env=environment, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not (here / "killed" / sight).exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = json.loads((here / "killed" / "one" / "psro.json").read_text())
    assert len(before["members"]) < 3
    subprocess.run([*command, *small], cwd=here / "killed", env=environment, check=True, stdout=subprocess.DEVNULL)
    whole, killed = ((here / name / "one" / "psro.json").read_bytes() for name in ("whole", "killed"))
    assert killed == whole
    assert len(json.loads(whole)["members"]) == 3
