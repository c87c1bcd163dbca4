"""Full disks and damaged checkpoints: one clear line, and what was good stays good."""

from __future__ import annotations

import errno
import hashlib
import shutil
from pathlib import Path

import pytest
import safetensors

from commands import refused, spiral, tiny_run
from spiral.run_directory import RunDirectory, read_metrics

FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "reference/config.json",
    "reference/model.safetensors",
    "spiral.json",
    "state.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training/optimizer.safetensors",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "trained"
    assert tiny_run(path).status == 0
    return path


def hashes(path: Path) -> dict[str, str]:
    """Every file below `path` and what is in it."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def test_the_list_of_files_is_complete(trained):
    assert set(hashes(trained / "checkpoints" / "step-000002")) >= set(FILES)


@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip_a_bit])
@pytest.mark.parametrize("name", FILES)
def test_any_harm_to_any_file_is_noticed(name, harm, trained, tmp_path):
    path = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    harm(path / "checkpoints" / "step-000002" / name)
    left = hashes(path)
    line = refused("train", "--resume", "--run-dir", str(path), "--steps", "3")
    assert f"{path / 'checkpoints' / 'step-000002'} is damaged: " in line
    assert name == "manifest.json" or Path(name).name in line
    assert "the last good checkpoint is step-000001" in line
    assert hashes(path) == left, "nothing else was touched"
    checkpoint = str(path / "checkpoints" / "step-000002")
    assert checkpoint in refused("evaluate", checkpoint, "--game", "tictactoe", "--opponent", "random")


def test_the_checkpoint_before_is_as_good_as_it_was(trained, tmp_path):
    path = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    flip_a_bit(path / "checkpoints" / "step-000002" / "model.safetensors")
    good = str(path / "checkpoints" / "step-000001")
    result = spiral("evaluate", good, "--game", "tictactoe", "--opponent", "random", "--episodes", "2", "--json")
    assert result.json["episodes"] == 2
    shutil.rmtree(path / "checkpoints" / "step-000002")
    (path / "checkpoints" / "latest").unlink()
    (path / "checkpoints" / "latest").symlink_to("step-000001")
    assert spiral("train", "--resume", "--run-dir", str(path)).status == 0
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize("text", ["", "[run]\nsteps = 'two'", "[run", "\x00", "[nonsense]"])
def test_a_damaged_config(text, trained, tmp_path):
    path = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    (path / "config.toml").write_text(text)
    if text:
        assert "config.toml" in refused("train", "--resume", "--run-dir", str(path))
    else:
        assert "was not started from nano" in refused("train", "nano", "--resume", "--run-dir", str(path))


def disk_full(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device", "some/file")


def disk_full_in_safetensors(*_arguments, **_options):
    raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("spiral.learner.checkpoint.save_file", disk_full),
        ("spiral.learner.checkpoint.save_file", disk_full_in_safetensors),
        ("spiral.learner.checkpoint.save_prompt", disk_full),
        ("spiral.learner.checkpoint.point_to", disk_full),
        ("spiral.storage.pq.write_table", disk_full),
        ("spiral.files.sync", disk_full),
        ("torch.utils.tensorboard.writer.SummaryWriter.add_scalar", disk_full),
    ],
)
def test_a_full_disk_leaves_the_last_good_checkpoint(target, fault, trained, monkeypatch, tmp_path):
    path = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    with monkeypatch.context() as patch:
        fill_the_disk_at_step_3(patch, target, fault)
        result = spiral("train", "--resume", "--run-dir", str(path), "--steps", "4")
    assert (result.status, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith(f"spiral: cannot write to {path}: ")
    assert "No space left on device" in last
    assert last.endswith(f"the last good checkpoint is step-000002; to go on: spiral train --resume --run-dir {path}")
    assert "Traceback" not in result.err
    assert hashes(path / "checkpoints" / "step-000002") == hashes(trained / "checkpoints" / "step-000002")
    assert not list(path.rglob("*.tmp"))
    assert spiral("train", "--resume", "--run-dir", str(path)).status == 0
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]


def fill_the_disk_at_step_3(patch, target, fault):
    """Nothing can be written by `target` from the moment when step 3 has been played."""
    collect = "spiral.selfplay.SelfPlay.collect"
    from spiral.selfplay import SelfPlay

    original = SelfPlay.collect

    def collected(self, step):
        if step == 3:
            patch.setattr(target, fault)
        return original(self, step)

    patch.setattr(collect, collected)


def test_a_disk_that_is_full_from_the_start(monkeypatch, tmp_path):
    monkeypatch.setattr("spiral.learner.checkpoint.save_file", disk_full)
    result = tiny_run(tmp_path / "run")
    assert result.status == 1
    assert result.err.splitlines()[-1] == (
        f"spiral: cannot write to {tmp_path / 'run'}: some/file: No space left on device;"
        f" there is no checkpoint yet; remove {tmp_path / 'run'} and start again"
    )


def test_a_directory_that_cannot_be_made(monkeypatch, tmp_path):
    def denied(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", "some/run")

    monkeypatch.setattr(RunDirectory, "start", denied)
    result = tiny_run(tmp_path / "run")
    assert result.status == 1
    assert result.err.splitlines() == [
        f"spiral: cannot write to {tmp_path / 'run'}: some/run: Permission denied; choose another --run-dir"
    ]
