"""Models as opponents: what they are given by default, and one engine for each."""

import dataclasses
import pickle

import pytest

from spiral.core.policy import SamplingConfig
from spiral.games import load_game
from spiral.inference.settings import EngineConfig
from spiral.models.card import ModelCard
from spiral.models.loading import load_language_model
from spiral.models.settings import ModelConfig
from spiral.policies.opponents import OpponentConfig, Opponents, opponent_options
from spiral.policies.registry import (
    PolicyOptions,
    PolicySettings,
    _prompt,
    effective_sampling,
    engine_settings,
)
from spiral.runs.opponents import engine_share, make_opponents, planned_opponents
from spiral.runs.recipe import load_recipe
from spiral.text import PromptConfig

THINKING = PolicySettings(
    model="nano",
    prompt=PromptConfig(template="qwen3", thinking=True),
    sampling=SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=8192),
    engine=EngineConfig(kind="transformers", memory_share=0.3, max_rows=64),
)
BESIDE = PolicyOptions(device="cpu", compute="bfloat16", alone=False, setting="opponent.NAME.{}", beside=THINKING)


def test_a_model_without_a_card_is_sampled_as_the_policy_is():
    assert effective_sampling(ModelCard(), BESIDE) == THINKING.sampling
    carded = ModelCard(sampling={"temperature": 0.5, "max_new_tokens": 512}, evaluation={"top_p": 0.8})
    assert effective_sampling(carded, BESIDE) == SamplingConfig(temperature=0.5, top_p=0.8, max_new_tokens=8192)
    short = dataclasses.replace(THINKING, sampling=SamplingConfig(max_new_tokens=4))
    assert effective_sampling(ModelCard(), PolicyOptions(beside=short)).max_new_tokens == 256
    table = opponent_options("weak", OpponentConfig(max_new_tokens=64, temperature=0.0), BESIDE)
    assert effective_sampling(ModelCard(), table) == SamplingConfig(temperature=0.0, top_p=0.9, max_new_tokens=64)


def test_an_opponents_engine_is_that_of_the_run_unless_its_table_says_otherwise():
    same = engine_settings("nano", opponent_options("nano", None, BESIDE), 8192)
    assert same == THINKING.engine
    table = OpponentConfig(engine="vllm", memory_share=0.25)
    other = engine_settings("nano", opponent_options("x", table, BESIDE), 20000)
    assert (other.kind, other.memory_share, other.max_rows, other.context) == ("vllm", 0.25, 64, 24096)
    own = engine_settings("nano", opponent_options("x", OpponentConfig(engine="vllm", context=700), BESIDE), 20000)
    assert (own.context, own.memory_share) == (700, 0.3)


def test_an_engine_over_several_devices_is_one_of_vllm_alone(monkeypatch):
    run = dataclasses.replace(THINKING, engine=EngineConfig(kind="vllm", tensor_parallel=2))
    beside = dataclasses.replace(BESIDE, engine="vllm", beside=run)

    def devices(name="nano", options=beside, **changed):
        return engine_settings(name, dataclasses.replace(options, **changed), 64).tensor_parallel

    assert devices() == 2
    assert devices(engine="transformers") == 1
    for installed, expected in ((True, 2), (False, 1)):
        monkeypatch.setattr("spiral.policies.registry.vllm_installed", lambda installed=installed: installed)
        monkeypatch.setattr("spiral.inference.settings.vllm_installed", lambda installed=installed: installed)
        assert devices(engine="auto") == expected
    card = ModelCard(engine={"kind": "vllm", "tensor_parallel": 4})
    monkeypatch.setattr("spiral.policies.registry.model_card", lambda name: card)
    assert devices(options=PolicyOptions(engine="vllm")) == 4
    assert devices(options=PolicyOptions()) == 1
    assert devices(options=PolicyOptions(engine="vllm"), tensor_parallel=1) == 1
    with pytest.raises(ValueError, match=r"\(--tensor-parallel\) is 2 and engine\.kind \(--engine\) is 'transformers'"):
        devices(options=PolicyOptions(), tensor_parallel=2)


def test_a_model_without_a_card_is_prompted_as_the_policy_or_by_its_own_template():
    prompt = PromptConfig(template="r1", observation="compact", thinking=False)
    options = dataclasses.replace(BESIDE, compute="float32", beside=dataclasses.replace(THINKING, prompt=prompt))
    loaded = load_language_model(ModelConfig(path="nano", device="cpu"), weights=False)
    assert _prompt("nano", loaded, options) == PromptConfig(observation="compact", thinking=False)  # as its card says
    bare = dataclasses.replace(loaded, prompt=None)
    assert _prompt("bare", bare, options) == prompt  # the same tokens as the policy's
    bare.tokenizer.add_tokens(["<another>"])
    assert _prompt("bare", bare, options) == PromptConfig(template="chat", observation="full", thinking=False)
    bare.tokenizer.chat_template = None
    assert _prompt("bare", bare, options).template == "r1"
    chat = dataclasses.replace(THINKING, prompt=PromptConfig())
    with pytest.raises(ValueError, match=r"no chat template and no saved prompt; set opponent.x.template to qwen3"):
        _prompt("bare", bare, opponent_options("x", None, dataclasses.replace(options, beside=chat)))


def test_one_engine_serves_all_games_of_an_opponent_and_is_closed_once():
    tables = {"cold": OpponentConfig(model="nano", temperature=0.0, max_new_tokens=7)}
    opponents = pickle.loads(pickle.dumps(Opponents(PolicyOptions(device="cpu", beside=THINKING), tables)))
    tictactoe, kuhn = load_game("tictactoe"), load_game("kuhn_poker")
    cold = opponents("cold", tictactoe)
    assert opponents("cold", kuhn) is cold
    assert (cold.name, cold.sampling) == ("cold", SamplingConfig(temperature=0.0, top_p=0.9, max_new_tokens=7))
    warm = opponents("nano", kuhn)
    assert warm is not cold
    with opponents.sampled_beside(SamplingConfig(temperature=0.6, top_p=0.5, max_new_tokens=300)):
        assert warm.sampling == SamplingConfig(temperature=0.6, top_p=0.5, max_new_tokens=300)
        assert cold.sampling == SamplingConfig(temperature=0.0, top_p=0.5, max_new_tokens=7)
    assert warm.sampling == THINKING.sampling
    opponents.sleep()
    assert (warm.asleep, cold.asleep) == (True, True)
    opponents.close()
    assert opponents("nano", kuhn) is not warm


def test_models_beyond_the_recipe_reserve_no_memory():
    opponents = Opponents(PolicyOptions(engine="vllm", beside=THINKING), planned=["known"])
    assert opponents.options("known").engine == "vllm"
    assert opponents.options("runs/r1/checkpoints/step-000010").engine == "transformers"


def recipe_of(*overrides):
    return load_recipe("nano", overrides)


MIXED = "selfplay.opponents={ mirror = 0.5, cold = 0.5 }"


def test_a_recipe_describes_its_opponents():
    recipe = recipe_of(
        MIXED, "opponent.cold.model=nano", "opponent.cold.temperature=0.5", "evaluation.opponents=['random', 'nano']"
    )
    assert recipe.opponent == {"cold": OpponentConfig(model="nano", temperature=0.5)}
    assert recipe.model_dump()["opponent"] == {"cold": {"model": "nano", "temperature": 0.5}}
    assert planned_opponents(recipe) == {"cold": True, "nano": False}
    options = make_opponents(recipe).options("cold")
    assert (options.temperature, options.engine, options.compute) == (0.5, "transformers", "float32")
    assert options.beside.sampling == recipe.sampling
    quoted = recipe_of(MIXED, 'opponent."cold".model=nano')
    assert quoted.opponent["cold"].model == "nano"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["opponent.cold.model=nano"], "'cold' is neither in selfplay.opponents nor in evaluation.opponents"),
        ([MIXED, "opponent.colt.model=nano"], "did you mean 'cold'"),
        ([MIXED, "opponent.cold.modle=nano"], "unknown key 'opponent.cold.modle'; did you mean 'model'"),
        ([MIXED, "opponent.cold.temperature=-1"], "opponent.cold.temperature: got -1"),
        ([MIXED, "opponent.cold=nano"], r"such as \[opponent.mistral\]"),
        ([MIXED, "opponent.cold.temperature=1.0"], "opponent.cold: .*'cold'"),
        ([MIXED], "selfplay.opponents: .*'cold'"),
        ([MIXED, "opponent.cold.model=random"], "which takes no settings"),
        (["opponent.random.model=nano"], "'random' is a policy already"),
        (["opponent.mirror.model=nano"], "is the policy itself"),
        (["selfplay.opponents={ mirror=1, nano=1 }", "opponent.nano.model=smollm2"], "'nano' is a policy already"),
        (
            [MIXED, "opponent.cold.model='endpoint:openrouter/a/b'", "opponent.cold.compute=float32"],
            "compute is set, but endpoint:openrouter/a/b does not run on this machine",
        ),
    ],
)
def test_wrong_tables_are_refused(overrides, words):
    with pytest.raises(ValueError, match=words):
        recipe_of(*overrides)


SHARED = ("opponent.rival.model=nano", "opponent.rival.engine=shared")


def test_who_shares_the_policys_engine(tmp_path):
    recipe = load_recipe("nano", ["selfplay.opponents={mirror=1, rival=1, nano=1}", *SHARED])
    assert planned_opponents(recipe) == {"nano": True}
    share = engine_share(recipe, tmp_path)
    assert (share.run, [*share.weights]) == (tmp_path, ["rival"])
    assert (share.weights["rival"] / "model.safetensors").is_file()
    evaluated = load_recipe("nano", ["evaluation.opponents=['rival']", *SHARED])
    assert [*engine_share(evaluated, tmp_path).weights] == ["rival"]
    assert engine_share(load_recipe("nano"), tmp_path) is None
    assert engine_share(load_recipe("nano-past-selves"), tmp_path).weights == {}


def test_who_cannot_share_the_policys_engine_is_refused(tmp_path):
    other = load_recipe("nano", ["selfplay.opponents={rival=1}", *SHARED, "opponent.rival.model=nano-think"])
    with pytest.raises(ValueError, match=r"opponent\.rival\.engine is 'shared', but nano-think has other tokens than"):
        engine_share(other, tmp_path)
    with pytest.raises(ValueError, match="engine is 'shared', so that the model plays as the policy does, and"):
        load_recipe("nano", ["selfplay.opponents={rival=1}", *SHARED, "opponent.rival.temperature=0.5"])
    with pytest.raises(ValueError, match="engine is set, but endpoint:openrouter/a/b does not run on this"):
        OpponentConfig(model="endpoint:openrouter/a/b", engine="shared").check("rival")
