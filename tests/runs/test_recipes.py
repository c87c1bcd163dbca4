"""Every built-in recipe is whole, is planned without a network, and says what the paper says where it follows it."""

from __future__ import annotations

import functools
import re
import tomllib

import pytest

from commands import refused, spiral
from spiral.models.loading import local_model
from spiral.models.shapes import ALIASES, KNOWN_MODELS, count_parameters, empty_model, known_config, model_config
from spiral.plan import check_plan, check_runnable
from spiral.runs.recipe import load_recipe, recipe_files

NAMES = [file.stem for file in recipe_files()]
PAPER = [name for name in NAMES if name.startswith(("kuhn-", "tictactoe-", "negotiation-", "multi-"))]
PUBLISHED = {
    "Qwen/Qwen3-0.6B-Base": (596_049_920, 0.596e9),
    "Qwen/Qwen3-1.7B-Base": (1_720_574_976, 1.72e9),
    "Qwen/Qwen3-4B-Base": (4_022_468_096, 4.02e9),
    "Qwen/Qwen3-8B-Base": (8_190_735_360, 8.19e9),
    "meta-llama/Llama-3.1-8B-Instruct": (8_030_261_248, 8.03e9),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (7_615_616_512, 7.62e9),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (134_515_008, 0.1345e9),
}
"""Parameters of each known model: exactly, and as its model card rounds it."""


@functools.cache
def plan_of(name):
    """The plan of a recipe as it is."""
    recipe = load_recipe(name)
    return check_plan(recipe, model_config(recipe.model.path))


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """No hub, no local copies, and no request allowed."""

    def asked():
        raise AssertionError("the hub was asked for")

    monkeypatch.setattr("spiral.models.hub.hub_answers", asked)
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


def test_the_recipes_are_those_that_are_promised():
    assert set(NAMES) >= {
        "nano",
        "nano-strong",
        "smollm2-cpu",
        "qwen3-0.6b-1gpu",
        "qwen3-1.7b-1gpu",
        "kuhn-qwen3-4b",
        "tictactoe-qwen3-4b",
        "negotiation-qwen3-4b",
        "multi-qwen3-4b",
        "multi-qwen3-8b",
        "multi-llama3.1-8b-instruct",
        "multi-r1-distill-7b",
        "kuhn-qwen3-4b-v3",
        "tictactoe-qwen3-4b-v3",
        "negotiation-qwen3-4b-v3",
        "multi-qwen3-4b-v3",
        "multi-qwen3-8b-v3",
        "multi-octothinker-8b-v3",
        "multi-llama3.1-8b-instruct-v3",
        "multi-r1-distill-7b-v3",
        "multi-qwen3-4b-instruct-2507-v3",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_planned_without_a_network(name, unreachable):
    result = spiral("train", name, "--dry-run")
    assert result.status == 0, result.err
    if "math12k" in text(name).partition("[selfplay]")[2].partition("\n[")[0]:
        said = r"warning: problems/math12k\(held_out=0\.0\): cannot load .*; prompts of up to 1024 tokens are assumed\n"
        assert re.fullmatch(said, result.err), "the lengths of problems that only the hub has are not known"
    else:
        assert result.err == ""
    assert tomllib.loads(result.out) == load_recipe(name).model_dump()
    recipe = load_recipe(name)
    assert plan_of(name).fits
    assert result.out.startswith(f"# {recipe.model.path}: {count_parameters(recipe.model.path):,} parameters\n")


@pytest.mark.parametrize("file", recipe_files(), ids=NAMES)
def test_every_recipe_says_what_it_is_and_why(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert tomllib.loads("\n".join(lines))["summary"].endswith(".")
    assert {section for section in tomllib.loads("\n".join(lines)) if section != "summary"} >= {
        "run",
        "model",
        "selfplay",
    }


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name):
    recipe = load_recipe(name)
    assert (recipe.run.steps, recipe.learner.learning_rate) == (400, 1e-6)
    assert recipe.learner.final_learning_rate_share == 1.0
    assert (recipe.learner.epochs, recipe.learner.minibatches, recipe.learner.warmup_steps) == (2, 1, 0)
    budget = 8192 if name.endswith("-v3") else 4096
    assert recipe.sampling.model_dump() == {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": budget}
    assert (recipe.loss.kl_coefficient, recipe.loss.entropy_bonus) == (0, 0)
    assert (recipe.credit.estimator, recipe.credit.options, recipe.credit.drop_zero_advantage) == ("rae", {}, True)
    assert (recipe.evaluation.every, recipe.evaluation.temperature, recipe.evaluation.top_p) == (16, 0.6, 0.95)
    assert recipe.selfplay.reward == "normalised"
    if name.endswith("-v3"):
        assert recipe.selfplay.samples_per_step == 128
        assert recipe.run.snapshots == [0, 16, 128, 256, 384, 400]
        assert "version 3 of the paper" in recipe.summary
        assert "version 3" in text(name).splitlines()[0]
        return
    turns = plan_of(name).budget.turns
    assert turns == pytest.approx(128, rel=0.06)
    assert f"about {turns:.0f} " in text(name) or f"make {turns:.0f} turns" in text(name)
    assert "version 1 of the " in text(name).splitlines()[0]


def test_no_recipe_calls_the_tokens_of_one_version_the_papers():
    for name in NAMES:
        comment = " ".join(line for line in text(name).splitlines() if line.startswith("#"))
        for match in re.finditer(r"[^.:]*(?:4,096|8,192) new tokens", comment):
            assert re.search(r"version [13]", match[0] + comment[: match.start()]), (name, match[0])


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-1gpu")])
def test_recipes_for_one_gpu_make_steps_of_the_same_size(name):
    recipe = load_recipe(name)
    assert recipe.hardware.devices == 1
    assert f"GPU of {recipe.hardware.memory_gib:.0f} GiB" in text(name)
    turns = plan_of(name).budget.turns
    assert turns == pytest.approx(128, rel=0.06)
    assert f"about {turns:.0f} turns" in text(name)


@pytest.mark.parametrize("name", ["qwen3-0.6b-1gpu", "qwen3-1.7b-1gpu", "smollm2-cpu"])
def test_what_differs_from_the_paper_is_said(name):
    """Settings of the paper that a recipe changes, and words of its comment on each."""
    recipe, paper = load_recipe(name), load_recipe("kuhn-qwen3-4b")
    words = {
        "run.steps": r"and 200 steps|30 steps",
        "sampling.temperature": "At temperature 1",
        "sampling.max_new_tokens": r"Replies of [12],\d+ tokens|answers at once",
        "engine.context": "A context of 4,096 tokens|Prompts hold",
        "loss.old_logprobs": "loss.old_logprobs",
        "learner.learning_rate": "The learning rate",
        "learner.epochs": "One pass over each batch",
        "learner.minibatches": "in two optimizer steps",
        "evaluation.every": "only before and after",
        "evaluation.temperature": "evaluated as they are played, at temperature 0.7",
        "evaluation.top_p": "top-p 0.95",
        "selfplay.reward": "Returns are paid in the games' own units",
    }
    same = ("learner.warmup_steps", "loss.kind", "loss.kl_coefficient", "loss.importance_cap", "loss.entropy_bonus")
    same += ("learner.final_learning_rate_share", "sampling.top_p", "credit.estimator", "credit.options")
    same += ("credit.drop_zero_advantage", "selfplay.max_turns")
    for setting in (*words, *same):
        section, _, key = setting.partition(".")
        got, expected = (getattr(getattr(given, section), key) for given in (recipe, paper))
        if got != expected:
            assert setting in words, f"{setting} is {got} here and {expected} in the paper"
            assert re.search(words[setting], text(name)), setting


def test_the_order_of_baseline_and_advantage_is_said():
    assert "makes advantages 0.95 times as large" in text("kuhn-qwen3-4b")


@pytest.mark.parametrize("name", [name for name in PAPER if "qwen3-4b" in name])
def test_what_the_recipes_say_of_one_large_gpu_is_so(name):
    assert "--set hardware.devices=1 --set hardware.memory_gib=140\n" in text(name)
    recipe = load_recipe(name, ["hardware.devices=1", "hardware.memory_gib=140.0"])
    assert check_plan(recipe, model_config(recipe.model.path)).fits


@pytest.mark.parametrize("name", PAPER)
def test_recipes_for_several_devices_run_as_they_are_planned(name):
    """With the settings that a start in one process is refused with."""
    recipe = load_recipe(name)
    with pytest.raises(ValueError, match="to run on") as caught:
        check_runnable(recipe)
    line = str(caught.value).partition(f"to run on {recipe.hardware.devices}, add ")[2].partition(";")[0]
    settings = [setting.strip() for setting in line.split("--set ") if setting]
    started = load_recipe(name, settings)
    assert started.cluster.rollout_workers == recipe.hardware.devices
    assert check_plan(started, model_config(recipe.model.path)).need_gib == plan_of(name).need_gib


@pytest.mark.parametrize("name", PAPER)
def test_half_of_the_devices_would_not_do(name):
    devices = load_recipe(name).hardware.devices
    assert devices in (2, 4)
    line = refused("train", name, "--dry-run", "--set", f"hardware.devices={devices // 2}")
    assert "AdamW's two moments" in line


def text(name):
    (file,) = [file for file in recipe_files() if file.stem == name]
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_known_models_have_the_published_number_of_parameters(name, unreachable):
    exact, published = PUBLISHED[name]
    assert count_parameters(name) == exact
    assert exact == pytest.approx(published, rel=2e-3)


def test_known_models_have_the_published_context_and_stop_tokens():
    contexts = {name: known_config(name).max_position_embeddings for name in KNOWN_MODELS}
    assert list(contexts.values()) == [32_768] * 4 + [131_072, 131_072, 8192]
    assert known_config("meta-llama/Llama-3.1-8B-Instruct").eos_token_id == [128_001, 128_008, 128_009]
    assert known_config("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B").sliding_window is None


def test_smollm2_is_known_under_both_names(unreachable):
    assert ALIASES == {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    assert count_parameters("smollm2") == 134_515_008
    assert known_config("someone/else") is None


def test_a_copy_that_is_here_comes_before_what_is_known(unreachable, monkeypatch, tmp_path):
    config = known_config("smollm2")
    config.num_hidden_layers = 2
    config.save_pretrained(tmp_path / "models" / "smollm2")
    assert local_model("smollm2") == tmp_path / "models" / "smollm2"
    assert count_parameters("smollm2") == 134_515_008 - 28 * 3_540_096
    cached = tmp_path / "models" / "smollm2" / "config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(cached))
    assert model_config("Qwen/Qwen3-4B-Base").num_hidden_layers == 2


def test_random_weights_can_be_built_from_a_known_shape():
    config = known_config("Qwen/Qwen3-0.6B-Base")
    config.num_hidden_layers = 1
    model = empty_model(config)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.model.layers[0].self_attn.q_proj.weight.shape == (16 * 128, 1024)


def test_a_configuration_of_something_else_is_refused():
    from transformers import ViTConfig

    with pytest.raises(ValueError, match="cannot build a model of the kind 'vit'"):
        empty_model(ViTConfig())
