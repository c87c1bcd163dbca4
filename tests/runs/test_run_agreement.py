"""The watch on a run's first updates, and `spiral check` as people type it."""

import copy
from pathlib import Path

import pytest
import torch

from commands import spiral as command
from families import family_model, swapped_experts
from spiral.agreement import DisagreementError
from spiral.core.steps import checkpoints_in
from spiral.inference.transformers import TransformersPolicy
from spiral.launch.lifecycle import execute, resume, start
from spiral.runs.agreement import GAP, WatchedLearner, computation, learner_options
from spiral.runs.directory import read_metrics
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


def test_every_update_is_watched():
    assert watched(1e-6, 4e-4, 4e-3, 5e-3) == 4
    with pytest.raises(DisagreementError, match=r"games of step 3.* 0\.004 nats .* explains 0\.001"):
        watched(1e-6, 1e-6, 4e-3)  # 4,000 times what it was
    with pytest.raises(DisagreementError, match=r"games of step 4, played with the weights of update 3: 0\.006 nats"):
        watched(1e-6, 1e-3, 1e-6, 0.006)
    assert watched(1e-6, 1e-3, 0.009, settings=["sampling.temperature=0.5"]) == 3
    with pytest.raises(DisagreementError, match=r"games of step 1, played with the weights of update 0: 0\.02 nats"):
        watched(0.02)
    with pytest.raises(DisagreementError, match=r"games of step 2, played with the weights of update 1: 0\.02 nats"):
        watched(1e-6, 0.02)
    with pytest.raises(DisagreementError, match="nan nats a token"):
        watched(float("nan"))
    with pytest.raises(DisagreementError, match="games of step 3"):  # a step without samples compares nothing
        watched(1e-6, None, 0.02)


def test_rounding_in_bfloat16_is_allowed_for():
    assert watched(0.03, 0.03, 0.14, settings=["model.compute=bfloat16"]) == 3
    with pytest.raises(DisagreementError, match=r"step 3.* 0\.2 nats .* explains 0\.15"):
        watched(0.03, 0.03, 0.2, settings=["model.compute=bfloat16"])
    with pytest.raises(DisagreementError, match=r"0\.4 nats .* explains 0\.15"):
        watched(0.4, settings=["model.compute=bfloat16"])


def test_what_differs_by_design_is_not_watched():
    assert watched(0.5, 0.5, settings=["sampling.top_p=0.9", "loss.old_logprobs=learner"]) == 2
    stale = ["cluster.rollout_workers=1", "cluster.schedule=overlap"]
    assert watched(1e-6, 0.5, settings=stale) == 2
    with pytest.raises(DisagreementError, match="games of step 1"):
        watched(0.5, settings=stale)


RUN = (
    "run.steps=3", "run.checkpoint_every=1", "run.snapshots=[]", "run.episodes_every=1", "run.trackers=[]",
    "sampling.max_new_tokens=4", "selfplay.episodes_per_step=2", "selfplay.games=kuhn_poker",
    "loss.kl_coefficient=0", "loss.reference_refresh_steps=0",
    "learner.warmup_steps=0", "learner.layout=auto", "evaluation.games=[]", "evaluation.opponents=[]",
)  # fmt: skip


class Copied(TransformersPolicy):
    """An engine with weights of its own, which from an update on puts two experts in each other's place."""

    first = 100

    def __init__(self, model, codec, sampling, **options):
        super().__init__(copy.deepcopy(model), codec, sampling, **(options | {"own": True}))

    def load_weights(self, weights, version):
        super().load_weights(swapped_experts(weights) if version >= self.first else weights, version)


@pytest.fixture
def experts(tokenizer, tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("spiral.inference.engines.TransformersPolicy", Copied)
    family_model("mixtral", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return load_recipe("nano", [*RUN, f"model.path={tmp_path / 'model'}"])


def trained(run):
    execute(run, lambda *_: None).close()
    rows = read_metrics(run.directory.path)
    return [{key: row[key] for key in row if not key.startswith("time/")} for row in rows]


def test_experts_in_the_wrong_place_are_found_at_launch(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(Copied, "first", 0)
    with pytest.raises(DisagreementError, match=r"transformers engine, one prompt .*: 0\.\d+ nats a token in the mean"):
        start(experts, tmp_path / "run")


def test_experts_in_the_wrong_place_are_found_in_mid_run_and_nothing_is_lost(experts, tmp_path, monkeypatch):
    whole = trained(start(experts, tmp_path / "whole"))
    assert [row["step"] for row in whole] == [1, 2, 3]
    assert max(row[GAP] for row in whole) < 1e-5
    path = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(Copied, "first", 2)
        with pytest.raises(
            DisagreementError, match=r"step 3, played with the weights of update 2: [\d.]+ nats"
        ) as found:
            trained(start(experts, path))
    assert "the last checkpoint is from before" in str(found.value)
    assert [step for step, _ in checkpoints_in(path / "checkpoints")] == [0, 1, 2]
    assert trained(resume(path)) == whole


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
    engine = ("engine.kind=vllm", "engine.sleep=true", "engine.tensor_parallel=2")
    alone, asleep, several = (computation(load_recipe("nano", engine[:count])) for count in (1, 2, 3))
    assert len({str(found) for found in (alone, asleep, several)}) == 3


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
