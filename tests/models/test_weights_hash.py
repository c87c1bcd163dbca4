"""Results are keyed by the weights that were evaluated, in whatever format they are stored."""

import hashlib
import os

import pytest

from spiral.models import weights_hash
from spiral.models.weights_hash import settings_sha256, weights_in_manifest, weights_sha256


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    weights_hash._known.cache_clear()


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "model-00001-of-00002.safetensors",
        "pytorch_model-00001-of-00002.bin",
        "model.Q4_1.gguf",
        "adapter_model.safetensors",
        "adapter_model.bin",
        "consolidated.00.pth",
    ],
)
def test_every_format_of_weights_changes_the_hash(model, name):
    (model / "model.safetensors").write_bytes(b"base")
    (model / name).write_bytes(b"before")
    before = weights_sha256(model)
    (model / name).write_bytes(b"after!")
    assert len(before) == 64
    assert weights_sha256(model) != before


def test_a_single_file_has_its_own_hash(model):
    (model / "model.safetensors").write_bytes(b"weights")
    assert weights_sha256(str(model)) == hashlib.sha256(b"weights").hexdigest()


def test_shards_have_one_hash_of_their_hashes(model):
    for number in (1, 2):
        (model / f"model-{number}.safetensors").write_bytes(b"%d" % number)
    parts = "".join(hashlib.sha256(b"%d" % number).hexdigest() for number in (1, 2))
    assert weights_sha256(model) == hashlib.sha256(parts.encode()).hexdigest()


def test_a_manifest_tells_the_same_hash(model):
    for names in (["model.safetensors"], ["model-2.safetensors", "model-1.safetensors"]):
        for name in names:
            (model / name).write_bytes(name.encode())
        files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in model.iterdir()}
        manifest = {"config.json": "x", "optimizer.pt": "y", "reference/model.safetensors": "z", **files}
        assert weights_in_manifest(manifest) == weights_sha256(model)
    assert weights_in_manifest({"config.json": "x"}) is None


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "README.md"])
def test_what_a_trainer_leaves_is_no_weight(model, name):
    (model / name).write_bytes(b"anything")
    assert weights_sha256(model) is None


@pytest.mark.parametrize("name", ["org/model", "nowhere", ""])
def test_a_model_that_is_not_here_has_no_hash(model, monkeypatch, name):
    monkeypatch.chdir(model)
    assert weights_sha256(name) is None


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_what_decides_about_the_computation_besides_weights_has_a_hash(model, name):
    assert settings_sha256(model) is None
    (model / name).write_text("{}")
    before = settings_sha256(model)
    (model / name).write_text('{"rope_theta": 1}')
    assert settings_sha256(model) != before


def _aged(path):
    """A file whose times say that it is unchanged for a while, as far as the hash looks at them."""
    os.utime(path, (1.0e9, 1.0e9))


def test_a_file_is_read_once_even_by_the_next_process(model, monkeypatch):
    file = model / "model.safetensors"
    file.write_bytes(b"weights")
    monkeypatch.setattr(weights_hash, "SETTLED_SECONDS", -1.0)
    expected = weights_sha256(model)
    monkeypatch.setattr(weights_hash, "sha256", lambda path: pytest.fail("hashed again"))
    assert weights_sha256(model) == expected
    weights_hash._known.cache_clear()  # as a new process does
    assert weights_sha256(model) == expected


def test_a_file_overwritten_with_its_old_times_is_read_again(model, monkeypatch):
    file = model / "pytorch_model.bin"
    file.write_bytes(b"weights")
    _aged(file)
    monkeypatch.setattr(weights_hash, "SETTLED_SECONDS", -1.0)
    before = weights_sha256(model)
    with file.open("r+b") as stream:
        stream.write(b"WEIGHTS")
    _aged(file)
    assert weights_sha256(model) == hashlib.sha256(b"WEIGHTS").hexdigest() != before


def test_what_changed_just_now_is_not_kept(model):
    (model / "model.safetensors").write_bytes(b"weights")
    weights_sha256(model)
    assert not (weights_hash.store_directory().parent / "hashes.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 3}', "\x00", '{"a": "short"}'])
def test_a_damaged_file_of_hashes_is_ignored(model, monkeypatch, content):
    monkeypatch.setattr(weights_hash, "SETTLED_SECONDS", -1.0)
    cache = weights_hash.store_directory().parent / "hashes.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    (model / "model.safetensors").write_bytes(b"weights")
    assert weights_sha256(model) == hashlib.sha256(b"weights").hexdigest()
    weights_hash._known.cache_clear()
    assert list(weights_hash._known(cache).values()) == [hashlib.sha256(b"weights").hexdigest()]
