"""Engines that sleep while the learner runs: memory is given back, and nothing that is said changes."""

from __future__ import annotations

import copy
import sys
import weakref
from types import ModuleType, SimpleNamespace

import pytest
import torch

from spiral.inference.engines import EngineConfig, Weights, make_policy
from spiral.inference.scoring import reply_logprobs
from spiral.inference.transformers import TransformersPolicy
from spiral.inference.vllm import VllmPolicy
from spiral.inference.vllm_engine import _check_sleep
from spiral.launch import execute, start
from spiral.models.loading import NANO_DIRECTORY
from spiral.models.settings import ModelConfig
from spiral.policies import SamplingConfig
from spiral.policies.opponents import Opponents
from spiral.rollout.collector import SelfPlay
from spiral.rollout.matchmaking import SelfPlayConfig
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe
from spiral.text import ChatCodec, PromptConfig
from turns import random_states, replies_of, requests_for

pytestmark = pytest.mark.usefixtures("one_thread")

REQUESTS = requests_for(random_states(12, seed=3))


def codec_of(nano):
    return ChatCodec(nano.tokenizer, PromptConfig(observation="compact", thinking=False))


def policy_of(nano, compute="bfloat16", head="float32"):
    sampling = SamplingConfig(max_new_tokens=12)
    model = ModelConfig(compute=compute, head=head)
    return make_policy(EngineConfig(), model, nano, codec_of(nano).config, sampling, weights=Weights.SHARED)


def spoken(policy):
    replies = replies_of(policy, REQUESTS)
    return {key: (reply.reply, reply.generation.logprobs.tolist()) for key, reply in replies.items()}


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_asleep_there_are_no_keys_and_values(nano, compute):
    policy = policy_of(nano, compute)
    before = spoken(policy)
    held = [weakref.ref(layer.keys) for layer in policy._texts.cache.layers]
    assert sum(keys().numel() for keys in held) > 10_000
    policy.sleep()
    assert policy.asleep
    assert [keys() for keys in held] == [None] * len(held)
    assert spoken(policy) == before
    assert not policy.asleep


def test_whatever_is_asked_of_a_sleeping_engine_wakes_it(nano):
    policy = policy_of(nano)
    prompts = [request.state.observation(request.player, "compact") for request in REQUESTS[:2]]
    ids = [policy.codec.encode(prompt, REQUESTS[0].game) for prompt in prompts]
    scores = reply_logprobs(policy, ids, ["1", "2"])
    policy.sleep()
    assert reply_logprobs(policy, ids, ["1", "2"]) == scores
    assert not policy.asleep
    policy.sleep()
    policy.sleep()
    policy.load_weights(nano.model.named_parameters(), 4)
    assert (policy.asleep, policy.version) == (False, 4)
    policy.submit(REQUESTS)
    with pytest.raises(AssertionError, match="between turns"):
        policy.sleep()


@pytest.mark.parametrize(("compute", "moves"), [("float32", []), ("bfloat16", ["cpu", "cuda"])])
def test_a_model_of_its_own_leaves_the_gpu(nano, monkeypatch, compute, moves):
    policy, moved = policy_of(nano, compute), []
    policy.model, policy._device = copy.deepcopy(policy.model), torch.device("cuda")
    monkeypatch.setattr(policy.model, "to", lambda device: moved.append(device.type))
    policy.wake()
    policy.sleep()
    policy.wake()
    policy.wake()
    assert moved == moves


@pytest.mark.parametrize("sleep", [False, True])
def test_the_engine_sleeps_after_the_games_of_a_step(nano, sleep):
    policy = policy_of(nano)
    config = SelfPlayConfig(games={"tictactoe": 1.0}, episodes_per_step=3)
    selfplay = SelfPlay(policy, config, seed=0, sleep=(policy.sleep,) if sleep else ())
    assert len(selfplay.collect(1)) == 3
    assert policy.asleep is sleep
    selfplay.policy.load_weights(nano.model.named_parameters(), 1)
    assert not policy.asleep


@pytest.mark.parametrize("compute", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_run_that_sleeps_is_the_run_that_never_does(tmp_path, compute):
    rows = {}
    for sleep in ("true", "false"):
        settings = [
            "run.steps=3",
            f"model.compute={compute}",
            "model.head=float32",
            "model.device=cpu",
            f"engine.sleep={sleep}",
            "selfplay.episodes_per_step=24",
            "evaluation.games=[]",
            "evaluation.exploitability=[]",
        ]
        run = start(load_recipe("nano", settings), tmp_path / sleep)
        execute(run, lambda *_: None)
        weights = torch.cat([weight.flatten() for _, weight in run.learner.weights()]).detach()
        metrics = read_metrics(tmp_path / sleep)
        rows[sleep] = ([{k: v for k, v in row.items() if not k.startswith("time/")} for row in metrics], weights)
    assert [row["step"] for row in rows["true"][0]] == [1, 2, 3]
    assert rows["true"][0] == rows["false"][0]
    assert torch.equal(rows["true"][1], rows["false"][1])


@pytest.mark.parametrize("schedule", ["overlap", "async"])
def test_engines_sleep_only_where_they_have_nothing_to_do(schedule):
    settings = ["cluster.rollout_workers=2", "engine.sleep=true"]
    assert load_recipe("nano", settings).engine.sleep
    with pytest.raises(ValueError, match=f"schedule is '{schedule}', in which engines play games while the learner"):
        load_recipe("nano", [*settings, f"cluster.schedule={schedule}"])


class StubEngine:
    """Records the calls that vLLM would receive, in order."""

    def __init__(self):
        self.calls = []

    def reset_prefix_cache(self):
        self.calls.append("drop prefixes")
        return True

    def sleep(self, level):
        self.calls.append(f"sleep {level}")

    def wake_up(self):
        self.calls.append("wake up")

    def collective_rpc(self, name, kwargs):
        self.calls.append(f"{name} of {len(list(kwargs['weights_iterator']))}")

    def apply_model(self, function):
        self.calls.append(function.__name__)
        return [[]]

    def add_request(self, request, prompt, parameters):
        self.calls.append(f"request {request}")

    def abort_request(self, requests):
        self.calls.append(f"abort {len(requests)}")


@pytest.fixture
def vllm_of(nano, monkeypatch):
    """A `VllmPolicy` around a stub, with or without `engine.sleep`, and without a vLLM."""
    inputs, parameters = ModuleType("vllm.inputs"), ModuleType("vllm.sampling_params")
    inputs.tokens_input = list
    parameters.RequestOutputKind = SimpleNamespace(FINAL_ONLY=2)
    package = ModuleType("vllm")
    package.SamplingParams = SimpleNamespace
    for module in (package, inputs, parameters):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    monkeypatch.setattr("spiral.inference.vllm.start_engine", lambda *_: StubEngine())
    monkeypatch.setattr("spiral.inference.vllm.stop_engine", lambda engine: None)
    made = []

    def make(sleep=True):
        config = EngineConfig(kind="vllm", sleep=sleep)
        sampling = SamplingConfig(max_new_tokens=8)
        made.append(VllmPolicy(str(NANO_DIRECTORY), codec_of(nano), sampling, config=config, compute="bfloat16"))
        return made[-1]

    yield make
    for policy in made:
        policy.close()


def test_vllm_sleeps_wakes_and_takes_weights_in_this_order(nano, vllm_of):
    policy = vllm_of()
    policy.sleep()
    policy.sleep()
    assert policy.asleep
    policy.load_weights(nano.model.named_parameters(), 3)
    count = len(list(nano.model.named_parameters())) + 1  # the tied head under its own name
    assert policy._engine.calls == [
        "drop prefixes",
        "sleep 1",
        "wake up",
        "_mark",
        f"reload_weights of {count}",
        "_marked",
        "drop prefixes",
    ]
    assert (policy.asleep, policy.version) == (False, 3)


def test_a_sleeping_vllm_is_woken_by_a_turn_and_sleeps_only_between_turns(vllm_of):
    policy = vllm_of()
    policy.wake()
    policy.sleep()
    policy.submit(REQUESTS[:1])
    assert policy._engine.calls == ["drop prefixes", "sleep 1", "wake up", "request 0"]
    with pytest.raises(AssertionError, match="between turns"):
        policy.sleep()
    policy.cancel()
    policy.sleep()
    assert policy._engine.calls[4:] == ["abort 1", "drop prefixes", "sleep 1"]


def test_before_new_weights_vllm_drops_its_own_and_refuses_requests(nano, vllm_of):
    policy = vllm_of()
    policy.sleep(until_weights=True)
    with pytest.raises(RuntimeError, match=r"dropped its weights of version 0, .*; expected load_weights before any"):
        policy.submit(REQUESTS[:1])
    assert policy._engine.calls == ["drop prefixes", "sleep 2"]
    assert policy.asleep
    policy.load_weights(nano.model.named_parameters(), 1)
    policy.submit(REQUESTS[:1])
    assert [call for call in policy._engine.calls[2:] if "weights" not in call] == [
        "wake up", "_mark", "_marked", "drop prefixes", "request 0",
    ]  # fmt: skip


def test_vllm_refuses_requests_after_new_weights_that_it_has_not_taken(nano, vllm_of, monkeypatch):
    policy = vllm_of()
    policy.sleep(until_weights=True)
    with pytest.raises(RuntimeError, match="weights are missing"):
        policy.load_weights([], 1)
    assert not policy.asleep
    with pytest.raises(RuntimeError, match="dropped its weights of version 0"):
        policy.submit(REQUESTS[:1])


def test_in_a_run_the_policy_sleeps_until_its_weights_come_and_an_opponent_keeps_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path))  # where the check at the start is not yet known
    slept = []
    for kind, sleep in ((TransformersPolicy, TransformersPolicy.sleep), (Opponents, Opponents.sleep)):

        def noted(engine, sleep=sleep, name=kind.__name__, **how):
            slept.append((name, how))
            sleep(engine, **how)

        monkeypatch.setattr(kind, "sleep", noted)
    settings = ["run.steps=1", "engine.sleep=true", "selfplay.episodes_per_step=4", "evaluation.games=[]"]
    bfloat16 = ["model.compute=bfloat16"]  # in which the engine has weights of its own
    execute(start(load_recipe("nano", [*settings, *bfloat16]), tmp_path / "run"), lambda *_: None).close()
    until = ("TransformersPolicy", {"until_weights": True})
    assert slept == [until, until, ("Opponents", {})]  # before the check at the start, and after the games


def test_a_vllm_that_was_not_started_for_it_does_not_sleep(vllm_of):
    policy = vllm_of(sleep=False)
    with pytest.raises(ValueError, match=r"started with engine\.sleep false; expected true"):
        policy.sleep()
    assert policy._engine.calls == []


def test_errors_while_waking_up_are_reported(vllm_of, monkeypatch):
    policy = vllm_of()
    policy.sleep()

    def fails():
        raise MemoryError("none left")

    monkeypatch.setattr(policy._engine, "wake_up", fails)
    with pytest.raises(RuntimeError, match="vLLM failed while waking up: MemoryError: none left"):
        policy.submit(REQUESTS[:1])
    assert policy.asleep


def test_vllm_on_a_cpu_is_refused(monkeypatch):
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(device_name="cpu", is_sleep_mode_available=lambda: False)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    _check_sleep(EngineConfig())
    with pytest.raises(ValueError, match=r"engine\.sleep is true, and vLLM cannot sleep on a cpu; expected CUDA"):
        _check_sleep(EngineConfig(sleep=True))
