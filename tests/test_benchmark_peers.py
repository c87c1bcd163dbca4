"""The benchmarks against peers: intervals and rows by hand, our side on the built-in model, and the server's end."""

import argparse
import dataclasses
import math
import subprocess
import sys

import pytest

from benchmarks import peers, spiral_selfplay
from benchmarks.rounds import Round, read_rounds, seeds, write_rounds
from benchmarks.sides import Report, Step
from spiral.core.seeds import derive_seed
from spiral.inference.transformers import TransformersPolicy
from spiral.models.nano.build import DIRECT
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec

PLAYED = Round(seconds=2.0, games=8, turns=24, prompt_tokens=2400, reply_tokens=240, illegal=2)


def test_an_interval_is_that_of_student():
    # The standard deviation of 1, 2, 3 is 1, and t of two degrees of freedom is 4.30.
    assert peers.interval([1.0, 2.0, 3.0]) == pytest.approx(4.30 / math.sqrt(3))
    assert math.isnan(peers.interval([1.0]))
    assert peers.interval([1.0, 2.0] * 8) == pytest.approx(2.26 * math.sqrt(4 / 15) / 4)


def test_a_ratio_has_the_interval_of_its_logarithm():
    assert peers.ratio([4.0, 4.0], [2.0, 2.0]) == "2.00x (2.00 to 2.00)"
    assert peers.ratio([3.0], [2.0, 2.0]) == "1.50x"
    # Logarithms 0 and 1 against 0 and 0: a difference of 0.5 with a standard error of 0.5.
    low, high = math.exp(0.5 - 12.71 * 0.5), math.exp(0.5 + 12.71 * 0.5)
    assert peers.ratio([1.0, math.e], [1.0, 1.0]) == f"{math.exp(0.5):.2f}x ({low:.2f} to {high:.2f})"


def test_self_play_is_compared_with_the_peer_in_the_last_row():
    slow = dataclasses.replace(PLAYED, seconds=4.0, prompt_tokens=2160)
    ours, theirs = peers.selfplay_rows({"SPIRAL": [PLAYED] * 2, "verifiers": [slow] * 2})
    assert (ours["games/s"], theirs["games/s"]) == ("4 ± 0", "2 ± 0")
    assert (ours["tokens/s"], theirs["tokens/s"]) == ("1.32e+03 ± 0", "600 ± 0")
    assert (ours["turns a game"], ours["prompt tokens a turn"], theirs["prompt tokens a turn"]) == (3, 100, 90)
    assert (ours["reply tokens a turn"], ours["illegal"]) == (10, "25%")
    assert (ours["x peer, games"], theirs["x peer, games"]) == ("2.00x (2.00 to 2.00)", "1.00x (1.00 to 1.00)")
    assert ours["x peer, tokens"] == "2.20x (2.20 to 2.20)"


def test_a_step_is_compared_with_the_fastest_trl():
    def report(seconds):
        done = Step(seconds=seconds, generate_seconds=1, games=4, samples=8, prompt_tokens=90, response_tokens=10)
        return Report(steps=[done] * 3, peak_bytes=1, versions={"torch": "2"})

    rows = peers.step_rows({"SPIRAL": report(2.0), "TRL a": report(10.0), "TRL b": report(5.0)})
    assert [row["x TRL, token"][:5] for row in rows] == ["2.50x", "0.50x", "1.00x"]
    assert (rows[0]["s/step"], rows[0]["tokens/s"], rows[0]["response tokens a sample"]) == ("2 ± 0", "50 ± 0", 1.25)
    assert [row["x TRL, token"] for row in peers.step_rows({"SPIRAL": report(2.0)})] == ["-"]


def test_spirals_side_counts_what_it_plays(nano, tmp_path):
    options = argparse.Namespace(game="kuhn_poker", games=6)
    policy = TransformersPolicy(nano.model, ChatCodec(nano.tokenizer, DIRECT), SamplingConfig(max_new_tokens=8))
    played = spiral_selfplay.play_round(policy, options, 1)
    assert (played.games, list(seeds(options, 1))) == (6, [6, 7, 8, 9, 10, 11])
    assert 12 <= played.turns <= 18
    assert played.prompt_tokens > played.reply_tokens >= played.turns
    write_rounds(tmp_path / "rounds.json", [played], {"python": "3"})
    assert read_rounds(tmp_path / "rounds.json") == ([played], {"python": "3"})


def test_both_sides_have_the_same_deals():
    verifiers = pytest.importorskip("verifiers.v1", reason="the package verifiers is not installed")
    assert verifiers
    from itertools import islice

    from spiral.integrations.verifiers import load_environment

    tasks = islice(load_environment(game="kuhn_poker", opponent="self").taskset, 3)
    assert [task.data.seed for task in tasks] == [derive_seed(0, "verifiers", number) for number in range(3)]


def test_a_server_that_ends_at_once_is_reported_and_not_waited_for(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    with pytest.raises(SystemExit, match="ended with status 3"):
        peers._wait_for("http://127.0.0.1:9/v1", ended)
    monkeypatch.setattr(peers, "START_SECONDS", 0.0)
    with pytest.raises(SystemExit, match="has not answered within 0 s"):
        peers._wait_for("http://127.0.0.1:9/v1", ended)


def test_the_options_of_the_step_are_those_of_the_step_benchmark(monkeypatch):
    asked = []
    monkeypatch.setattr(peers.step, "measured", lambda options: asked.append(options) or {})
    monkeypatch.setattr(peers, "record", lambda *arguments: None)
    peers.main(["--part", "step", "--model", "nano", "--threads", "1"])
    (options,) = asked
    assert (options.model, options.tokens, options.steps, options.engine) == ("nano", 256, 5, ["vllm"])
    assert options.trl == ["1.16.0/bfloat16", "1.16.0/float32"]
    assert options.overrides == ["prompt.thinking=true", "model.compute=bfloat16"]
