"""Names of a run's files: what is a run's own, in which order, and which checkpoint is the latest."""

from __future__ import annotations

import os

import pytest

from spiral.core.steps import checkpoints_in, latest_checkpoint, numbered, step_name


def make(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)


def test_names_of_steps():
    assert [step_name(step) for step in (0, 100, 999_999, 1_000_000)] == [
        "step-000000", "step-000100", "step-999999", "step-1000000",
    ]  # fmt: skip


def test_only_exact_names_count_in_the_order_of_their_numbers(tmp_path):
    make(tmp_path, "step-1000000", "step-999999", "step-000002", "step-12345678")
    make(
        tmp_path, "step-000002.bak", "step-final", "step-2", "step-0000002", "step-00000\u0662", "step-", "step--00001"
    )
    make(tmp_path, "step-000002 (copy)", "old-step-000002", "step-000002-old", "Step-000003", "step-+00002")
    assert [step for step, _ in checkpoints_in(tmp_path)] == [2, 999_999, 1_000_000, 12_345_678]
    assert [path.name for _, path in numbered(tmp_path, ".bak")] == ["step-000002.bak"]
    (tmp_path / "step-000004").write_text("a file is no checkpoint")
    assert len(checkpoints_in(tmp_path)) == 4


def test_the_latest_is_what_the_link_names(tmp_path):
    make(tmp_path, "step-000001", "step-000002")
    (tmp_path / "latest").symlink_to("step-000001")
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000001"


def test_without_a_link_it_is_the_last(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None
    make(tmp_path, "step-999999", "step-1000000", "step-2000000.bak")
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1000000"


def test_a_checkpoint_that_was_moved_and_linked_back(tmp_path):
    make(tmp_path, "big-disk/step-000002", "run/checkpoints")
    root = tmp_path / "run" / "checkpoints"
    (root / "step-000002").symlink_to(tmp_path / "big-disk" / "step-000002")
    for target in ("step-000002", root / "step-000002"):
        (root / "latest").unlink(missing_ok=True)
        (root / "latest").symlink_to(target)
        assert latest_checkpoint(root) == root / "step-000002"


@pytest.mark.parametrize(
    "target", ["../../other/checkpoints/step-000002", "../step-000002", "/", "..", "a/step-000002"]
)
@pytest.mark.parametrize("text", [False, True])
def test_what_is_no_checkpoint_of_the_run_is_refused(target, text, tmp_path):
    make(tmp_path, "other/checkpoints/step-000002", "run/checkpoints/step-000001", "run/checkpoints/a/step-000002")
    root = tmp_path / "run" / "checkpoints"
    if text:
        (root / "latest").write_text(target)
    else:
        (root / "latest").symlink_to(target)
    if target == "..":
        assert latest_checkpoint(root) is None
        return
    with pytest.raises(ValueError, match=r"latest names .*, which is not a checkpoint of this run"):
        latest_checkpoint(root)


@pytest.mark.parametrize("text", [b"", b"\n", b"step-000009", b"\0", b"\xff\xfe", b" "])
def test_a_latest_that_names_nothing(text, tmp_path):
    make(tmp_path, "step-000001")
    (tmp_path / "latest").write_bytes(text)
    assert latest_checkpoint(tmp_path) is None


def test_a_loop_of_links_names_nothing(tmp_path):
    make(tmp_path, "step-000001")
    os.symlink("latest", tmp_path / "latest")
    assert latest_checkpoint(tmp_path) is None
