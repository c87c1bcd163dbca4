"""`spiral evaluate` and `spiral exploitability`, and what a MODEL can be."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from commands import refused, spiral
from spiral.games import load_game
from spiral.inference.engines import EngineConfig, Weights
from spiral.models.loading import NANO_DIRECTORY
from spiral.policies import registry
from spiral.policies.registry import DEFAULTS, PolicyOptions, load_language_policy, load_policy

RATES = ("win", "draw", "loss")


def evaluate(model, game, opponent, *more):
    """The JSON of `spiral evaluate`, which is all that it prints."""
    result = spiral("evaluate", model, "--game", game, "--opponent", opponent, "--json", *more)
    assert (result.status, result.err) == (0, "")
    return result.json


def exploitability(model, game, *more):
    result = spiral("exploitability", model, "--game", game, "--json", *more)
    assert (result.status, result.err) == (0, "")
    return result.json


@pytest.fixture
def bare_model(tmp_path):
    """The built-in model without a chat template and without a word on how it is prompted."""
    path = shutil.copytree(NANO_DIRECTORY, tmp_path / "bare")
    (path / "spiral.json").unlink()
    (path / "chat_template.jinja").unlink()
    return path


@pytest.fixture
def run_directory(tmp_path):
    """A run directory as training leaves it, with sampling of its own."""
    path = tmp_path / "run"
    shutil.copytree(NANO_DIRECTORY, path / "checkpoints" / "step-000007")
    (path / "checkpoints" / "latest").symlink_to("step-000007")
    (path / "config.toml").write_text("[sampling]\ntemperature = 0.5\nmax_new_tokens = 9\n")
    return path


def test_fields_of_evaluate():
    result = evaluate("random", "tictactoe", "minimax", "--episodes", "60")
    assert result["episodes"] == 60
    assert (result["policy"], result["opponent"], result["game"], result["seed"]) == (
        "random",
        "minimax",
        "tictactoe",
        0,
    )
    assert sum(result[rate] for rate in RATES) == pytest.approx(1)
    for rate in RATES:
        assert 0 <= result[f"{rate}_low"] <= result[rate] <= result[f"{rate}_high"] <= 1
    assert result["win"] == 0
    assert result["loss"] > 0.7
    assert (result["illegal"], result["opponent_illegal"]) == (0, 0)


def test_several_games_have_a_mean(monkeypatch):
    loaded, load = [], registry.load_language_policy
    monkeypatch.setattr(registry, "load_language_policy", lambda *given: loaded.append(given[0]) or load(*given))
    arguments = ("evaluate", "nano", "--game", "tictactoe", "--game", "kuhn_poker", "--opponent", "random")
    result = spiral(*arguments, "--episodes", "6", "--json").json
    assert [row["game"] for row in result["games"]] == ["tictactoe", "kuhn_poker"]
    assert loaded == ["nano"]
    mean = result["mean"]
    for rate in ("win", "draw", "loss", "illegal"):
        assert mean[rate] == pytest.approx(sum(row[rate] for row in result["games"]) / 2)
    assert mean["win_low"] < mean["win"] < mean["win_high"]
    alone = spiral("evaluate", "nano", "--game", "kuhn_poker", "--opponent", "random", "--episodes", "6", "--json").json
    assert {key: value for key, value in result["games"][1].items() if key in alone} == alone
    said = spiral(*arguments, "--episodes", "6").out
    assert "mean of games" in said
    assert said.count("every game in") == 2


def test_the_same_seed_gives_the_same_games():
    first = evaluate("random", "kuhn_poker", "equilibrium", "--episodes", "100", "--seed", "3")
    assert evaluate("random", "kuhn_poker", "equilibrium", "--episodes", "100", "--seed", "3") == first
    assert evaluate("random", "kuhn_poker", "equilibrium", "--episodes", "100", "--seed", "4") != first


def test_a_language_model_on_either_side():
    """The built-in model plays about as well as chance, and nearly always legally."""
    result = evaluate("nano", "tictactoe", "random", "--episodes", "60")
    turned = evaluate("random", "tictactoe", "nano", "--episodes", "60")
    assert result["policy"] == turned["opponent"] == "nano"
    assert 0.2 < result["win"] < 0.8
    assert result["illegal"] < 0.2
    assert result["opponent_illegal"] == turned["illegal"] == 0


def test_what_people_see():
    result = spiral("evaluate", "minimax", "--game", "tictactoe", "--opponent", "minimax", "--episodes", "10")
    assert result.status == 0
    assert "minimax against minimax: 10 games of tictactoe" in result.out
    assert "100% (72 to 100)" in result.out
    assert (
        "Mean return of minimax, in points a game: +0.000 (+0.000 to +0.000); +0.000 as player 0, +0.000 as player 1."
        in result.out
    )
    assert "mean return" not in result.out


@pytest.mark.parametrize(
    ("model", "game", "value"),
    [
        ("random", "kuhn_poker", 11 / 24),
        ("equilibrium", "kuhn_poker", 0),
        ("random", "tictactoe", 0.9598296957671957),
        ("minimax", "tictactoe", 0),
    ],
)
def test_known_exploitabilities(model, game, value):
    result = exploitability(model, game)
    assert result["exploitability"] == pytest.approx(value, abs=1e-9)
    assert result["nash_conv"] == pytest.approx(2 * value, abs=1e-9)
    assert (result["method"], result["illegal_mass"], result["game"]) == ("exact", 0, game)


def test_a_language_model_is_scored_or_sampled():
    scored = exploitability("nano", "kuhn_poker")
    assert scored["method"] == "scored"
    assert 0 < scored["exploitability"] < 1
    assert "exploitability_low" not in scored
    likeliest = exploitability("nano", "kuhn_poker", "--top-p", "1e-6")
    assert likeliest["exploitability"] == exploitability("nano", "kuhn_poker", "--temperature", "0")["exploitability"]
    assert likeliest["exploitability"] != scored["exploitability"]
    sampled = exploitability("nano", "kuhn_poker", "--thinking", "--samples", "10", "--max-new-tokens", "40")
    assert (sampled["method"], sampled["samples"]) == ("sampled", 10)
    assert sampled["exploitability_low"] <= sampled["exploitability"] <= sampled["exploitability_high"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["exploitability", "random", "--game", "connect_four"], "too large for exact theory"),
        (["exploitability", "random", "--game", "simple_negotiation"], "free text"),
        (
            ["exploitability", "equilibrium", "--game", "kuhn_poker(hands=5)"],
            "equilibrium cannot play kuhn_poker(hands=5)",
        ),
        (["exploitability", "minimax(depth=4)", "--game", "tictactoe"], "use minimax without a depth"),
        (["exploitability", "minimax", "--game", "kuhn_poker"], "minimax needs a game of perfect information"),
        (["exploitability", "random", "--game", "kuhn_poker", "--samples", "0"], "--samples"),
        (["exploitability", "nano", "--game", "kuhn_poker", "--top-p", "2"], "top-p: got 2"),
        (["evaluate", "minimax", "--game", "kuhn_poker", "--opponent", "random"], "minimax needs a game"),
        (["evaluate", "equilibrium", "--game", "simple_negotiation", "--opponent", "random"], "free text"),
        (["evaluate", "minimax(depth=0)", "--game", "tictactoe", "--opponent", "random"], "got depth=0"),
        (
            ["evaluate", "random", "--game", "tictactoe", "--opponent", "random(depth=2)"],
            "only minimax takes a parameter",
        ),
        (
            ["evaluate", "nano", "--game", "tictactoe", "--opponent", "random", "--temperature", "-1"],
            "temperature: got",
        ),
        (["evaluate", "nano", "--game", "tictactoe", "--opponent", "random", "--top-p", "0"], "top-p: got 0"),
        (["evaluate", "nano", "--game", "tictactoe", "--opponent", "random", "--template", "x"], "template: got 'x'"),
        (["evaluate", "nano", "--game", "tictactoe", "--opponent", "random", "--device", "abacus"], "'abacus'"),
        (["evaluate", "nano", "--game", "tictactoe", "--opponent", "random", "--compute", "int8"], "compute: got"),
    ],
)
def test_wrong_input(arguments, words):
    assert words in refused(*arguments)


def test_a_run_brings_its_prompt_and_its_sampling(run_directory):
    for name in (str(run_directory), str(run_directory / "checkpoints" / "step-000007")):
        policy = load_language_policy(name, DEFAULTS)
        assert policy.name == name
        assert (policy.sampling.temperature, policy.sampling.max_new_tokens, policy.sampling.top_p) == (0.5, 9, 1.0)
        assert policy.codec.config.observation == "compact"
        changed = load_language_policy(name, PolicyOptions(temperature=0.0, observation="full", thinking=True))
        assert (changed.sampling.temperature, changed.sampling.max_new_tokens) == (0.0, 9)
        assert (changed.codec.config.observation, changed.codec.config.thinking) == ("full", True)


@pytest.fixture
def engines(monkeypatch):
    """The configurations with which engines would be made."""
    made = []
    monkeypatch.setattr(
        "spiral.inference.engines.make_policy",
        lambda config, *_, **options: made.append((config, options)) or SimpleNamespace(),
    )
    monkeypatch.setattr("spiral.agreement.run_check", lambda *_, **__: None)  # of an engine that is not there
    return made


ENGINE = """
[engine]
kind = "transformers"
context = 300
max_rows = 17
memory_share = 0.25
stall_seconds = 50.0
sleep = true
"""


def test_a_run_brings_its_engines_settings(run_directory, engines):
    with (run_directory / "config.toml").open("a") as config:
        config.write(ENGINE)
    run = str(run_directory)
    asked = (
        PolicyOptions(engine="vllm"),
        PolicyOptions(engine="vllm", max_new_tokens=13000),
        PolicyOptions(engine="vllm", reply_tokens=14000),
        PolicyOptions(engine="vllm", reply_tokens=14000, context=128),
        PolicyOptions(),
        PolicyOptions(context=128),
    )
    for options in asked:
        load_language_policy(run, options)
    configs = [config for config, _ in engines]
    # The same for every model that is asked likewise: what the run had set aside is less than what is likely.
    assert [config.context for config in configs] == [16384, 13000 + 4096, 14000 + 4096, 128, 0, 128]
    assert [config.kind for config in configs] == ["vllm"] * 4 + ["transformers"] * 2
    assert {(config.max_rows, config.stall_seconds, config.sleep) for config in configs} == {(17, 50.0, False)}
    assert {options["weights"] for _, options in engines} == {Weights.FIXED}
    load_language_policy("nano", PolicyOptions(engine="vllm"))
    assert engines[-1][0] == EngineConfig(kind="vllm", context=16384, memory_share=engines[-1][0].memory_share)


@pytest.mark.parametrize(("free", "share"), [(80, 0.85), (40, 0.475), (None, 0.25)])
def test_without_a_learner_vllm_may_have_most_of_a_gpu(run_directory, engines, monkeypatch, free, share):
    with (run_directory / "config.toml").open("a") as config:
        config.write(ENGINE)
    monkeypatch.setattr("torch.cuda.is_available", lambda: free is not None)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    for kind in ("vllm", "transformers"):
        load_language_policy(str(run_directory), PolicyOptions(engine=kind, device="cpu"))
    load_language_policy(str(run_directory), PolicyOptions(engine="vllm", device="cpu", alone=False))
    assert [config.memory_share for config, _ in engines] == [pytest.approx(share), 0.25, 0.25]


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "nano", "--game", "tictactoe", "--opponent", "random"],
        ["exploitability", "nano", "--game", "kuhn_poker"],
        ["compare", "nano", "random", "--game", "tictactoe"],
        ["benchmark", "nano", "--task", "gsm8k", "--data"],
    ],
    ids=lambda command: command[0],
)
def test_the_context_can_be_asked_for(command, tmp_path, monkeypatch):
    seen = []

    def noted(name, options):
        seen.append((name, options.context, options.reply_tokens))
        raise ValueError("seen enough")

    monkeypatch.setattr("spiral.policies.registry.load_language_policy", noted)
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    whole = [*command, str(problems)] if command[-1] == "--data" else command
    assert refused(*whole, "--context", "77") == "seen enough"
    assert seen == [("nano", 77, 8192 if command[0] == "benchmark" else 0)]
    assert "--context" in refused(*whole, "--context", "0")


def test_a_context_without_room_for_an_answer_is_refused():
    whole, other = (
        evaluate("nano", "tictactoe", "random", "--episodes", "4", *more) for more in ([], ["--context", "400"])
    )
    assert whole["files"] != other["files"]  # `compare` does not take the one for the other
    line = refused("evaluate", "nano", "--game", "tictactoe", "--opponent", "random", "--context", "5")
    assert "the first prompt of tictactoe has 5 tokens, the shortest answer 2, and nano takes 5 together" in line


def test_a_run_without_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert "holds no checkpoint yet" in refused(
        "evaluate", str(tmp_path), "--game", "tictactoe", "--opponent", "random"
    )


def test_a_run_whose_config_is_damaged(run_directory):
    (run_directory / "config.toml").write_text("[sampling\n")
    line = refused("evaluate", str(run_directory), "--game", "tictactoe", "--opponent", "random")
    assert "config.toml is damaged" in line


def test_a_model_that_does_not_say_how_to_prompt_it(bare_model):
    arguments = ["evaluate", str(bare_model), "--game", "tictactoe", "--opponent", "random", "--episodes", "2"]
    assert "add --template qwen3, r1 or llama" in refused(*arguments)
    template = ["--template", "qwen3", "--max-new-tokens", "4"]
    assert "moves of tictactoe has 562 tokens" in refused(*arguments, *template)
    result = spiral(*arguments, *template, "--observation", "compact", "--json")
    assert (result.status, json.loads(result.out)["episodes"]) == (0, 2)


def test_a_model_with_a_damaged_file(bare_model):
    file = bare_model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "cannot load model" in refused("exploitability", str(bare_model), "--game", "kuhn_poker")


def test_scripted_policies_come_before_directories(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("random").mkdir()
    assert load_policy("random", load_game("tictactoe")).name == "random"


def test_an_opponent_plays_as_the_model_does_or_as_its_options_say(bare_model):
    shutil.copy(NANO_DIRECTORY / "chat_template.jinja", bare_model)
    asked = ("--episodes", "20", "--temperature", "0.5", "--max-new-tokens", "300", "--no-thinking")
    games = ["evaluate", "nano", "--game", "tictactoe", "--opponent", str(bare_model), *asked, "--json"]

    def settings(*more):
        result = spiral(*games, *more)
        assert result.status == 0, result.err
        kept = json.loads((Path(result.json["files"]) / "result.json").read_text())
        return result, kept["settings"]

    plain, like = settings()
    assert like["opponent"]["sampling"] == like["model"]["sampling"]
    assert like["opponent"]["sampling"] == {"temperature": 0.5, "top_p": 1.0, "max_new_tokens": 300}
    assert like["opponent"]["prompt"] == like["model"]["prompt"]  # it reads the same tokens
    assert (plain.json["opponent_cut_off"], plain.json["cut_off"]) == (0.0, 0.0)
    short, other = settings("--opponent-max-new-tokens", "1", "--opponent-temperature", "0.0")
    assert short.json["files"] != plain.json["files"]  # a kept result is not taken for one under other settings
    assert other["opponent"]["sampling"] == {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 1}
    assert short.json["opponent_cut_off"] == 1.0
    assert short.json["opponent_replies"]["budget"] == 1
    words = "replies of the opponent .* were cut off at its budget of 1 tokens; .* raise --opponent-max-new-tokens"
    assert re.search(words, short.err)


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_options_of_an_opponent_without_effect_are_refused(command):
    models = ["nano"] if command == "evaluate" else ["nano", "random"]
    line = refused(command, *models, "--game", "tictactoe", "--opponent", "random", "--opponent-temperature", "0.5")
    assert line == "got --opponent-temperature, but random writes no text; leave it out"
