"""Where local models are kept, which there are, and that their names work wherever a MODEL is asked for."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import MappingProxyType

import pytest

from commands import refused, spiral
from hub_cache import cached
from spiral.models import hub
from spiral.models import store as local_models
from spiral.models.loading import NANO_DIRECTORY, model_directory
from spiral.models.shapes import count_parameters
from spiral.models.store import FETCHABLE, get_model, hub_models, local_model_directory, store_directory


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def fetch(home, monkeypatch):
    """Makes `smollm2` fetchable by a function of the test's own."""

    def with_writer(write):
        entry = dataclasses.replace(FETCHABLE["smollm2"], write=write)
        monkeypatch.setattr(local_models, "FETCHABLE", MappingProxyType({"smollm2": entry}))

    return with_writer


def put(home: Path, name: str) -> Path:
    """A copy of the built-in model under another name."""
    return shutil.copytree(NANO_DIRECTORY, home / "models" / name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SPIRAL_HOME": "/data/spiral", "XDG_CACHE_HOME": "/cache"}, "/data/spiral/models"),
        ({"SPIRAL_HOME": "~/kept"}, "/home/me/kept/models"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/spiral/models"),
        ({"XDG_CACHE_HOME": "cache", "SPIRAL_HOME": ""}, "/home/me/.cache/spiral/models"),
        ({}, "/home/me/.cache/spiral/models"),
    ],
)
def test_where_models_are_kept(variables, expected, monkeypatch):
    for name in ("SPIRAL_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert store_directory() == Path(expected)


def test_what_counts_as_a_local_model(home):
    assert local_models.local_models() == {}
    paths = {name: put(home, name) for name in ("mine-0.1B", "another")}
    put(home, ".smollm2.4711-0123abcd.writing")
    (home / "models" / "notes").mkdir()
    assert local_models.local_models() == {"another": paths["another"], "mine-0.1B": paths["mine-0.1B"]}
    assert local_model_directory("another") == paths["another"]
    for name in ("notes", "absent", ".smollm2.writing", "", "../models/another", str(paths["another"])):
        assert local_model_directory(name) is None


def test_a_name_comes_before_a_path(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(NANO_DIRECTORY, tmp_path / "mine")
    assert model_directory("mine") == "mine"
    kept = put(home, "mine")
    assert model_directory("mine") == str(kept)
    assert model_directory("./mine") == "./mine"
    assert count_parameters("mine") == 148_480


def test_a_model_that_was_not_fetched_is_one_clear_error(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "model 'smollm2' is not here yet; to fetch it, run `spiral models get smollm2`"
    assert refused("evaluate", "smollm2", "--game", "tictactoe", "--opponent", "random") == line
    assert refused("evaluate", "random", "--game", "tictactoe", "--opponent", "smollm2") == line
    assert refused("exploitability", "smollm2", "--game", "kuhn_poker") == line
    assert refused("train", "nano", "--model", "smollm2") == line
    assert not (tmp_path / "runs").exists()


def test_a_local_model_plays(home):
    put(home, "smollm2")
    result = spiral("evaluate", "smollm2", "--game", "tictactoe", "--opponent", "random", "--episodes", "4", "--json")
    assert (result.status, result.json["episodes"]) == (0, 4)


def test_get_fetches_once(home, fetch):
    fetch(lambda directory, notify: shutil.copytree(NANO_DIRECTORY, directory, dirs_exist_ok=True))
    result = spiral("models", "get", "smollm2")
    directory = home / "models" / "smollm2"
    assert result.out == f"smollm2: 148,480 parameters, 0.7 MB, in {directory}\n"
    fetch(None)
    again = spiral("models", "get", "smollm2")
    assert (again.status, again.out, again.err) == (0, f"smollm2 is already here: {directory}\n", "")
    assert spiral("models", "get", "nano").out == f"nano is already here: {NANO_DIRECTORY}\n"


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 1)])
def test_get_leaves_nothing_behind_when_it_stops(home, fetch, error, status):
    def stops(directory: Path, notify) -> None:
        (directory / "config.json").write_text("{}")
        raise error

    fetch(stops)
    result = spiral("models", "get", "smollm2")
    assert (result.status, result.out, len(result.err.splitlines())) == (status, "", 1)
    assert list((home / "models").iterdir()) == []


def test_get_starts_afresh_after_it_was_killed(home, fetch):
    put(home, ".smollm2.4711-0123abcd.writing")
    fetch(lambda directory, notify: (directory / "config.json").write_text("{}"))
    directory = get_model("smollm2", lambda line: None)
    assert [path.name for path in directory.iterdir()] == ["config.json"]
    assert [path.name for path in (home / "models").iterdir()] == ["smollm2"]


def test_unknown_names_name_the_known_ones(home):
    assert refused("models", "get", "smolm2") == "there is no model 'smolm2' to get; expected one of smollm2"
    line = refused("evaluate", "no/such/model/", "--game", "tictactoe", "--opponent", "random")
    assert "(nano, nano-think, smollm2)" in line
    assert not home.exists()


# The Hugging Face cache.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_cached_model_is_listed_and_can_be_used_without_a_network(home, cache, monkeypatch):
    snapshot = cached(cache, "org/small-0.1B")
    assert hub_models() == {"org/small-0.1B": snapshot}
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    assert model_directory("org/small-0.1B") == str(snapshot)
    assert count_parameters("org/small-0.1B") == 148_480


@pytest.mark.parametrize(
    ("harm", "listed"),
    [
        (lambda snapshot: None, True),
        (lambda snapshot: (snapshot / "config.json").unlink(), False),
        (lambda snapshot: (snapshot / "model.safetensors").unlink(), False),
        (lambda snapshot: (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin"), True),
        (lambda snapshot: (snapshot / "model.safetensors").rename(snapshot / "adapter_model.safetensors"), False),
        # A download that broke off: the link is there, or it is not, and what it leads to is not.
        (lambda snapshot: (snapshot / "model.safetensors").resolve().unlink(), False),
        (lambda snapshot: in_parts(snapshot, '{"weight_map": {"a": "1.safetensors"}}'), True),
        (lambda snapshot: in_parts(snapshot, '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'), False),
        (lambda snapshot: in_parts(snapshot, '{"weight_map": {}}'), False),
        (lambda snapshot: in_parts(snapshot, '{"weight_map": ["1.safetensors"]}'), False),
        (lambda snapshot: in_parts(snapshot, "[]"), False),
        (lambda snapshot: in_parts(snapshot, '{"weight'), False),
    ],
)
def test_only_complete_models_of_the_cache_count(cache, harm, listed):
    other = cached(cache, "org/whole")
    snapshot = cached(cache, "org/model")
    harm(snapshot)
    assert hub_models() == ({"org/model": snapshot} if listed else {}) | {"org/whole": other}


def in_parts(snapshot: Path, index: str) -> None:
    """One part of the weights, and an index."""
    (snapshot / "model.safetensors").rename(snapshot / "1.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(index)


def test_what_a_name_alone_does_not_stand_for_is_left_out(cache):
    cached(cache, "org/data", kind="datasets")
    cached(cache, "org/pinned", ref="v1")
    assert hub_models() == {}


def test_a_cache_that_is_absent_or_broken_is_nothing(cache):
    assert hub_models() == {}
    cache.write_text("a file")
    assert hub_models() == {}
    cache.unlink()
    cache.mkdir()
    (cache / "models--org--model").write_text("a file")
    (cache / "models--org--empty").mkdir()
    (cache / "notes").mkdir()
    assert hub_models() == {}
    whole = cached(cache, "org/whole")
    assert hub_models() == {"org/whole": whole}
    (cache / "models--org--whole" / "refs" / "main").write_bytes(b"\xff")
    assert hub_models() == {}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_files_are_fetched_for_an_engine_that_reads_them_itself(kind, tmp_path, monkeypatch):
    asked = []

    def fetched(name, *, allow_patterns):
        asked.append((name, allow_patterns[-1]))
        if allow_patterns[-1] == f"*.{kind}":
            (tmp_path / f"model.{kind}").touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert hub.local_copy("org/model") == str(tmp_path)
    assert asked == [("org/model", "*.safetensors"), ("org/model", "*.bin")][: 1 if kind == "safetensors" else 2]
    assert hub.local_copy(str(tmp_path)) == str(tmp_path)
    assert len(asked) < 3
