"""`spiral compare` asks two models alike by default, says how, and reports every metric even for few problems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from commands import refused, spiral
from spiral.models.loading import NANO_DIRECTORY


@pytest.fixture(autouse=True)
def results_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIRAL_RESULTS")


def run_directory(path, recipe, prompt=None):
    """A run as training leaves it, with two checkpoints of the built-in model."""
    for step in ("step-000000", "step-000007"):
        saved = shutil.copytree(NANO_DIRECTORY, path / "checkpoints" / step)
        if prompt is not None:
            own = json.loads((saved / "spiral.json").read_text())["prompt"]
            (saved / "spiral.json").write_text(json.dumps({"prompt": {**own, **prompt}}))
    (path / "checkpoints" / "latest").symlink_to("step-000007")
    (path / "config.toml").write_text(recipe)
    return str(path)


def compare(a, b, *more):
    """The JSON of a comparison in four hands of poker, and how each side's games were asked for."""
    arguments = ("compare", a, b, "--game", "kuhn_poker", "--episodes", "4", "--out", "kept", *more)
    result = spiral(*arguments, "--json")
    assert (result.status, result.err) == (0, "")
    return result.json


def asked_in(directory="kept"):
    """Prompt and sampling of every model that played, by its name, as the results say."""
    found = {}
    for file in Path(directory).glob("evaluate-*/result.json"):
        model = json.loads(file.read_text())["settings"]["model"]
        found.setdefault(model["name"], []).append({**model["prompt"], **model["sampling"]})
    return found


def test_a_base_model_is_asked_as_the_run(tmp_path):
    run = run_directory(
        tmp_path / "run", "[sampling]\ntemperature = 0.5\nmax_new_tokens = 99\n", {"example": True, "thinking": True}
    )
    result = compare("nano", run)
    (base,), (trained,) = (asked_in()[name] for name in ("nano", run))
    assert base == trained
    assert (base["example"], base["thinking"], base["temperature"], base["max_new_tokens"]) == (True, True, 0.5, 99)
    assert result["notes"] == []
    assert result["asked_alike"]["like"] == run
    assert result["asked_alike"]["sampling"]["temperature"] == 0.5
    assert {row["difference"] for row in result["rows"]} == {0.0}, "the same weights, asked alike, play the same games"
    # The other way round it is still the run's.
    assert compare(run, "nano")["asked_alike"]["like"] == run


def test_a_line_states_the_prompt_and_sampling_first(tmp_path):
    run = run_directory(tmp_path / "run", "[sampling]\ntemperature = 0.5\nmax_new_tokens = 9\n", {"example": True})
    said = spiral("compare", "nano", run, "--game", "kuhn_poker", "--episodes", "4", "--temperature", "0.25").out
    assert said.splitlines()[0] == (
        f"Both models get the same prompt and sampling, as {run} was trained: chat template, compact observations,"
        " without thinking, with an example, temperature 0.25, at most 9 new tokens, engine transformers."
        " nano was trained with example False; --each-as-trained uses that."
    )
    assert "Note:" not in said
    other = spiral("compare", "nano", "random", "--game", "kuhn_poker", "--episodes", "4").out
    assert "same prompt and sampling" not in other


def test_of_two_runs_the_second_decides_and_differences_are_noted(tmp_path):
    first = run_directory(tmp_path / "one", "[sampling]\ntemperature = 1.0\nmax_new_tokens = 9\n")
    second = run_directory(tmp_path / "two", "[sampling]\ntemperature = 0.5\nmax_new_tokens = 9\n")
    said = spiral("compare", first, second, "--game", "kuhn_poker", "--episodes", "4", "--out", "kept").out
    assert f"as {second} was trained" in said.splitlines()[0]
    assert f"{first} was trained with temperature 1.0; --each-as-trained" in said.splitlines()[0]
    assert [asked_in()[name][0]["temperature"] for name in (first, second)] == [0.5, 0.5]
    compare(first, second, "--each-as-trained", "--out", "each")
    assert [asked_in("each")[name][0]["temperature"] for name in (first, second)] == [1.0, 0.5]


def test_two_checkpoints_of_one_run(tmp_path):
    run = run_directory(tmp_path / "run", "[sampling]\ntemperature = 0.5\nmax_new_tokens = 9\n")
    earlier, later = (f"{run}/checkpoints/{step}" for step in ("step-000000", "step-000007"))
    result = compare(earlier, later)
    assert (result["asked_alike"]["like"], result["notes"]) == (later, [])
    assert [asked_in()[name][0]["temperature"] for name in (earlier, later)] == [0.5, 0.5]


def test_options_hold_for_both(tmp_path):
    run = run_directory(tmp_path / "run", "[sampling]\nmax_new_tokens = 9\n")
    more = ("--temperature", "0.25", "--example", "--system", "Play well.", "--max-new-tokens", "95", "--thinking")
    compare("nano", run, *more)
    for (asked,) in asked_in().values():
        assert (asked["temperature"], asked["max_new_tokens"], asked["thinking"]) == (0.25, 95, True)
        assert (asked["example"], asked["system"]) == (True, "Play well.")


@pytest.mark.parametrize("command", ["evaluate", "exploitability"])
def test_an_example_and_a_system_prompt_can_be_asked_for(command):
    opponent = ("--opponent", "random", "--episodes", "2") if command == "evaluate" else ()
    arguments = (command, "nano", "--game", "kuhn_poker", *opponent, "--out", "kept", "--json")
    for more, example in ((("--example", "--system", "Play."), True), (("--no-example",), False)):
        result = spiral(*arguments, *more)
        assert result.status == 0
        settings = json.loads((Path(result.json["files"]) / "result.json").read_text())["settings"]
        assert settings["model"]["prompt"]["example"] is example
        assert settings["model"]["prompt"].get("system") == ("Play." if example else None)


def test_earlier_turns_can_be_asked_for():
    arguments = ("evaluate", "nano", "--game", "kuhn_poker(hands=2)", "--opponent", "random", "--episodes", "4")
    chat = ("--history", "chat", "--history-thoughts", "keep", "--max-new-tokens", "16")
    result = spiral(*arguments, *chat, "--out", "kept", "--json")
    assert result.status == 0
    settings = json.loads((Path(result.json["files"]) / "result.json").read_text())["settings"]
    assert (settings["model"]["prompt"]["history"], settings["model"]["prompt"]["history_thoughts"]) == ("chat", "keep")
    assert "prompt.history is 'observation', which has no earlier replies" in refused(*arguments, *chat[2:])
    assert "history: got 'talk'; Input should be 'observation' or 'chat'" in refused(*arguments, "--history", "talk")
    assert "--history observation" in refused("exploitability", "nano", "--game", "kuhn_poker", *chat[:2])


def test_models_are_compared_with_the_history_of_a_run(tmp_path):
    run = run_directory(tmp_path / "run", "[sampling]\nmax_new_tokens = 16\n", {"history": "chat"})
    result = spiral("compare", "nano", run, "--game", "kuhn_poker", "--episodes", "2", "--out", "kept")
    assert result.status == 0
    assert "earlier turns as a chat, thoughts: drop" in " ".join((result.out + result.err).split())
    assert {asked["history"] for both in asked_in().values() for asked in both} == {"chat"}


def test_a_model_without_a_chat_template_gets_advice(tmp_path):
    bare = shutil.copytree(NANO_DIRECTORY, tmp_path / "bare")
    (bare / "spiral.json").unlink()
    (bare / "chat_template.jinja").unlink()
    result = spiral("compare", str(bare), "nano", "--game", "kuhn_poker", "--episodes", "2")
    assert result.status == 2
    assert "has no chat template" in result.err
    assert "--template qwen3, r1 or llama" in result.err


def test_one_problem_and_one_pair_of_games_are_compared(tmp_path):
    data = tmp_path / "one.jsonl"
    data.write_text(json.dumps({"question": "1 + 1?", "answer": "2", "id": "a"}) + "\n")
    arguments = [
        *("compare", "nano", str(NANO_DIRECTORY), "--game", "kuhn_poker", "--episodes", "2", "--task", "gsm8k"),
        *("--data", f"gsm8k={data}", "--samples", "2", "--benchmark-tokens", "4"),
    ]
    result = spiral(*arguments, "--json")
    assert (result.status, result.err) == (0, "")
    assert [row["n"] for row in result.json["rows"]] == [1, 1, 1]
    for row in result.json["rows"]:
        assert (row["difference"], row["p_value"], row["significant"]) == (0.0, None, False)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((-0.793451, 0.793451), abs=1e-6)
    assert spiral(*arguments).status == 0
