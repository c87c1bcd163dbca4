"""What a run is planned to take: hand-computed items, what autograd really keeps, and refusals that help."""

from __future__ import annotations

import dataclasses
import re
import tomllib

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from made_up import new_sample
from spiral.models.shapes import known_config, model_config
from spiral.plan import check_plan, check_runnable, describe, make_plan
from spiral.plan.memory import activation_bytes, block_bytes, model_shape, prefix_bytes
from spiral.runs import hardware
from spiral.runs.hardware import GIB, device_memory_gib
from spiral.runs.recipe import load_recipe, validate_recipe
from spiral.text import ChatCodec
from spiral.training.batch import make_batch
from spiral.training.logprobs import Scorer, recompute_blocks
from spiral.training.packing import micro_batches

QWEN = "Qwen/Qwen3-0.6B-Base"
BIG = {
    "summary": "",
    "model": {"path": QWEN, "compute": "bfloat16"},
    "prompt": {"template": "qwen3"},
    "sampling": {"max_new_tokens": 1000},
    "engine": {"kind": "vllm", "context": 2048, "memory_share": 0.25},
    "selfplay": {"games": {"tictactoe": 1.0}, "episodes_per_step": 64},
    "learner": {"tokens_per_microbatch": 10_000},
    "hardware": {"memory_gib": 40.0},
}


def recipe_with(*overrides, base=BIG):
    return validate_recipe(base, "test", overrides)


def plan_with(*overrides):
    return make_plan(recipe_with(*overrides), known_config(QWEN))


def gib(plan, name):
    (item,) = [item for item in plan.items if item.name == name]
    return item.gib


def test_state_of_the_learner_to_the_byte():
    plan = plan_with()
    parameters = 596_049_920
    assert plan.parameters == parameters
    state = sum(gib(plan, name) for name in ("weights", "AdamW's two moments", "gradients"))
    assert state * GIB == 16 * parameters
    halved = plan_with("hardware.devices=2")
    assert [gib(halved, name) * 2 for name in ("weights", "gradients")] == [
        gib(plan, n) for n in ("weights", "gradients")
    ]


def test_vllm_fills_its_share_of_a_gpu():
    plan = plan_with()
    weights, cache = gib(plan, "vLLM's weights"), gib(plan, "vLLM's keys and values")
    assert weights * GIB == 2 * 596_049_920
    assert weights + cache == pytest.approx(0.25 * 40)
    token = 2 * 28 * 8 * 128 * 2
    drawing = 3 * 4 * 1024 * 151_936
    assert plan.cache_tokens == (int(0.25 * 40 * GIB) - GIB - drawing - 2 * 596_049_920) // token


def test_the_share_of_a_vllm_on_a_cpu_is_for_weights_keys_and_values():
    """As `_cpu_arguments` of the engine gives it; what it computes with comes on top."""
    plan = plan_with("model.device='cpu'")
    weights, cache = gib(plan, "vLLM's weights"), gib(plan, "vLLM's keys and values")
    assert weights + cache == pytest.approx(0.25 * 40)
    assert plan.cache_tokens == int((0.25 * 40 * GIB - 2 * 596_049_920) // (2 * 28 * 8 * 128 * 2))
    drawing = 3 * 4 * 64 * 151_936
    assert gib(plan, "vLLM's working memory and logits") * GIB == GIB + drawing
    assert "vLLM's working memory and logits" not in {item.name for item in plan_with().items}


def test_smollm2_in_24_gib_has_the_room_that_vllm_gives_it():
    settings = ["engine.kind='vllm'", "model.device='cpu'", "model.compute='bfloat16'", "hardware.memory_gib=24.0"]
    recipe = load_recipe("smollm2-cpu", settings)
    plan = make_plan(recipe, known_config("smollm2"))
    assert round(gib(plan, "vLLM's keys and values"), 2) == 2.15
    assert plan.cache_tokens == pytest.approx(100_171, rel=1e-3)


def test_the_transformers_engine_by_hand():
    plan = plan_with("engine.kind='transformers'", "engine.max_rows=8", "prompt.observation='compact'")
    (game,) = plan.budget.games
    longest = game.max_prompt + 1000
    rounded = -(-longest // 32) * 32
    assert gib(plan, "the engine's weights") * GIB == 2 * 596_049_920
    assert gib(plan, "keys and values") * GIB == 1.5 * 8 * rounded * (2 * 28 * 8 * 128 * 2)
    assert gib(plan_with("engine.kind='transformers'", "model.compute='float32'"), "the engine's weights") == 0


def test_an_engine_that_sleeps_and_the_learner_share_the_memory():
    """The larger of both, beside what the learner holds always."""
    awake, asleep = plan_with(), plan_with("engine.sleep=true")
    assert asleep.phase_gib("playing") == pytest.approx(awake.phase_gib("playing"))
    assert asleep.phase_gib("updating") == pytest.approx(awake.phase_gib("updating") - 0.25 * 40)
    assert asleep.need_gib == max(asleep.phase_gib("playing"), asleep.phase_gib("updating"))
    assert asleep.need_gib < awake.need_gib
    state = gib(asleep, "weights") + gib(asleep, "AdamW's two moments")
    assert asleep.phase_gib("playing") == pytest.approx(state + 0.25 * 40)
    tight = ("hardware.memory_gib=32.0", "engine.memory_share=0.3125", "learner.tokens_per_microbatch=8000")
    assert [plan_with(*tight, f"engine.sleep={sleep}").fits for sleep in ("false", "true")] == [False, True]


def test_what_a_sleeping_transformers_engine_keeps():
    """Its caches go; its weights wait in the memory of the CPU, which frees nothing where that is the device."""
    names = ("the engine's weights", "keys and values")

    def phases(*overrides):
        plan = plan_with("engine.kind='transformers'", "engine.sleep=true", *overrides)
        return [item.phase for name in names for item in plan.items if item.name == name]

    assert phases() == ["playing", "playing"]
    assert phases("model.device='cpu'") == ["always", "playing"]
    assert phases("model.compute='float32'", "lora.rank=4") == ["always", "playing"]


def test_a_float32_head_is_a_copy_of_its_weights_on_a_cpu():
    head = 4 * 151_936 * 1024
    names = {"output head in float32", "vLLM's output head in float32", "the engine's output head in float32"}

    def copies(*overrides):
        return {item.name: item.gib * GIB for item in plan_with(*overrides).items if item.name in names}

    cpu = ("model.device='cpu'", "model.head='float32'")
    assert copies(*cpu) == {"output head in float32": head, "vLLM's output head in float32": head}
    engine = copies(*cpu, "engine.kind='transformers'", "loss.kl_coefficient=0.1")
    assert engine == {"output head in float32": 2 * head, "the engine's output head in float32": head}
    assert copies("model.head='float32'") == copies("model.device='cpu'") == {}
    assert copies(*cpu, "model.compute='float32'") == {}


def test_what_computes_in_bfloat16_is_gathered_whole_only_on_one_device():
    shape = model_shape(known_config(QWEN))
    assert shape.outside_blocks == 151_936 * 1024 + 1024
    assert shape.largest_block * 28 + shape.outside_blocks == shape.parameters
    name = "weights and gradients gathered to compute"
    saved = gib(plan_with(), name) - gib(plan_with("hardware.devices=2"), name)
    assert saved * GIB == 2 * 26 * shape.largest_block


def test_a_reference_and_lora_change_what_they_should():
    plain, pulled = plan_with(), plan_with("loss.kl_coefficient=0.1")
    assert gib(pulled, "reference") * GIB == 2 * 596_049_920
    tokens = plain.budget.max_turns * 1000
    assert gib(pulled, "the reference's hidden states") * GIB == tokens * 1024 * 2
    lora = plan_with("lora.rank=8", "lora.modules=['q_proj', 'down_proj']")
    added = 8 * 28 * (1024 + 2048 + 3072 + 1024)
    assert gib(lora, "gradients") * GIB == 4 * added
    assert gib(lora, "weights") == gib(plain, "weights")
    given = make_plan(recipe_with(), known_config(QWEN), trainable_parameters=1000)
    assert gib(given, "AdamW's two moments") * GIB == 8000


def test_tokens_of_a_step():
    budget = plan_with("selfplay.games={tictactoe = 1, 'simple_negotiation(turns=4)' = 3}").budget
    tictactoe, negotiation = budget.games
    assert (tictactoe.episodes, tictactoe.max_turns) == (16, 9)
    assert 7 < tictactoe.turns < 8.5, "random games of tic-tac-toe take 7.6 turns on average"
    assert (negotiation.episodes, negotiation.turns, negotiation.max_turns) == (48, 4.0, 4)
    assert budget.max_turns == 16 * 9 + 48 * 4
    assert budget.context_left == 2048 - budget.max_prompt - 1000
    assert budget.max_tokens == 144 * (tictactoe.max_prompt + 1000) + 192 * (negotiation.max_prompt + 1000)
    assert budget.turns < budget.max_turns
    assert budget.tokens < budget.max_tokens


def test_turn_limits_openings_and_the_context_bound_the_budget():
    assert plan_with("selfplay.max_turns=3").budget.turns == 64 * 3
    opened = plan_with("selfplay.opening_plies={tictactoe = 4}").budget
    assert opened.turns < plan_with().budget.turns
    short = plan_with("engine.context=500").budget
    assert (short.max_sample, short.context_left < 0) == (500, True)


def test_a_tokenizer_at_hand_counts_exactly(nano):
    recipe = load_recipe("nano")
    budget = make_plan(recipe, model_config("nano"), codec=ChatCodec(nano.tokenizer, recipe.prompt)).budget
    tictactoe, _ = budget.games
    assert (tictactoe.prompt, tictactoe.max_prompt) == (5.0, 5), "player, three rows, and the mark of a reply"
    assert budget.context == 512


def test_a_micro_batch_holds_one_sample_at_least_and_the_step_at_most():
    def tokens(*overrides):
        (item,) = [item for item in plan_with(*overrides).items if item.name == "activations of a micro-batch"]
        return int(item.note.split()[0].replace(",", ""))

    assert tokens("learner.tokens_per_microbatch=10") == plan_with().budget.max_sample
    assert tokens() == 10_000
    few = ("selfplay.episodes_per_step=1", "selfplay.max_turns=2")
    assert tokens(*few) == 2 * plan_with(*few).budget.max_sample


def test_samples_that_share_a_prefix_by_hand():
    """Short replies, an eighth of the budget, put several samples into a row; each of them has the prefix again."""
    name = "keys and values after shared prefixes"

    def shared(*overrides):
        plan = plan_with("learner.layout='packed'", "learner.tokens_per_microbatch=4000", *overrides)
        return plan, [item for item in plan.items if item.name == name]

    plan, (item,) = shared()
    budget = plan.budget
    assert budget.prefix == pytest.approx(budget.games[0].prefix)
    assert 0.4 * budget.prompt < budget.prefix < budget.prompt
    samples = int((4000 - budget.prefix) / (budget.prompt - budget.prefix + 125))
    assert item.note == f"{samples} samples, {budget.prefix:,.0f} tokens shared"
    wide = 2 * 2 * 16 * 128 * (4000 + round(samples * budget.prefix))
    assert item.gib * GIB == 28 * wide
    _, (checkpointed,) = shared("learner.gradient_checkpointing=true")
    assert checkpointed.gib * GIB == wide
    apart = gib(plan_with("learner.tokens_per_microbatch=4000"), "gradients of activations")
    assert gib(plan, "gradients of activations") - apart == pytest.approx(wide / GIB)
    few = ("selfplay.episodes_per_step=1", "selfplay.max_turns=3", "sampling.max_new_tokens=64")
    _, (three,) = shared(*few)
    assert three.note.startswith("3 samples")
    assert not shared("selfplay.episodes_per_step=1", "selfplay.max_turns=1")[1], "one sample shares nothing"
    assert not [item for item in plan_with().items if item.name == name], "padded rows share nothing"


def test_a_survey_counts_what_the_learner_would_share(nano):
    """By the rule of the learner itself; without a tokenizer, a token for four characters."""
    compact = make_plan(load_recipe("nano"), model_config("nano"), codec=ChatCodec(nano.tokenizer, nano.prompt)).budget
    assert compact.prefix == 0, "prompts of five tokens are shorter than what is worth sharing"
    shown, described = (plan_with(f"prompt.example={example}").budget for example in ("true", "false"))
    assert shown.prefix - described.prefix == pytest.approx(shown.prompt - described.prompt, rel=0.1)
    both = plan_with("selfplay.games={tictactoe = 1, kuhn_poker = 1}").budget
    turns = [game.episodes * game.turns for game in both.games]
    mean = sum(turn * game.prefix for turn, game in zip(turns, both.games, strict=True)) / sum(turns)
    assert both.prefix == pytest.approx(mean)


LENGTHS = (120, 115, 110, 100, 60, 30)
SHARED = {"packed, 60 tokens shared": (60, (100,) * 10), "packed, 80 tokens shared": (80, (104, 103, 102, 101) * 6)}
"""Prefix and whole length of every sample."""


def kept_by_autograd(model, layout, vocabulary):
    """Bytes of the distinct storages that the forward pass saves, parameters apart, and its rows."""
    rng = np.random.default_rng(0)
    prefix, lengths = SHARED.get(layout, (0, LENGTHS))
    front = rng.integers(0, vocabulary, prefix)
    samples = []
    for number, length in enumerate(lengths):
        # Two tokens distinguish samples, so that no two share more than the prefix.
        own = [number % vocabulary, number // vocabulary]
        tokens = np.concatenate([front, own, rng.integers(0, vocabulary, length - prefix - 2)])
        prompt = max(length // 4, prefix + 2)
        samples.append(new_sample(tokens[:prompt], tokens[prompt:]))
    batch = make_batch(samples)
    (rows,) = micro_batches(batch, torch.arange(len(samples)), layout.partition(",")[0], 10_000)
    scorer = Scorer(model, packed=layout != "padded")
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scorer(rows, batch.action_ids_A[rows.action_K], 1.0)
    return sum(size for size, _ in kept.values()), rows


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("layout", ["padded", "packed", *SHARED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_keeps(kind, layout, dtype, checkpointing):
    config = kind(
        vocab_size=16,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
    )
    shape = model_shape(config)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    if checkpointing:
        recompute_blocks(model)
    measured, rows = kept_by_autograd(model, layout, 16)
    tokens, size, packed = rows.token_ids_RW.numel(), dtype.itemsize, layout != "padded"
    estimate = activation_bytes(shape, tokens, size=size, packed=packed, checkpointing=checkpointing)
    if checkpointing:  # the forward pass does not keep the one block that the backward pass computes again
        estimate -= tokens * block_bytes(shape, size, packed)
    elif layout in SHARED:
        groups = [group for group in rows.segments.groups if group.prefix_length == SHARED[layout][0]]
        positions = sum(group.n * (group.prefix_length + group.g) for group in groups)
        assert len(groups) == 1
        estimate += prefix_bytes(shape, positions, size=size, checkpointing=False)
    within = 1.2 if checkpointing else 1.02
    assert measured / within < estimate < measured * within


def test_the_activations_of_nano(nano):
    shape = model_shape(nano.model.config)
    assert shape.parameters == sum(parameter.numel() for parameter in nano.model.parameters())
    model = AutoModelForCausalLM.from_config(nano.model.config)
    measured, rows = kept_by_autograd(model, "padded", shape.vocabulary)
    estimate = activation_bytes(shape, rows.token_ids_RW.numel(), size=4, packed=False, checkpointing=False)
    assert measured / 1.5 < estimate < measured * 1.5


def refusal(recipe):
    with pytest.raises(ValueError, match="does not fit: ") as caught:
        check_plan(recipe, known_config(recipe.model.path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def apply(recipe, line):
    """The recipe with what "it fits with ..." says."""
    said = re.search(r"it fits with (.+) \([\d.]+ GiB\)$", line).group(1)
    settings = [setting.replace(" = ", "=") for setting in said.split(" and ")]
    return validate_recipe(recipe.model_dump(), "fixed", settings), settings


REFUSED = {
    "learner.gradient_checkpointing=true": ["hardware.memory_gib=32.0"],
    "learner.tokens_per_microbatch": ["hardware.memory_gib=24.0", "learner.gradient_checkpointing=true",
                                      "learner.tokens_per_microbatch=65536"],
    "engine.max_rows": ["engine.kind='transformers'", "hardware.memory_gib=24.0",
                        "learner.gradient_checkpointing=true"],
    "engine.memory_share": ["engine.memory_share=0.5", "hardware.memory_gib=24.0", "engine.context=2048",
                            "learner.gradient_checkpointing=true", "learner.tokens_per_microbatch=1200"],
    "hardware.devices": ["hardware.memory_gib=12.0", "learner.gradient_checkpointing=true",
                         "learner.tokens_per_microbatch=1200", "engine.max_rows=16", "engine.memory_share=0.3"],
    "sampling.max_new_tokens": ["hardware.devices=64", "hardware.memory_gib=12.0", "engine.context=32768",
                                "engine.kind='transformers'", "engine.max_rows=1", "sampling.max_new_tokens=32000",
                                "learner.gradient_checkpointing=true", "learner.tokens_per_microbatch=64"],
}  # fmt: skip


@pytest.mark.parametrize("field", REFUSED)
def test_a_refusal_names_one_setting_that_makes_it_fit(field):
    recipe = recipe_with(*REFUSED[field])
    line = refusal(recipe)
    fitting, settings = apply(recipe, line)
    assert len(settings) == 1
    assert settings[0].startswith(field)
    assert check_plan(fitting, known_config(QWEN)).fits


def test_a_refusal_names_several_settings_where_one_is_not_enough():
    recipe = recipe_with("hardware.memory_gib=10.0", "engine.kind='transformers'", "sampling.max_new_tokens=1900")
    fitting, settings = apply(recipe, refusal(recipe))
    assert len(settings) > 1
    assert check_plan(fitting, known_config(QWEN)).fits
    for setting in settings:
        rest = [other for other in settings if other != setting]
        alone = validate_recipe(recipe.model_dump(), "alone", [setting])
        assert rest
        assert not make_plan(alone, known_config(QWEN)).fits


def test_a_refusal_says_what_is_largest_and_when_nothing_helps():
    line = refusal(recipe_with("hardware.memory_gib=0.5"))
    assert "and hardware.memory_gib is 0.5, of which 0.5 can be used; the largest items are activations" in line
    assert line.endswith("no setting makes it fit; use a smaller model, or a device with more memory")


def test_vllm_must_have_room_for_one_context():
    recipe = recipe_with("engine.memory_share=0.15", "engine.context=30000", "learner.gradient_checkpointing=true")
    line = refusal(recipe)
    assert "engine.memory_share leaves vLLM room for the keys and values of" in line
    fitting, (setting,) = apply(recipe, line)
    assert setting == "engine.memory_share=0.2"
    assert make_plan(fitting, known_config(QWEN)).cache_fits


def test_the_margin_is_kept():
    transformers = ("engine.kind='transformers'", "engine.max_rows=8")
    need = plan_with(*transformers).need_gib
    assert plan_with(*transformers, f"hardware.memory_gib={need / 0.94}").fits
    assert not plan_with(*transformers, f"hardware.memory_gib={need / 0.96}").fits


def test_a_real_run_asks_the_machine_whatever_the_recipe_says(monkeypatch):
    monkeypatch.setattr("spiral.plan.fit.device_memory_gib", lambda device: {"auto": 3.0}[device])
    assert plan_with().memory_gib == 40
    assert plan_with("hardware.memory_gib=0.0").memory_gib == 3
    with pytest.raises(ValueError, match=r"and this machine has 3\.0, of which 2\.8 can be used"):
        check_plan(recipe_with(), known_config(QWEN), this_machine=True)


def test_memory_of_this_machine(monkeypatch, tmp_path):
    here = device_memory_gib("cpu")
    assert 0.1 < here < 100_000
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(hardware, "CGROUP_LIMITS", (str(limit), str(tmp_path / "absent")))
    limit.write_text("67108864\n")
    assert device_memory_gib("cpu") == 1 / 16
    limit.write_text("max\n")
    assert device_memory_gib("cpu") >= here
    monkeypatch.delattr("os.sysconf")
    assert device_memory_gib("cpu") == float("inf")


def test_a_recipe_for_several_devices_does_not_start_in_one_process():
    check_runnable(recipe_with())
    recipe = recipe_with("hardware.devices=4")
    check_runnable(recipe, processes=4)
    with pytest.raises(
        ValueError, match=r"planned for 4 devices \(hardware.devices\), but this run has 1 process; "
    ) as caught:
        check_runnable(recipe)
    assert "--set hardware.devices=1 --set hardware.memory_gib=0 " in str(caught.value)


def test_in_float32_every_process_has_the_whole_learner():
    one, two = (plan_with("model.compute='float32'", f"hardware.devices={devices}") for devices in (1, 2))
    for name in ("weights", "AdamW's two moments", "gradients"):
        assert gib(two, name) == gib(one, name)


def test_learner_workers_are_devices():
    cluster = ["cluster.rollout_workers=1", "cluster.learner_workers=4"]
    assert recipe_with(*cluster).hardware.devices == 4
    assert recipe_with(*cluster, "hardware.devices=4").hardware.devices == 4
    with pytest.raises(ValueError, match=r"learner_workers is 4 and hardware\.devices is 2; expected the same"):
        recipe_with(*cluster, "hardware.devices=2")
    with pytest.raises(ValueError, match=r"set cluster\.rollout_workers to 1 or more"):
        recipe_with("cluster.learner_workers=2")


def test_the_description_adds_up():
    plan = plan_with("hardware.devices=2")
    lines = describe(plan)
    assert lines[:2] == [f"{QWEN}: 596,049,920 parameters", "Memory of each of 2 devices, in GiB:"]
    numbers = [float(line.split()[0]) for line in lines[2 : 2 + len(plan.items)]]
    assert numbers == [round(item.gib, 2) for item in plan.items]
    total = next(line for line in lines if "at most: " in line)
    assert float(total.split()[0]) == round(plan.need_gib, 2)
    assert "usable: 40.00 (hardware.memory_gib) less 5%" in "\n".join(lines)
    assert all(len(line) < 120 for line in lines)


@pytest.mark.parametrize(
    ("settings", "checkpoints", "snapshots"),
    [
        (["run.steps=400", "run.checkpoint_every=50"], 9, 0),
        (["run.steps=401", "run.checkpoint_every=50"], 10, 0),
        (["run.steps=400", "run.checkpoint_every=50", "run.keep_checkpoints=2"], 4, 0),
        (["run.steps=20", "run.checkpoint_every=50", "run.keep_checkpoints=2"], 2, 0),
        (["run.steps=400", "run.keep_checkpoints=2", "run.snapshots=[0, 16, 128, 256, 384, 400]"], 4, 6),
        (["run.steps=100", "run.keep_checkpoints=2", "run.snapshots=[400, 0, 16, 0, 128]"], 3, 2),
    ],
)
def test_the_disk_of_checkpoints_and_snapshots(settings, checkpoints, snapshots):
    plan = plan_with(*settings)
    assert (plan.disk.checkpoints, plan.disk.snapshots) == (checkpoints, snapshots)
    assert plan.disk.checkpoint_gib * GIB == 12 * 596_049_920
    assert plan.disk.snapshot_gib * GIB == 2 * 596_049_920
    total = checkpoints * 12 * 596_049_920 + snapshots * 2 * 596_049_920
    assert plan.disk.gib * GIB == pytest.approx(total)
    assert describe(plan)[-1].startswith(f"Disk, in GiB: {plan.disk.gib:.2f} ({checkpoints} checkpoints of 6.66")


def test_a_plan_is_frozen_and_a_dry_run_is_toml_with_comments():
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan_with().parameters = 1
    text = "\n".join(f"# {line}" for line in describe(plan_with()))
    assert tomllib.loads(text) == {}


AGAINST = ("selfplay.opponents={ mirror = 0.5, rival = 0.5 }", f"opponent.rival.model={QWEN}")


def test_an_opponents_engine_is_counted_beside_the_policys():
    alone, against = plan_with(), plan_with(*AGAINST, "opponent.rival.memory_share=0.15")
    assert gib(against, "opponent rival: vLLM's weights") * GIB == 2 * 596_049_920
    both = gib(against, "opponent rival: vLLM's weights") + gib(against, "opponent rival: vLLM's keys and values")
    assert both == pytest.approx(0.15 * 40)
    assert against.need_gib == pytest.approx(alone.need_gib + 0.15 * 40)
    assert [opponent.context for opponent in against.opponents] == [16384]
    # the plain engine computes in the policy's precision, and its replies may be as long as the policy's
    plain = plan_with(*AGAINST, "opponent.rival.engine=transformers")
    assert gib(plain, "opponent rival: the engine's weights") * GIB == 2 * 596_049_920
    longer = plan_with(*AGAINST, "opponent.rival.engine=transformers", "opponent.rival.max_new_tokens=4000")
    cache = "opponent rival: keys and values"
    assert gib(longer, cache) > 2.5 * gib(plain, cache)
    elsewhere = plan_with(*AGAINST, "opponent.rival.device=cuda:1")
    assert elsewhere.need_gib == alone.need_gib
    assert "Not counted: opponent rival: it is on another device, cuda:1" in describe(elsewhere)


def test_an_opponent_that_only_evaluates_is_held_by_the_worker_that_evaluates():
    two = ("cluster.rollout_workers=2", "model.device=cpu")
    recipe = recipe_with(*two, "evaluation.games=['tictactoe']", f"evaluation.opponents=['{QWEN}']")
    name = f"opponent {QWEN}: vLLM's weights"
    plan = make_plan(recipe, known_config(QWEN))
    assert gib(plan, name) * GIB == 2 * 596_049_920  # in one of the two workers of a machine
    trained = make_plan(recipe_with(*two, *AGAINST), known_config(QWEN))
    assert gib(trained, "opponent rival: vLLM's weights") * GIB == 2 * 2 * 596_049_920


def test_an_opponent_that_does_not_fit_is_refused_with_a_setting_that_helps():
    with pytest.raises(ValueError, match=r"opponent rival: vLLM's keys and values.* it fits with ") as large:
        check_plan(recipe_with(*AGAINST, "opponent.rival.memory_share=0.6"), known_config(QWEN))
    remedy = re.search(r"fits with (.*) \(", str(large.value)).group(1).replace(" ", "").split("and")
    check_plan(recipe_with(*AGAINST, "opponent.rival.memory_share=0.6", *remedy), known_config(QWEN))
    small = (*AGAINST, "opponent.rival.memory_share=0.06", "hardware.memory_gib=80")
    words = (
        r"opponent.rival.memory_share leaves the opponent's vLLM room for the keys and values of [\d,]+ tokens, but it"
        r" needs room for one context of 16,384 \(opponent.rival.context\); it fits with opponent.rival.memory_share = "
    )
    with pytest.raises(ValueError, match=words):
        check_plan(recipe_with(*small), known_config(QWEN))


def test_an_opponent_out_of_reach_is_named_and_refused_at_a_start(monkeypatch):
    monkeypatch.setattr("spiral.models.hub.hub_answers", lambda: False)
    recipe = recipe_with(AGAINST[0], "opponent.rival.model=nobody/has-this")
    assert any(line.startswith("Not counted: opponent rival: there is no path") for line in describe(
        make_plan(recipe, known_config(QWEN))))  # fmt: skip
    with pytest.raises(ValueError, match="nobody/has-this"):
        make_plan(recipe, known_config(QWEN), this_machine=True)


def test_a_history_lengthens_prompts_as_far_as_replies_leave_room():
    def longest(*settings):
        (game,) = plan_with(*settings).budget.games
        assert game.prompt <= game.max_prompt
        return game.max_prompt

    chat, keep = "prompt.history='chat'", "prompt.history_thoughts='keep'"
    single = longest()
    assert single < longest(chat) < longest(chat, keep) <= 2048 - 1000
    assert single < longest(chat, "engine.context=1300") <= 300
    assert longest(chat, keep, "engine.context=1300") == single  # not one reply of 500 tokens fits
    assert plan_with(chat, keep).budget.max_sample <= 2048
    roomy = "engine.context=8192"
    (dropped,), (kept,) = (plan_with(chat, *more, roomy).budget.games for more in ((), (keep,)))
    # What is kept is computed with the last turn; what is dropped is only common to the beginnings of prompts.
    assert kept.prompt - kept.prefix < dropped.prompt - dropped.prefix < dropped.prompt < kept.prompt
