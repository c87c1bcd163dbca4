"""Plans of runs in several processes: what is on the learner's devices, on the engines', and in one memory."""

from __future__ import annotations

import pytest

from spiral.distributed.placement import placed
from spiral.models.shapes import known_config, model_config
from spiral.plan import check_plan, check_runnable, describe, make_plan
from spiral.runs.cluster import ClusterConfig
from spiral.runs.hardware import GIB
from spiral.runs.recipe import load_recipe
from tests.plan.test_fit import QWEN, apply, gib, plan_with, recipe_with, refusal

PARAMETERS = 596_049_920
APART = ("cluster.rollout_workers=4", "cluster.learner_workers=2", "cluster.gpus_per_worker=1")
SHARED = ("cluster.rollout_workers=2", "cluster.learner_workers=2", "cluster.gpus_per_worker=0.5")
ON_CPUS = ("model.device='cpu'", "cluster.rollout_workers=3", "cluster.learner_workers=2")


def names(device):
    return [item.name for item in device.items]


def test_engines_with_gpus_of_their_own_are_not_on_the_learner_s():
    plan = plan_with(*APART)
    learner, engines = plan.devices
    assert learner.name == "each of 2 GPUs of the learner"
    assert engines.name == "each of 4 GPUs of rollout workers"
    assert names(engines) == ["vLLM's weights", "vLLM's keys and values"]
    assert not any("vLLM" in name for name in names(learner))
    assert engines.need_gib == pytest.approx(0.25 * 40)
    assert plan.need_gib == learner.need_gib == max(learner.need_gib, engines.need_gib)
    assert learner.need_gib == pytest.approx(plan_with(*SHARED).need_gib - 0.25 * 40)


def test_each_kind_of_device_is_listed_and_the_fullest_is_refused():
    lines = describe(plan_with(*APART))
    assert [line for line in lines if line.startswith("Memory of ")] == [
        "Memory of each of 2 GPUs of the learner, in GiB:",
        "Memory of each of 4 GPUs of rollout workers, in GiB:",
    ]
    assert sum("at most: " in line for line in lines) == 2
    assert sum("usable: 40.00" in line for line in lines) == 1
    small = (*APART, "hardware.memory_gib=15.0", "engine.memory_share=0.5", "learner.tokens_per_microbatch=30000")
    assert "GiB of each of 2 GPUs of the learner, and hardware.memory_gib is 15.0" in refusal(recipe_with(*small))
    crowded = ("hardware.memory_gib=24.0", "engine.memory_share=0.96", "learner.gradient_checkpointing=true")
    line = refusal(recipe_with(*APART, *crowded))
    assert "it needs 23.0 GiB of each of 4 GPUs of rollout workers" in line
    assert "it fits with engine.memory_share = 0.95" in line


def test_the_large_recipe_fits_two_gpus_when_vllm_has_its_own():
    smaller = ["hardware.devices=2", "cluster.publish='object_store'", "learner.tokens_per_microbatch=7680"]
    settings = [*APART, *smaller]
    plan = make_plan(load_recipe("multi-qwen3-8b", settings), known_config("Qwen/Qwen3-8B-Base"))
    assert 75 < plan.need_gib < plan.usable_gib == 76
    together = [*SHARED, *smaller]
    shared = make_plan(load_recipe("multi-qwen3-8b", together), known_config("Qwen/Qwen3-8B-Base"))
    assert shared.need_gib == pytest.approx(plan.need_gib + 0.3 * 80)


def test_workers_that_share_gpus_are_beside_the_learner():
    (both,) = plan_with(*SHARED).devices
    assert names(both)[-2:] == ["vLLM's weights", "vLLM's keys and values"]
    first, others = plan_with(*SHARED, "cluster.rollout_workers=5").devices
    assert names(first) == names(both)
    assert others.name == "a GPU of 2 other rollout workers"
    assert others.need_gib == pytest.approx(2 * 0.25 * 40)


def cache(devices, copies=1):
    """Tokens of which so many GPUs of 40 GiB hold a quarter's worth, and each of a head's keys and values so often."""
    token, working = 2 * 28 * 8 * 128 * 2, GIB + 3 * 4 * 1024 * 151_936
    return (devices * (int(0.25 * 40 * GIB) - working) - 2 * PARAMETERS) // (copies * token)


def test_an_engine_over_several_gpus_holds_a_part_on_each():
    """Beside the learner on the first one; eight heads of keys and values on sixteen GPUs are there twice."""
    alone, plan = plan_with(), plan_with("engine.tensor_parallel=4")
    first, others = plan.devices
    assert (first.name, others.name) == ("one device", "each of 3 further GPUs of the engine")
    weights, keys = others.items
    assert weights.gib * GIB == pytest.approx(2 * PARAMETERS / 4)
    assert weights.note == "bfloat16, a share of 4"
    assert weights.gib + keys.gib == pytest.approx(0.25 * 40)
    assert first.items[-2:] == others.items
    assert first.need_gib == pytest.approx(alone.need_gib)
    assert plan.cache_tokens == cache(4)
    assert plan_with("engine.tensor_parallel=2").devices[1].name == "one further GPU of the engine"
    assert plan_with("engine.tensor_parallel=16").cache_tokens == cache(16, copies=2)


def test_rollout_workers_have_the_gpus_of_their_engine():
    plan = plan_with(*APART[:2], "engine.tensor_parallel=2", "cluster.gpus_per_worker=2")
    _learner, engines = plan.devices
    assert engines.name == "each of 8 GPUs of rollout workers"
    assert engines.need_gib == pytest.approx(0.25 * 40)
    assert plan.cache_tokens == cache(2)
    said = r"is 2 and cluster\.gpus_per_worker is {}, but .* set cluster\.gpus_per_worker to 2, .*tensor_parallel to 1$"
    for settings, share in ((APART, "1"), (SHARED, r"0\.5")):
        with pytest.raises(ValueError, match=said.format(share)):
            plan_with(*settings, "engine.tensor_parallel=2")
    with pytest.raises(ValueError, match=r"--set cluster\.gpus_per_worker=2; to run on 1"):
        check_runnable(recipe_with("hardware.devices=4", "engine.tensor_parallel=2"))


def test_the_processes_of_an_engine_on_a_cpu_share_its_memory():
    alone, plan = (plan_with("model.device='cpu'", f"engine.tensor_parallel={count}") for count in (1, 2))
    (_,) = plan.devices
    assert plan.cache_tokens == alone.cache_tokens
    for name, factor in (
        ("vLLM's weights", 1),
        ("vLLM's keys and values", 1),
        ("vLLM's working memory and logits", 2),
    ):
        assert gib(plan, name) == pytest.approx(factor * gib(alone, name))
    doubled = plan_with("model.device='cpu'", "engine.tensor_parallel=16")
    assert doubled.cache_tokens == alone.cache_tokens // 2


def test_devices_that_do_not_share_out_the_heads_are_refused():
    with pytest.raises(ValueError, match=r"16 attention heads and 8 of keys and values; expected 1, 2, 4, 8, 16$"):
        plan_with("engine.tensor_parallel=3")


def test_published_weights_stay_on_the_learner_s_gpu():
    """Until the next ones are there (`distributed/weight_sync.py`), unless they travel through main memory."""
    published, stored = (plan_with(*APART, f"cluster.publish='{way}'") for way in ("auto", "object_store"))
    assert gib(published, "weights for rollout workers") * 2**30 == 2 * PARAMETERS
    assert stored.need_gib == pytest.approx(published.need_gib - 2 * PARAMETERS / 2**30)
    assert "weights for rollout workers" not in {item.name for item in plan_with().items}
    just = ("learner.gradient_checkpointing=true", "learner.tokens_per_microbatch=1200", "engine.memory_share=0.7")
    need = plan_with(*APART, *just, "cluster.publish='object_store'").devices[0].need_gib
    line = refusal(recipe_with(*APART, *just, f"hardware.memory_gib={need / 0.94}"))
    assert 'it fits with cluster.publish = "object_store"' in line


def test_a_worker_of_a_cluster_never_shares_weights_with_the_learner():
    exact = ("model.compute='float32'", "engine.kind='transformers'")
    assert gib(plan_with(*exact), "the engine's weights") == 0
    assert gib(plan_with(*exact, *APART), "the engine's weights") * 2**30 == 4 * PARAMETERS


def test_processes_on_cpus_share_one_memory():
    plan = plan_with(*ON_CPUS)
    (machine,) = plan.devices
    assert machine.name == "a machine of 2 learner workers and 3 rollout workers"
    weights, cache = gib(plan, "vLLM's weights"), gib(plan, "vLLM's keys and values")
    assert weights + cache == pytest.approx(3 * 0.25 * 40)
    assert weights * 2**30 == 3 * 2 * PARAMETERS
    # Two halves of what is sharded, and twice what is not.
    alone = plan_with("model.device='cpu'")
    assert gib(plan, "weights") == gib(alone, "weights")
    assert gib(plan, "logits of a chunk") == 2 * gib(alone, "logits of a chunk")
    exact = plan_with(*ON_CPUS, "model.compute='float32'")
    assert gib(exact, "weights") * 2**30 == 2 * 4 * PARAMETERS
    assert "in 3 processes" in next(line for line in describe(plan) if "vLLM's weights" in line)
    assert not machine.together
    (ahead,) = plan_with(*ON_CPUS, "cluster.schedule='overlap'").devices
    assert ahead.need_gib == pytest.approx(sum(item.gib for item in ahead.items))
    assert "both at once on one machine" in "\n".join(describe(plan_with(*ON_CPUS, "cluster.schedule='overlap'")))


def test_one_worker_evaluates_and_the_others_play_their_part_of_a_step():
    """20 games of a step are 7 for each of three workers, counted twice; 50 evaluation games run on one of them."""
    engine = ("engine.kind='transformers'", "selfplay.episodes_per_step=20", "selfplay.in_flight=20")
    evaluation = ("evaluation.games=['tictactoe']", "evaluation.episodes=50", "evaluation.in_flight=50")
    (machine,) = plan_with(*ON_CPUS, *engine, *evaluation).devices
    (cache,) = [item for item in machine.items if item.name == "keys and values"]
    alone = gib(plan_with("model.device='cpu'", *engine, *evaluation), "keys and values")
    assert cache.gib == pytest.approx(alone * (50 + 2 * 14) / 50)
    assert "50 replies of up to" in cache.note
    assert "2 other processes: 14 replies of up to" in cache.note


def test_a_plan_that_may_be_for_cpus_is_not_refused_for_gpus():
    settings = ["hardware.memory_gib=16.0", "cluster.rollout_workers=2"]
    assert check_plan(load_recipe("nano", settings), model_config("nano")).fits


def test_what_helps_on_gpus_alone_is_not_proposed_on_cpus():
    """Neither another way for weights that never leave one memory, nor more processes in it."""
    small = ("hardware.memory_gib=6.0", "engine.kind='transformers'", "sampling.max_new_tokens=8000")
    line = refusal(recipe_with("model.device='cpu'", "cluster.rollout_workers=2", *small))
    assert "cluster.publish" not in line
    assert "hardware.devices" not in line


def test_more_devices_are_no_remedy_for_one_memory():
    one, two = (plan_with("model.device='cpu'", f"hardware.devices={devices}") for devices in (1, 2))
    assert gib(two, "weights") == gib(one, "weights")
    assert two.need_gib > one.need_gib


def test_machines_of_a_joined_ray_have_a_memory_each():
    learner, engine = plan_with(*ON_CPUS, "cluster.address='auto'").devices
    assert (learner.name, engine.name) == ("the machine of 2 learner workers", "the machine of a rollout worker")
    assert engine.phase_gib("always") == pytest.approx(0.25 * 40)


def test_rollout_workers_on_gpus_need_gpus_per_worker(monkeypatch):
    said = r"cluster\.gpus_per_worker is 0, so all 2 rollout workers .* set it to 1 .*, such as 0\.5, .* to 'cpu'"
    none = recipe_with("cluster.rollout_workers=2", "cluster.learner_workers=2", "hardware.devices=2")
    with pytest.raises(ValueError, match=said):
        check_plan(none, known_config(QWEN))
    with pytest.raises(ValueError, match=said), placed(ClusterConfig(rollout_workers=2), 1.0):
        pass
    assert check_plan(recipe_with("cluster.rollout_workers=2", "cluster.gpus_per_worker=1"), known_config(QWEN)).fits
    nano = load_recipe("nano", ["cluster.rollout_workers=2"])
    monkeypatch.setattr("spiral.plan.fit.device_memory_gib", lambda _device: 64.0)
    for here in (False, True):
        monkeypatch.setattr("spiral.plan.fit.is_gpu", lambda _device, here=here: here)
        if here:
            with pytest.raises(ValueError, match=said):
                check_plan(nano, model_config("nano"), this_machine=True)
        else:
            assert check_plan(nano, model_config("nano"), this_machine=True).fits


def test_the_command_for_several_devices_is_one_that_runs():
    """Its settings make the plan that the recipe has without them."""
    recipe = recipe_with("hardware.devices=2")
    with pytest.raises(ValueError, match="planned for 2 devices") as caught:
        check_runnable(recipe)
    line = str(caught.value).partition("to run on 2, add ")[2].partition(";")[0]
    settings = [setting.strip() for setting in line.split("--set ") if setting]
    assert settings == ["cluster.rollout_workers=2", "cluster.learner_workers=2", "cluster.gpus_per_worker=0.5"]
    started = recipe_with("hardware.devices=2", *settings)
    check_runnable(started, started.cluster.learner_workers)
    assert make_plan(started, known_config(QWEN)).need_gib == make_plan(recipe, known_config(QWEN)).need_gib
    with pytest.raises(ValueError, match="planned for 2 devices") as caught:
        check_runnable(recipe_with("hardware.devices=2", "model.device='cpu'"))
    assert "gpus_per_worker" not in str(caught.value)


def test_the_remedy_of_a_cluster_is_more_learner_workers():
    tight = ("hardware.memory_gib=10.0", "learner.gradient_checkpointing=true", "learner.tokens_per_microbatch=1200",
             "engine.memory_share=0.5", "cluster.publish='object_store'")  # fmt: skip
    recipe = recipe_with("cluster.rollout_workers=4", "cluster.gpus_per_worker=1", *tight)
    fitting, settings = apply(recipe, refusal(recipe))
    assert settings == ["hardware.devices=2", "cluster.learner_workers=2"]
    assert (fitting.hardware.devices, fitting.cluster.learner_workers) == (2, 2)
    check_runnable(fitting, fitting.cluster.learner_workers)
    assert check_plan(fitting, known_config(QWEN)).fits
