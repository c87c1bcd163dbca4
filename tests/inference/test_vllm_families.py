"""The column of docs/models.md about vLLM: each family plays in it, and takes new weights twice.

    SPIRAL_UPDATE_DOCS=1 make test-all PYTEST_ADDOPTS="tests/inference/test_vllm_families.py"

measures the families and writes their cells.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from families import LISTED, swapped_experts, wide_family_model
from spiral.agreement import DisagreementError
from spiral.inference.vllm import VllmPolicy
from spiral.launch.lifecycle import execute, resume, start
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe
from vllm_models import measured, save, with_vllm

pytestmark = with_vllm

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
REFUSED = {
    "qwen3-5": "vLLM cannot run .*Qwen3_5ForCausalLM",
    "lfm2": "vLLM cannot run .*'Lfm2Config' object has no attribute 'conv_dim'",
    "olmo-hybrid": "vLLM cannot run .*module 'triton' has no attribute",
}
"""Families that vLLM does not run here or computes otherwise: the error that our engine or check gives."""
RUN = (
    "run.steps=4", "run.checkpoint_every=2", "run.snapshots=[]", "run.trackers=[]", "engine.kind=vllm",
    "engine.context=256", "engine.memory_share=0.05", "engine.max_rows=64", "sampling.max_new_tokens=8",
    "selfplay.episodes_per_step=6", "loss.reference_refresh_steps=0", "learner.warmup_steps=0", "learner.layout=auto",
    "evaluation.games=[]", "evaluation.opponents=[]",
)  # fmt: skip


def rounded(nats):
    return f"{nats:.0e}" if nats else "0"


def with_cell(page, family, cell):
    """The page with another last cell in the row of a family."""
    lines = page.splitlines()
    (row,) = [index for index, line in enumerate(lines) if line.startswith(f"| {family} |")]
    lines[row] = f"{lines[row].rsplit(' | ', 1)[0]} | {cell} |"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", LISTED)
def test_a_family_plays_and_takes_new_weights_or_is_refused(name, tokenizer, tmp_path):
    if name in REFUSED:
        with pytest.raises((ValueError, RuntimeError), match=REFUSED[name]):
            measured(wide_family_model(name, len(tokenizer) + 8), tokenizer, tmp_path)
    else:
        first, *reloaded = measured(wide_family_model(name, len(tokenizer) + 8), tokenizer, tmp_path)
        assert max(first, *reloaded) < 1e-4
        if os.environ.get("SPIRAL_UPDATE_DOCS"):
            cell = f"{rounded(first)}, reloaded {rounded(max(reloaded))}"
            PAGE.write_text(with_cell(PAGE.read_text(encoding="utf-8"), LISTED[name], cell), encoding="utf-8")
    (row,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {LISTED[name]} |")]
    assert row.rsplit(" | ", 1)[1].startswith("refused: ") == (name in REFUSED)
    assert "not measured" not in row


def breaks(monkeypatch, first):
    """From the weights of update `first` on, vLLM is given two experts in each other's place."""
    load = VllmPolicy.load_weights

    def broken(policy, weights, version):
        load(policy, swapped_experts(weights) if version >= first else weights, version)

    monkeypatch.setattr(VllmPolicy, "load_weights", broken)


def recipe_of(name, tokenizer, directory):
    path = save(wide_family_model(name, len(tokenizer) + 8), tokenizer, directory)
    return load_recipe("nano", [*RUN, f"model.path={path}"])


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_experts_in_the_wrong_place_are_found_at_launch_and_in_mid_run(name, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))  # where nothing has been compared yet
    recipe, path = recipe_of(name, tokenizer, tmp_path / "model"), tmp_path / "run"
    with monkeypatch.context() as patch:
        breaks(patch, 0)
        with pytest.raises(DisagreementError, match=r"vllm engine, one prompt at a time.*nats a token in the mean"):
            start(recipe, tmp_path / "refused")
    with monkeypatch.context() as patch:
        breaks(patch, 3)
        with pytest.raises(DisagreementError, match="games of step 4, played with the weights of update 3: 0"):
            execute(start(recipe, path), lambda *_: None)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    execute(resume(path), lambda *_: None).close()
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert max(row["sampler/gap_mean"] for row in rows) < 1e-5
