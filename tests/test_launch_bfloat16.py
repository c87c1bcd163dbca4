"""Runs in bfloat16 and with LoRA, from their recipe to their last step: resumed exactly, and evaluated as they say."""

import pytest
import torch
from safetensors.torch import load_file

from spiral.launch import assemble, execute, resume, start
from spiral.runs.directory import read_metrics
from spiral.runs.evaluation_results import EvaluationResults
from spiral.runs.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = [
    "model.compute=bfloat16",
    "model.device=cpu",
    "run.checkpoint_every=2",
    "selfplay.episodes_per_step=24",
    "evaluation.games=[]",
    "evaluation.exploitability=[]",
    "learner.layout=packed",
    "learner.gradient_checkpointing=true",
]


def steps_of(path):
    """What was learned at each step, without the times."""
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in read_metrics(path)]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["lora.rank=4"]], ids=["full", "lora"])
def test_a_resumed_run_is_the_run_that_never_stopped(more, tmp_path):
    runs = {}
    for name, steps in (("whole", 4), ("parts", 2)):
        recipe = load_recipe("nano", [*SMALL, *more, f"run.steps={steps}", "learner.final_learning_rate_share=1.0"])
        run = start(recipe, tmp_path / name)
        assert run.policy.model is not run.learner.model
        execute(run, lambda *_: None)
        runs[name] = run
    execute(resume(tmp_path / "parts", 4), lambda *_: None)
    whole, parts = steps_of(tmp_path / "whole"), steps_of(tmp_path / "parts")
    assert [row["step"] for row in whole] == [1, 2, 3, 4]
    assert parts == whole
    assert all(row["sampler/gap_mean"] < 0.01 for row in whole)
    weights = [load_file(tmp_path / name / "checkpoints/step-000004/model.safetensors") for name in runs]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_evaluations_use_their_own_sampling(tmp_path, monkeypatch):
    seen = []
    recipe = load_recipe("nano", [*SMALL, "run.steps=1", "evaluation.temperature=0.5", "evaluation.top_p=0.9"])
    monkeypatch.setattr(
        "spiral.runs.evaluation.evaluate_policy",
        lambda policy, *_, **__: seen.append(policy.sampling) or EvaluationResults(),
    )
    run = assemble(recipe, tmp_path / "run")
    run.evaluate(0)
    assert (seen[0].temperature, seen[0].top_p, seen[0].max_new_tokens) == (0.5, 0.9, 8)
    assert run.policy.sampling == recipe.sampling

    def fails(*_, **__):
        raise RuntimeError("a game went wrong")

    monkeypatch.setattr("spiral.runs.evaluation.evaluate_policy", fails)
    with pytest.raises(RuntimeError, match="a game went wrong"):
        run.evaluate(0)
    assert run.policy.sampling == recipe.sampling


def test_a_plan_for_several_devices_is_not_started_on_one(tmp_path):
    with pytest.raises(ValueError, match=r"planned for 2 devices \(hardware\.devices\), but this run has 1 process"):
        start(load_recipe("nano", [*SMALL, "hardware.devices=2"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
