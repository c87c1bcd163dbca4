"""Full disks and damaged checkpoints: one clear line, and what was good stays good."""

from __future__ import annotations

import errno
import hashlib
import shutil
from pathlib import Path

import pytest
import safetensors

from commands import refused, spiral, tiny_run
from spiral.runs.directory import read_evaluations, read_metrics

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


def every_harm():
    """Every harm to every file. The fast tests do one to each file, in turn."""
    for number, name in enumerate(FILES):
        for turn, harm in enumerate((Path.unlink, truncate, flip_a_bit)):
            yield pytest.param(name, harm, marks=[] if turn == number % 3 else pytest.mark.slow)


def test_the_list_of_files_is_complete(trained):
    assert set(hashes(trained / "checkpoints" / "step-000002")) >= set(FILES)


@pytest.mark.parametrize(("name", "harm"), [*every_harm()])
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


@pytest.mark.parametrize(
    "text", ["", "[run]\nsteps = 'two'", "[run", "\x00", "[nonsense]", "# nothing", "[loss]\nclip = 0.3"]
)
def test_a_damaged_config(text, trained, tmp_path):
    path = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    (path / "config.toml").write_text(text)
    left = hashes(path)
    assert f"{path / 'config.toml'} " in refused("train", "--resume", "--run-dir", str(path)).replace(":", " ")
    assert f"{path / 'config.toml'} " in refused("train", "nano", "--resume", "--run-dir", str(path)).replace(":", " ")
    assert hashes(path) == left


def disk_full(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device", "some/file")


def disk_full_in_safetensors(*_arguments, **_options):
    raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("safetensors.torch.save_file", disk_full),
        pytest.param("safetensors.torch.save_file", disk_full_in_safetensors, marks=pytest.mark.slow),
        pytest.param("spiral.training.checkpoint.write_card", disk_full, marks=pytest.mark.slow),
        pytest.param("spiral.training.checkpoint.point_to", disk_full, marks=pytest.mark.slow),
        ("spiral.core.storage.pq.write_table", disk_full),
        pytest.param("spiral.core.files.sync", disk_full, marks=pytest.mark.slow),
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
    assert last.endswith(f"the last good checkpoint is step-000002; to resume: spiral train --resume --run-dir {path}")
    assert "Traceback" not in result.err
    assert hashes(path / "checkpoints" / "step-000002") == hashes(trained / "checkpoints" / "step-000002")
    assert not list(path.rglob("*.tmp"))
    assert spiral("train", "--resume", "--run-dir", str(path)).status == 0
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_tracker_on_a_full_disk_is_disabled_and_the_run_continues(trained, monkeypatch, tmp_path):
    path = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    with monkeypatch.context() as patch:
        fill_the_disk_at_step_3(patch, "torch.utils.tensorboard.writer.SummaryWriter.add_scalar", disk_full)
        result = spiral("train", "--resume", "--run-dir", str(path), "--steps", "4")
    assert result.status == 0
    warnings = [line for line in result.err.splitlines() if "tracker 'tensorboard' failed" in line]
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]


def fill_the_disk_at_step_3(patch, target, fault):
    """Nothing can be written by `target` from the moment when step 3 has been played."""
    collect = "spiral.rollout.collector.SelfPlay.collect"
    from spiral.rollout.collector import SelfPlay

    original = SelfPlay.collect

    def collected(self, step):
        if step == 3:
            patch.setattr(target, fault)
        return original(self, step)

    patch.setattr(collect, collected)


def test_a_disk_that_is_full_from_the_start(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", disk_full)
        result = tiny_run(tmp_path / "run")
    assert result.status == 1
    command = f"spiral train --resume --run-dir {tmp_path / 'run'}"
    assert result.err.splitlines()[-1] == (
        f"spiral: cannot write to {tmp_path / 'run'}: some/file: No space left on device;"
        f" there is no checkpoint yet; to begin again: {command}"
    )
    assert spiral(*command.split()[1:]).status == 0


def test_a_directory_that_cannot_be_made(monkeypatch, tmp_path):
    def denied(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", "some/run")

    monkeypatch.setattr(Path, "mkdir", denied)
    result = tiny_run(tmp_path / "run")
    assert result.status == 1
    assert result.err.splitlines() == [
        f"spiral: cannot write to {tmp_path / 'run'}: some/run: Permission denied; choose another --run-dir"
    ]


def resumed(path: Path, *arguments: str) -> list[str]:
    """What a run says that goes on to step 3."""
    result = spiral("train", "--resume", "--run-dir", str(path), "--steps", "3", *arguments)
    assert result.status == 0, result
    assert [row["step"] for row in read_metrics(path)][-1] == 3
    return [line for line in result.err.splitlines() if line.startswith("warning: ")]


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run", symlinks=True)


def test_a_damaged_line_of_metrics_costs_that_line(copied):
    file = copied / "metrics.jsonl"
    _, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b'{"step": 1, "x": \xff}\n' + second)
    warnings = resumed(copied)
    assert f"warning: {file}, line 1 is damaged and left out: no UTF-8 at byte 18" in warnings
    assert f"warning: {file} lacks the rows of 1 steps: 1" in warnings
    assert [row["step"] for row in read_metrics(copied)] == [2, 3]
    assert file.read_bytes().splitlines(keepends=True)[0] == second


@pytest.mark.slow
def test_rows_that_are_whole_stay_as_they_are(copied):
    """Also the last one, where an editor has taken the end of its line."""
    file = copied / "metrics.jsonl"
    content = file.read_bytes()
    file.write_bytes(content.rstrip(b"\n"))
    assert resumed(copied) == []
    assert file.read_bytes().startswith(content)


@pytest.mark.parametrize("step", [pytest.param("000000", marks=pytest.mark.slow), "000002"])
def test_a_damaged_report_of_the_past_bars_nothing(step, copied):
    file = copied / "evaluation" / f"step-{step}.json"
    file.write_bytes(b"\xff\xfe")
    assert any(f"{file} does not hold evaluation results" in warning for warning in resumed(copied))
    assert 3 in dict(read_evaluations(copied))


def test_what_is_missing_beside_the_checkpoints_is_made_again(copied):
    for name in ("evaluation", "episodes", "tensorboard"):
        shutil.rmtree(copied / name)
    (copied / "metrics.jsonl").unlink()
    assert resumed(copied) == [f"warning: {copied / 'metrics.jsonl'} lacks the rows of 2 steps: 1, 2"]
    assert (copied / "episodes" / "step-000003.parquet").is_file()


STRANGERS = (
    "checkpoints/step-000001.bak", "checkpoints/step-final", "checkpoints/step-000099 (copy)", "checkpoints/step-7",
    "episodes/step-000002 (copy).parquet", "evaluation/step-000004-old.json", "evaluation/step-000099-mine",
    "episodes/step-000099.parquet.bak", ".x.12.tmp/file", "checkpoints/.mine.writing",
)  # fmt: skip


def test_names_that_are_not_a_runs_own_are_left_alone(copied):
    for name in STRANGERS:
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text("the user's own")
    shutil.copytree(copied / "checkpoints" / "step-000001", copied / "checkpoints" / "step-000001.copy")
    assert resumed(copied) == []
    assert [name for name in STRANGERS if (copied / name).read_text() != "the user's own"] == []
    assert (copied / "checkpoints" / "step-000001.copy" / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["tensorboard", "episodes", "evaluation", "checkpoints/step-000099"])
def test_a_file_that_has_the_name_of_a_directory(name, copied):
    if (copied / name).exists():
        shutil.rmtree(copied / name)
    (copied / name).write_text("in the way")
    line = refused("train", "--resume", "--run-dir", str(copied), "--steps", "3")
    assert line.startswith(f"{copied / name} is ")
    assert line.endswith("move it away")


@pytest.mark.slow
def test_a_later_checkpoint_that_is_a_link_is_no_obstacle(copied, tmp_path):
    """Taking it back removes the link, not what it names."""
    root = copied / "checkpoints"
    (root / "step-000002").rename(tmp_path / "moved")
    (root / "step-000002").symlink_to(tmp_path / "moved")
    (root / "latest").unlink()
    (root / "latest").symlink_to("step-000001")
    resumed(copied)
    assert (tmp_path / "moved" / "manifest.json").is_file()
    assert not (root / "step-000002").is_symlink()


def test_an_edited_recipe_is_refused_key_by_key(copied):
    file = copied / "config.toml"
    text = file.read_text()
    for old, new in (("epochs = 1", "epochs = 3"), ("seed = 0", "seed = 8"), ("tictactoe = 1", "tictactoe = 2")):
        assert f"\n{old}" in text
        file.write_text(text.replace(f"\n{old}", f"\n{new}", 1))
        line = refused("train", "--resume", "--run-dir", str(copied), "--steps", "3")
        key = old.partition(" ")[0].replace("tictactoe", "selfplay.games")
        assert line.startswith(f"{file} was changed: ")
        assert f"{key} is " in line
        assert line.endswith("a run keeps its settings, so change them back, or start a new run")
    file.write_text(text)
    assert resumed(copied) == []


def test_a_link_to_another_runs_checkpoint_is_refused(copied, trained):
    latest = copied / "checkpoints" / "latest"
    latest.unlink()
    latest.symlink_to(trained / "checkpoints" / "step-000001")
    line = refused("train", "--resume", "--run-dir", str(copied))
    assert "which is not a checkpoint of this run" in line


def test_a_disk_without_links(monkeypatch, tmp_path):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.symlink", refuse)
    path = tmp_path / "run"
    assert tiny_run(path).status == 0
    assert (path / "checkpoints" / "latest").read_text() == "step-000002\n"
    resumed(path)
    assert (path / "checkpoints" / "latest").read_text() == "step-000003\n"
    result = spiral("evaluate", str(path), "--game", "tictactoe", "--opponent", "random", "--episodes", "2", "--json")
    assert result.json["episodes"] == 2


@pytest.mark.slow
def test_old_checkpoints_go_but_the_first_the_newest_and_what_is_not_the_runs_own(tmp_path):
    path = tmp_path / "run"
    assert tiny_run(path, run__keep_checkpoints="1").status == 0
    root = path / "checkpoints"
    assert sorted(found.name for found in root.iterdir()) == ["latest", "step-000000", "step-000002"]
    shutil.copytree(root / "step-000002", root / "step-000002.bak")
    (root / "step-000001").symlink_to(root / "step-000000")
    resumed(path)
    assert sorted(found.name for found in root.iterdir()) == [
        "latest", "step-000000", "step-000001", "step-000002.bak", "step-000003",
    ]  # fmt: skip
