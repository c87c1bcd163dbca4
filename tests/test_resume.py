"""A run that was killed and resumed is, bit for bit, the run that was never stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from killed_runs import KILLED, contents, go_on, metrics_rows, run
from spiral.launch import resume, start
from spiral.models.card import read_card
from spiral.models.loading import load_language_model, model_directory
from spiral.models.settings import ModelConfig
from spiral.policies.registry import check_model
from spiral.runs.directory import RunDirectory
from spiral.runs.recipe import load_recipe


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert run(path) == 0
    return path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed after step 7, when its last checkpoint was that of step 5."""
    path = tmp_path_factory.mktemp("runs") / "killed"
    assert run(path, "after step 7") == KILLED
    return path


@pytest.fixture
def finished(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of the finished run to do harm to."""
    return copy(uninterrupted, tmp_path)


def copy(path: Path, directory: Path) -> Path:
    return Path(shutil.copytree(path, directory / "run", symlinks=True))


def assert_same(path: Path, other: Path) -> None:
    ours, theirs = contents(path), contents(other)
    assert sorted(ours) == sorted(theirs)
    assert metrics_rows(path) == metrics_rows(other)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_the_settings_exercise_what_has_to_be_restored(uninterrupted: Path) -> None:
    """Otherwise equality below would say little."""
    rows = [json.loads(line) for line in metrics_rows(uninterrupted)]
    found = contents(uninterrupted)
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert found["checkpoints/latest"] == "step-000020"
    assert len({row["learner/learning_rate"] for row in rows}) == 20
    assert rows[0]["loss/kl_reference"] < rows[5]["loss/kl_reference"] > rows[6]["loss/kl_reference"]
    assert {"selfplay/tictactoe/turns", "selfplay/kuhn_poker/turns", "selfplay/tictactoe/player0/baseline"} <= rows[
        0
    ].keys()
    references = [found[f"checkpoints/step-{step:06d}/reference/model.safetensors"] for step in (0, 5, 10, 15)]
    assert references[0] == references[1]
    assert len(set(references)) == 3


def test_a_killed_run_goes_on_as_if_it_had_not_been(killed: Path, uninterrupted: Path, tmp_path: Path) -> None:
    path = copy(killed, tmp_path)
    assert len(metrics_rows(path)) == 7
    assert (path / "checkpoints" / "latest").readlink() == Path("step-000005")
    assert go_on(path) == 0
    assert_same(path, uninterrupted)
    assert board_steps(path) == list(range(1, 21))


def test_snapshots_are_models_that_stay(uninterrupted: Path, tmp_path: Path) -> None:
    found = contents(uninterrupted)
    snapshots = sorted((uninterrupted / "snapshots").iterdir())
    assert [path.name for path in snapshots] == [f"step-{step:06d}" for step in (0, 3, 7, 10)]
    for step in (0, 10):
        kept, whole = (found[f"{kind}/step-{step:06d}/model.safetensors"] for kind in ("snapshots", "checkpoints"))
        assert kept == whole
    assert not list((uninterrupted / "snapshots").rglob("optimizer*"))
    assert model_directory(f"{uninterrupted}@7") == str(snapshots[2])
    assert model_directory(f"{uninterrupted}@10") == str(snapshots[3]), "also where there is a checkpoint"
    assert model_directory(f"{uninterrupted}@15") == str(uninterrupted / "checkpoints" / "step-000015")
    check_model(f"{uninterrupted}@7")
    assert load_language_model(ModelConfig(path=f"{uninterrupted}@7")).prompt == load_recipe("nano").prompt
    card = read_card(snapshots[2])
    assert (card.run, card.step, card.games) == (uninterrupted.name, 7, ["tictactoe", "kuhn_poker"])
    with pytest.raises(ValueError, match=r"no checkpoint or snapshot of step 4; it has: 0, 3, 5, 7, 10, 15, 20"):
        model_directory(f"{uninterrupted}@4")
    moved = Path(shutil.copytree(snapshots[2], tmp_path / "moved"))
    check_model(str(moved))
    damaged = copy(uninterrupted, tmp_path) / "snapshots" / "step-000007"
    (damaged / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.safetensors does not match .*; remove it, or copy it again"):
        check_model(str(damaged))


@pytest.mark.parametrize(
    ("moment", "checkpoint", "left_behind"),
    [
        pytest.param("after step 12", 10, "checkpoints/step-000010/manifest.json", marks=pytest.mark.slow),
        pytest.param("during games", 10, "checkpoints/step-000010/manifest.json", marks=pytest.mark.slow),
        pytest.param("during a metrics line", 10, "checkpoints/step-000010/manifest.json", marks=pytest.mark.slow),
        pytest.param("during an episode file", 5, "episodes/.step-000010.parquet.*.tmp", marks=pytest.mark.slow),
        pytest.param(
            "during a checkpoint", 5, "checkpoints/.step-000010.*.writing/model.safetensors", marks=pytest.mark.slow
        ),
        pytest.param("before latest", 5, "checkpoints/step-000010/manifest.json", marks=pytest.mark.slow),
    ],
)
def test_it_may_be_killed_again_at_any_moment(
    moment: str, checkpoint: int, left_behind: str, killed: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    path = copy(killed, tmp_path)
    assert go_on(path, moment) == KILLED
    assert (path / "checkpoints" / "latest").readlink() == Path(f"step-{checkpoint:06d}")
    assert len(list(path.glob(left_behind))) == 1
    assert not list(path.glob("checkpoints/.*/training/optimizer.safetensors"))
    assert go_on(path) == 0
    assert_same(path, uninterrupted)
    assert board_steps(path) == list(range(1, 21))


def test_resuming_a_finished_run_changes_nothing(finished: Path, uninterrupted: Path) -> None:
    assert go_on(finished) == 0
    assert_same(finished, uninterrupted)


def test_more_steps_go_on_from_the_last(finished: Path, uninterrupted: Path) -> None:
    assert go_on(finished, "after step 22", steps=24) == KILLED
    assert go_on(finished) == 0
    rows = metrics_rows(finished)
    assert rows[:20] == metrics_rows(uninterrupted)
    assert [json.loads(row)["step"] for row in rows[20:]] == [21, 22, 23, 24]
    assert json.loads(rows[23])["learner/learning_rate"] == pytest.approx(0.2 * 2e-3)
    assert (finished / "checkpoints" / "latest").readlink() == Path("step-000024")
    with pytest.raises(ValueError, match=r"--steps 23.* has done 24 already; expected 24 or more"):
        resume(finished, steps=23)


@pytest.mark.slow
def test_at_a_constant_learning_rate_an_extended_run_is_the_longer_run(tmp_path: Path) -> None:
    settings = ("learner.final_learning_rate_share=1.0", "evaluation.every=5")
    assert run(tmp_path / "long", settings=(*settings, "run.steps=10")) == 0
    assert run(tmp_path / "short", settings=(*settings, "run.steps=5")) == 0
    assert go_on(tmp_path / "short", steps=10) == 0
    assert_same(tmp_path / "short", tmp_path / "long")


def test_a_damaged_checkpoint_names_the_last_good_one(finished: Path, uninterrupted: Path) -> None:
    checkpoints = finished / "checkpoints"
    weights = checkpoints / "step-000020" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    advice = "the last good checkpoint is step-000015; remove step-000020 and point 'latest' to step-000015 to resume"
    with pytest.raises(ValueError, match=f"step-000020 is damaged: model.safetensors does not match .*; {advice}"):
        resume(finished)
    assert metrics_rows(finished) == metrics_rows(uninterrupted), "refusing must not change anything"

    shutil.rmtree(checkpoints / "step-000020")
    with pytest.raises(ValueError, match="latest names no checkpoint; to resume, make it a link to step-000015"):
        resume(finished)
    (checkpoints / "latest").unlink()
    (checkpoints / "latest").symlink_to("step-000015")
    assert go_on(finished) == 0
    assert_same(finished, uninterrupted)


@pytest.mark.parametrize("name", ["model.safetensors", "training/optimizer.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_damage(name: str, finished: Path) -> None:
    (finished / "checkpoints" / "step-000020" / name).unlink()
    with pytest.raises(ValueError, match=f"step-000020 is damaged: {Path(name).name} cannot be read; .*step-000015"):
        resume(finished)


def test_resume_without_intact_checkpoint_suggests_new_run(finished: Path) -> None:
    for file in (finished / "checkpoints").glob("step-*/state.json"):
        file.write_text("{}")
    with pytest.raises(
        ValueError, match=r"state\.json does not match .*; no other checkpoint is whole; start a new run"
    ):
        resume(finished)


def test_a_run_is_never_started_over_another(finished: Path, uninterrupted: Path) -> None:
    with pytest.raises(ValueError, match="already holds a run; resume it with --resume"):
        start(load_recipe("nano"), finished)
    assert_same(finished, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the first checkpoint", "during the first checkpoint", "before evaluation"])
def test_a_run_killed_before_its_first_step_is_begun_again(moment: str, uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert run(path, moment) == KILLED
    assert (path / "config.toml").is_file()
    assert (path / "checkpoints" / "step-000000").is_dir() == (moment == "before evaluation")
    assert not (path / "evaluation" / "step-000000.json").exists()
    assert go_on(path) == 0
    assert_same(path, uninterrupted)


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(finished: Path, uninterrupted: Path) -> None:
    """Its results are worth more than the command line."""
    shutil.rmtree(finished / "checkpoints")
    with pytest.raises(ValueError, match="has no checkpoint to resume from, but results of steps; put its checkpoints"):
        resume(finished)
    assert metrics_rows(finished) == metrics_rows(uninterrupted)


def test_going_back_takes_back_everything_after(finished: Path) -> None:
    """Also what only a kill leaves behind: checkpoints that `latest` does not name, and temporary files."""
    leftovers = [
        ".config.toml.123.tmp",
        "episodes/.step-000005.parquet.123.tmp",
        "evaluation/.step-000010.json.123.tmp",
        "checkpoints/.latest.123.tmp",
        "checkpoints/.step-000012.writing/model.safetensors",
    ]
    for name in leftovers:
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).write_text("half")
    (finished / "notes.txt").write_text("the user's own")
    RunDirectory(finished).take_back(10)
    files = [file.relative_to(finished) for file in finished.rglob("*") if not file.is_dir()]
    assert not {str(file) for file in files} & set(leftovers)
    assert sorted(path.name for path in (finished / "checkpoints").glob("*step*")) == [
        "step-000000", "step-000005", "step-000010",
    ]  # fmt: skip
    assert sorted(path.name for path in (finished / "episodes").iterdir()) == [
        "step-000005.parquet", "step-000010.parquet",
    ]  # fmt: skip
    assert sorted(path.name for path in (finished / "evaluation").iterdir()) == [
        "step-000000", "step-000000.json", "step-000010", "step-000010.json",
    ]  # fmt: skip
    assert [json.loads(row)["step"] for row in metrics_rows(finished)] == list(range(1, 11))
    assert (finished / "notes.txt").read_text() == "the user's own"


def board_steps(path: Path) -> list[int]:
    """The steps that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    board = EventAccumulator(str(path / "tensorboard"))
    board.Reload()
    return [event.step for event in board.Scalars("rollout/games")]
