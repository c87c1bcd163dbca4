"""What there is: games, recipes, models; and that asking for it is quick."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import pytest

from commands import refused, spiral
from hub_cache import cached
from spiral.core.terminal import Terminal
from spiral.games import game_names, load_game
from spiral.models.loading import NANO_DIRECTORY
from spiral.models.store import BUILT_IN
from spiral.runs.recipe import load_recipe, recipe_files


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No local models but those that a test puts here."""
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


def test_games_as_json():
    result = spiral("games", "--json")
    rows = {row["name"]: row for row in result.json["games"]}
    assert result.status == 0
    assert list(rows)[: len(game_names())] == list(game_names())
    for name, row in rows.items():
        game = load_game(name)
        assert (row["seats"], row["summary"], row["rules"]) == (game.num_players, game.summary, game.rules)
    assert {name for name, row in rows.items() if row["seats"] > 2 and "/" not in name} == {"multi_kuhn"}
    assert {row["seats"] for name, row in rows.items() if name.startswith("problems/")} == {1}
    assert {name for name, row in rows.items() if row["exact_theory"]} >= {"tictactoe", "kuhn_poker", "leduc_poker"}
    assert not rows["connect_four"]["exact_theory"]
    assert not rows["simple_negotiation"]["exact_theory"]
    assert rows["simple_negotiation"]["free_text"]
    assert rows["kuhn_poker"]["parameters"] == {"hands": 1, "cards": 3}


def test_recipes_as_json():
    rows = spiral("recipes", "--json").json["recipes"]
    assert [row["name"] for row in rows] == [file.stem for file in recipe_files()]
    (nano,) = [row for row in rows if row["name"] == "nano"]
    assert nano["model"] == "nano"
    assert "tictactoe" in nano["games"]
    assert (nano["steps"], nano["passes"]) == (load_recipe("nano").run.steps, None)
    assert {row["name"]: (row["steps"], row["passes"]) for row in rows if row["name"].startswith("sft-")} == {
        "sft-nano": (None, 8),
        "sft-qwen3-4b": (None, 1),
    }
    assert all(row["summary"] for row in rows)


def test_models_as_json():
    listed = spiral("models", "--json").json
    row, thinker = listed["models"]
    assert (row["name"], thinker["name"]) == ("nano", "nano-think")
    assert thinker["parameters"] < 150_000
    assert thinker["bytes"] < 2_000_000
    assert row["path"] == str(NANO_DIRECTORY)
    assert row["parameters"] == 148_480
    assert 4 * row["parameters"] < row["bytes"] < 1_000_000
    assert listed["fetchable"] == ["smollm2"]


def test_local_models_are_listed_after_nano(home):
    for name in ("smollm2", "mine", "nano"):
        shutil.copytree(NANO_DIRECTORY, home / "models" / name)
    (home / "models" / "mine" / "model.safetensors").write_bytes(b"damaged")
    listed = spiral("models", "--json").json
    assert [(row["name"], row["parameters"]) for row in listed["models"]] == [
        ("nano", 148_480),
        ("nano-think", listed["models"][1]["parameters"]),
        ("mine", None),
        ("smollm2", 148_480),
    ]
    assert listed["models"][0]["path"] == str(NANO_DIRECTORY)
    assert listed["models"][3]["path"] == str(home / "models" / "smollm2")
    assert listed["fetchable"] == []
    assert "unreadable" in spiral("models").out
    assert "not fetched yet" not in spiral("models").out


def test_models_of_the_hugging_face_cache_are_listed_last(home, tmp_path):
    shutil.copytree(NANO_DIRECTORY, home / "models" / "mine")
    paths = {name: cached(tmp_path / "hub", name) for name in ("org/small", "org/large", "mine", "nano")}
    weights = paths["org/large"] / "model.safetensors"
    parts = [weights.with_name(f"model-0000{part}-of-00002.safetensors") for part in (1, 2)]
    for part in parts:
        shutil.copy(weights, part)
    weights.with_name("model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": parts[0].name, "b": parts[1].name, "c": parts[1].name}})
    )
    weights.unlink()
    listed = spiral("models", "--json").json
    assert [(row["name"], row["parameters"]) for row in listed["models"]] == [
        ("nano", 148_480),
        ("nano-think", listed["models"][1]["parameters"]),
        ("mine", 148_480),
        ("org/large", 296_960),
        ("org/small", 148_480),
    ]
    assert [row["path"] for row in listed["models"]] == [
        str(path) for path in (*BUILT_IN.values(), home / "models" / "mine", paths["org/large"], paths["org/small"])
    ]
    assert {frozenset(row) for row in listed["models"]} == {frozenset({"name", "parameters", "bytes", "path"})}
    assert listed["models"][4]["bytes"] == listed["models"][0]["bytes"]
    assert listed["fetchable"] == ["smollm2"]
    named = [line.split()[0] for line in spiral("models").out.splitlines() if " MB " in line]  # long paths are wrapped
    assert named == ["nano", "nano-think", "mine", "org/large", "org/small", "smollm2"]


def test_models_that_can_be_fetched_are_in_the_table():
    lines = spiral("models").out.splitlines()
    assert lines[4].split() == ["smollm2", "134,515,008", "272.6", "MB", "not", "fetched", "yet"]
    assert lines[5].endswith("spiral models get smollm2")


def test_models_explains_itself():
    assert "get" in spiral("models", "--help").out
    assert "4-bit" in spiral("models", "get", "--help").out


@pytest.mark.parametrize(("command", "word"), [("games", "kuhn_poker"), ("recipes", "nano"), ("models", "nano")])
def test_tables_for_people(command, word):
    result = spiral(command)
    assert (result.status, result.err) == (0, "")
    assert word in result.out


def test_listing_does_not_load_torch():
    code = "import sys; from spiral.cli import main; main(['games']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tictactoe" in done.stdout


def test_module_and_exit_status():
    done = subprocess.run([sys.executable, "-m", "spiral", "nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "spiral: No such command 'nonsense'; see `spiral --help`\n"


def test_version_and_help():
    assert spiral("--version").out.startswith("spiral 0.")
    assert spiral().out == spiral("--help").out
    for command in ("train", "evaluate", "exploitability", "play", "games", "recipes", "models"):
        assert command in spiral("--help").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gamse"], "Did you mean 'games'"),
        (["games", "--jsn"], "--json"),
        (["evaluate", "nano"], "Missing option '--game'"),
        (["evaluate", "random", "--game", "tictactoe"], "Missing option '--opponent'"),
        (["evaluate", "random", "--game", "tictactoe", "--opponent", "random", "--episodes", "x"], "--episodes"),
        (["evaluate", "random", "--game", "tictactoe", "--opponent", "random", "--episodes", "7"], "even number"),
        (["evaluate", "random", "--game", "chess", "--opponent", "random"], "there is no game 'chess'"),
        (["train"], "no recipe; give a name"),
        (["train", "nano", "--steps", "0"], "--steps"),
        (["train", "--resume"], "no run; add --run-dir DIR"),
        (["train", "nano", "--resume", "--dry-run"], "use only one of them"),
        (["train", "nanno"], "did you mean 'nano'?"),
        (["train", "no/such/file.toml"], "there is no recipe"),
        (["play", "random", "--game", "tictactoe", "--seat", "2"], "--seat"),
        (["models", "gte"], "Did you mean 'get'"),
        (["models", "get"], "Missing argument 'NAME'; see `spiral models get --help`"),
        (["models", "--json", "get", "nano"], "got --json with 'get'"),
    ],
)
def test_wrong_use_is_one_line(arguments, words):
    assert words in refused(*arguments)


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("SPIRAL_DEBUG", "1")
    result = spiral("train", "nono")
    assert result.status == 2
    assert "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1].startswith("spiral: there is no recipe 'nono'")


@pytest.mark.parametrize("width", ["80", "110"])
def test_no_name_is_broken_and_games_are_short(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    listed = spiral("games").out
    for name in game_names():
        assert any(line.startswith(f"{name} ") for line in listed.splitlines())
    assert len(listed.splitlines()) < 85
    assert max(map(len, listed.splitlines())) <= int(width)
    everything = spiral("games", "--all").out
    others = [row["name"] for row in spiral("games", "--json").json["games"] if "/" in row["name"]]
    families = {}
    for name in others:
        inner = name.partition("/")[2]
        family, in_family, _ = inner.partition("/")
        if in_family:
            families.setdefault(family, []).append(inner)
        else:
            assert inner in listed
        assert name in everything
    assert list(families) == ["reasoning_gym"]
    for family, members in families.items():
        assert f"{members[0]} and {len(members) - 1} more of {family} (" in " ".join(listed.split())


def test_recipes_say_what_they_need_and_whether_they_were_trained(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = {row["name"]: row for row in spiral("recipes", "--json").json["recipes"]}
    assert {name for name, row in rows.items() if row["trained"]} == {"nano", "nano-strong", "smollm2-cpu"}
    assert rows["nano"]["hardware"] == "a CPU"
    assert rows["qwen3-0.6b-1gpu"]["hardware"] == "1 GPU of 24 GiB"
    assert rows["multi-qwen3-8b"]["hardware"] == "4 GPUs of 80 GiB"
    lines = [line.strip() for line in spiral("recipes").out.splitlines()]
    assert max(map(len, lines)) <= 80
    for name, row in rows.items():
        assert name in lines
        assert any(f"model {row['model']};" in line for line in lines), "no name is broken"
    assert "4 GPUs of 80 GiB; 400 steps; planned, not yet trained to the end" in lines
    assert "a CPU; 300 steps; trained to the end" in lines
    assert "a CPU; 8 passes over its data; planned, not yet trained to the end" in lines
    assert "1 GPU of 140 GiB; 1 pass over its data; planned, not yet trained to the end" in lines


def test_a_reader_that_goes_early_is_no_fault_of_ours(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    console = Terminal(file=Gone())
    with pytest.raises(BrokenPipeError, match="Broken pipe"):
        console.print("x")
