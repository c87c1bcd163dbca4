"""The watch on a run's first updates, and `spiral check` as people type it."""

from pathlib import Path

import pytest
import torch

from commands import spiral as command
from families import family_model
from spiral.agreement import DisagreementError
from spiral.runs.agreement import GAP, WatchedLearner, computation, learner_options
from spiral.runs.recipe import load_recipe


class Gaps:
    """A learner that reports the gaps it is given."""

    def __init__(self, *gaps):
        self.version, self.gaps = 0, list(gaps)

    def update(self, batch):
        self.version += 1
        gap = self.gaps.pop(0)
        return {} if gap is None else {GAP: gap}

    def weights(self):
        return iter([("a", torch.zeros(1))])


def watched(*gaps, settings=()):
    learner = WatchedLearner(Gaps(*gaps), load_recipe("nano", list(settings)))
    for _ in gaps:
        learner.update(None)
    return learner.version


def test_two_updates_are_watched():
    assert watched(1e-6, 1e-4, 0.5, 0.5) == 4
    with pytest.raises(DisagreementError, match=r"games of step 1, played with the weights of update 0: 0\.02 nats"):
        watched(0.02)
    with pytest.raises(DisagreementError, match=r"games of step 2, played with the weights of update 1: 0\.02 nats"):
        watched(1e-6, 0.02)
    with pytest.raises(DisagreementError, match="nan nats a token"):
        watched(float("nan"))
    with pytest.raises(DisagreementError, match="games of step 3"):  # a step without samples compares nothing
        watched(1e-6, None, 0.02)


def test_rounding_in_bfloat16_is_allowed_for():
    assert watched(0.03, 0.03, settings=["model.compute=bfloat16"]) == 2
    with pytest.raises(DisagreementError, match=r"0\.4 nats .* explains 0\.15"):
        watched(0.4, settings=["model.compute=bfloat16"])


def test_what_differs_by_design_is_not_watched():
    assert watched(0.5, 0.5, settings=["sampling.top_p=0.9", "loss.old_logprobs=learner"]) == 2
    stale = ["cluster.rollout_workers=1", "cluster.schedule=overlap"]
    assert watched(1e-6, 0.5, settings=stale) == 2
    with pytest.raises(DisagreementError, match="games of step 1"):
        watched(0.5, settings=stale)


def test_settings_that_can_be_at_fault():
    recipe = load_recipe("nano", ["learner.layout=packed", "learner.gradient_checkpointing=true"])
    assert learner_options(recipe) == {
        "learner.layout": "packed",
        "learner.gradient_checkpointing": True,
        "model.compile": False,
        "model.compute": "float32",
        "lora.rank": 0,
    }
    assert computation(recipe) != computation(load_recipe("nano"))


@pytest.fixture(scope="module")
def doge(tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("doge") / "model"
    family_model("doge", len(tokenizer)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def test_a_model_that_agrees():
    found = command("check", "nano", "--json")
    assert (found.status, found.err) == (0, "")
    report = found.json
    assert report["agrees"]
    assert report["error"] is None
    assert len(report["differences"]) == 5
    assert max(row["mean"] for row in report["differences"]) < 1e-5
    assert "after an update" in report["differences"][-1]["pair"]
    assert report["template"]["question_survives"]


def test_low_rank_layers_are_checked_as_a_run_has_them():
    found = command("check", "nano", "--set", "lora.rank=4", "--set", "learner.layout=packed", "--json")
    assert (found.status, found.err) == (0, "")
    pairs = [row["pair"] for row in found.json["differences"]]
    assert pairs[-2:] == [
        'learner (learner.layout = "packed", lora.rank = 4) against the plain forward pass',
        'transformers engine against the learner (learner.layout = "packed", lora.rank = 4), after an update',
    ]
    assert max(row["mean"] for row in found.json["differences"]) < 1e-5


def test_both_layouts_are_checked_where_the_learner_shards_its_model():
    found = command("check", "nano", "--compute", "bfloat16", "--json")
    assert (found.status, found.err) == (0, "")
    pairs = [row["pair"] for row in found.json["differences"]]
    assert sum(pair.startswith("learner (") for pair in pairs) == 2
    assert 1e-5 < max(row["mean"] for row in found.json["differences"]) < 0.05


def test_a_model_that_cannot_be_packed(doge):
    found = command("check", doge, "--layout", "packed")
    assert found.status == 2
    assert found.err.count("\n") == 1
    assert "nats a token in the mean" in found.err
    assert 'set learner.layout = "padded"' in found.err
    assert "too large" in found.out
    for options in ([], ["--layout", "auto"], ["--layout", "padded"]):
        assert command("check", doge, *options).out.endswith("all checks passed\n")


def test_a_missing_weight_is_shown(doge, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(doge).iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    weights[name.replace("q_proj", "q_project")] = weights.pop(name)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    found = command("check", str(broken), "--layout", "padded")
    assert found.status == 2
    assert "q_proj" in found.err
