"""Memory that a run needs, computed from shapes: the learner, the engine, and what shares a device.

Of the learner:

    state     float32 weights 4 P / N, AdamW's two moments 8 T / N, gradients 4 T / N    P parameters, T trainable
              bfloat16 copies of the weights that compute, gathered one block at a time (FSDP2), or all on one device
    pass      what autograd keeps of a block, times the layers; with gradient checkpointing one block, and the input of
              every other; keys and values of samples that share a prefix, which is written before each of them
              logits of one chunk of `training/logprobs.py`

N devices share the learner's state; everything else is whole on each. The formulas are for blocks like Llama's: RMS
norms, grouped-query attention by a fused kernel, a gated MLP. For other blocks they are estimates.

Of an engine, that of the policy or of an opponent that is a model: its own weights, unless it computes with the
learner's; keys and values of the replies in flight; what a token is sampled from. vLLM takes a share of the device's
memory (`engine.memory_share`) and fills it: with everything on a GPU, with weights and keys and values on a CPU. An
engine that sleeps while the learner updates (`engine.sleep`) holds these only while it is playing. Each of N devices
of one engine (`engine.tensor_parallel`) holds an Nth of the weights, and the keys and values of an Nth of their heads,
or of one head where these are fewer than N.

On which device (`lay_out`):

    one process                            learner and engine on its device, the engine alone on further devices of it
    0 < cluster.gpus_per_worker < 1        an engine on the GPU of each of the learner's ranks; other GPUs for the rest
    cluster.gpus_per_worker of 1 or more   the learner's GPUs and the engines' GPUs
    CPUs                                   all processes of a machine share one memory

Processes are placed by `distributed/placement.py`. A recipe for several devices without rollout workers is planned as
if they shared the learner's GPUs. On a Ray cluster of CPU machines, whose number is not known, the learner's ranks are
taken to be on one machine and every rollout worker on a separate one.

Not counted: the few hundred MiB of the framework, fragmentation, tensors that live for a moment (a gathered weight on
its way to the engine, the copy that a growing cache makes of itself), and what vLLM keeps of a share that is not free
when it starts. The margin in `fit.py` is for them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch

from spiral.inference.slot_cache import SlotCache, SlotLayer, StateLayer, round_up
from spiral.models.files import attention_of
from spiral.models.kinds import BOTH, RECURRENT, layer_kinds, setting
from spiral.models.layers import last_hidden
from spiral.models.loading import context_limit
from spiral.models.shapes import empty_model
from spiral.plan.tokens import SHORT_SHARE, TokenBudget
from spiral.rollout.opponents.loading import plays_past_selves
from spiral.runs.hardware import GIB
from spiral.runs.opponents import shared_opponents
from spiral.runs.recipe import Recipe
from spiral.training.layout import unpackable
from spiral.training.logprobs import CHUNK_ELEMENTS
from spiral.training.packing import MIN_PREFIX

LOGIT_ARRAYS = 6
"""Float32 arrays as large as a chunk's logits that are alive at the peak of its backward pass (measured)."""
SAMPLING_BYTES = 32
"""Bytes for each logit when a token is sampled: float32 and float64 probabilities and their sums."""
CACHE_SLACK = 1.5
"""Storage for keys and values grows in steps, so some of it is not in use."""
VLLM_WORKING_GIB = 1.0
"""Memory of vLLM for activations and CUDA graphs: an allowance, not a measurement."""
VLLM_LOGIT_ARRAYS = 3
"""Float32 arrays of logits, one row for every reply it may hold, that vLLM samples from."""

Phase = Literal["always", "playing", "updating"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """Something that takes memory on a device, and when."""

    name: str
    gib: float
    phase: Phase
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model that the formulas need."""

    parameters: int
    largest_block: int
    """Parameters of one layer."""
    outside_blocks: int
    """Parameters of embeddings, output head and last norm."""
    layers: int
    hidden: int
    intermediate: int
    query_size: int
    """Heads times head size."""
    key_size: int
    """Key-value heads times head size."""
    heads: int
    key_heads: int
    """Heads of keys and values."""
    normed_heads: bool
    """Whether queries and keys are normed (Qwen3)."""
    vocabulary: int
    context: int
    linear_layers: tuple[tuple[str, int], ...]
    """Name and sides (inputs plus outputs) of every linear layer but the head."""
    kept_per_token: int
    """Numbers that an engine keeps of every token: keys and values of all layers that attend."""
    kept_per_reply: int = 0
    """Numbers that an engine keeps of every reply besides: states of recurrent layers."""
    pads: str = ""
    """Why samples cannot be packed; empty if they can."""
    unknown: str = ""
    """What is not known of such a model's memory."""


def model_shape(config: Any, who: str = "training") -> ModelShape:
    """The shape of the model that a transformers configuration describes.

    Raises `ValueError` for one that does not say how many tokens it takes, which `who` has to know.
    """
    model = empty_model(config)
    config = config.get_text_config()
    kinds = set(model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks] or [0]
    heads = setting(config, "num_attention_heads") or 0
    head_size = setting(config, "head_dim") or (config.hidden_size // heads if heads else 0)
    key_heads = setting(config, "num_key_value_heads") or heads
    key_size = key_heads * head_size
    per_token, per_reply, unknown = _kept(model, key_size)
    return ModelShape(
        parameters=int(model.num_parameters()),
        largest_block=max(sizes),
        outside_blocks=int(model.num_parameters()) - sum(sizes),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=_intermediate(config),
        query_size=heads * head_size,
        key_size=key_size,
        heads=heads,
        key_heads=key_heads,
        normed_heads=any(name.endswith("q_norm.weight") for name, _ in model.named_parameters()),
        vocabulary=config.vocab_size,
        context=context_limit(config, who),
        linear_layers=tuple(
            (name.rpartition(".")[2], module.in_features + module.out_features)
            for block in blocks
            for name, module in block.named_modules()
            if isinstance(module, torch.nn.Linear)
        ),
        kept_per_token=per_token,
        kept_per_reply=per_reply,
        pads=unpackable(config, attention_of(type(model), config)),
        unknown=unknown,
    )


def _intermediate(config: Any) -> int:
    """Width of the MLP that a token goes through; of a mixture of experts that of all its experts together."""
    sizes = setting(config, "intermediate_size") or 4 * config.hidden_size
    size = max(sizes) if isinstance(sizes, list | tuple) else int(sizes)
    chosen = getattr(config, "num_experts_per_tok", None) or 0
    return max(size, chosen * (getattr(config, "moe_intermediate_size", None) or 0))


def _kept(model: Any, key_size: int) -> tuple[int, int, str]:
    """Numbers that an engine keeps per token and per reply, and what is not known of them.

    A model of more than full attention is asked: it computes a few tokens without numbers (on the meta device), and
    the shapes of what it keeps are counted.
    """
    kinds = layer_kinds(model.config)
    others = sorted(set(kinds) & {*RECURRENT, *BOTH})
    said = f"layers of the kind {', '.join(others)} are counted like attention" if others else ""
    if set(kinds) == {"full_attention"}:
        return 2 * len(kinds) * key_size, 0, said
    cache, tokens = SlotCache(kinds, int(getattr(model.config, "number_of_conv_states", 1))), 8
    try:
        cache.begin_prefill(1)
        last_hidden(
            model.eval(),
            input_ids=torch.zeros(1, tokens, dtype=torch.long, device="meta"),
            past_key_values=cache,
            use_cache=True,
        )
        cache.end_prefill()
    except Exception:  # the code of a model family may raise anything, and not all of it runs without numbers
        attending = sum(kind not in RECURRENT for kind in kinds)
        return 2 * attending * key_size, 0, said + (", and their states are not counted" if others else "")
    keys = [layer for layer in cache.layers if isinstance(layer, SlotLayer) and layer.is_initialized]
    per_token = sum(side.shape[1] * side.shape[3] for layer in keys for side in (layer.keys, layer.values))
    per_reply = sum(layer.numbers() for layer in cache.layers if isinstance(layer, StateLayer))
    return per_token, per_reply, said


def trainable_parameters(recipe: Recipe, shape: ModelShape) -> int:
    """The number of all parameters, or of those that LoRA adds: rank times both sides of every layer it is added to."""
    lora = recipe.lora
    if not lora.rank:
        return shape.parameters
    return lora.rank * sum(sides for name, sides in shape.linear_layers if not lora.modules or name in lora.modules)


def block_bytes(shape: ModelShape, size: int, packed: bool) -> int:
    """Bytes that autograd keeps of one token in one block; `size` is that of a computed number (4 or 2).

    - A norm keeps its input in float32, its result before and after the weights: 4 + 2 s a channel. The norms of
      queries and keys keep 4 + s: their result is passed to the rotation, which keeps nothing.
    - Attention keeps queries, keys, values and its result, and a float32 number a head. Packed rows have the result
      put back in order, which is one copy more.
    - The gated MLP keeps the gate before and after its activation, the other branch, and their product.
    """
    norms = 2 * (4 + 2 * size) * shape.hidden
    if shape.normed_heads:
        norms += (4 + size) * (shape.query_size + shape.key_size)
    results = 2 if packed else 1
    attention = size * ((1 + results) * shape.query_size + 2 * shape.key_size) + 4 * shape.heads
    return norms + attention + 4 * size * shape.intermediate


def activation_bytes(shape: ModelShape, tokens: int, *, size: int, packed: bool, checkpointing: bool) -> int:
    """Bytes that autograd keeps of a micro-batch of `tokens` tokens up to the last hidden states.

    With checkpointing: the input of every block, and one whole block when the backward pass reaches it.
    """
    block = block_bytes(shape, size, packed)
    last_norm = (4 + 3 * size) * shape.hidden
    blocks = shape.layers * size * shape.hidden + block if checkpointing else shape.layers * block
    return tokens * (blocks + last_norm)


def prefix_bytes(shape: ModelShape, positions: int, *, size: int, checkpointing: bool) -> int:
    """Bytes that autograd keeps in addition for samples that attend to a shared prefix.

    `positions` counts what they attend to: for every sample the prefix and its own tokens. A prefix needs a mask, with
    which PyTorch's kernels want keys and values as wide as queries.
    """
    return (1 if checkpointing else shape.layers) * 2 * size * shape.query_size * positions


def cache_bytes(shape: ModelShape, size: int) -> int:
    """Bytes of the keys and values of one token, without regard to windows."""
    return shape.kept_per_token * size


def number_size(recipe: Recipe) -> int:
    """Bytes of a number in the recipe's compute precision."""
    return 2 if recipe.model.compute == "bfloat16" else 4


def learner_items(recipe: Recipe, shape: ModelShape, budget: TokenBudget, trainable: int, gpu: bool) -> list[Item]:
    """The memory of one rank of the learner."""
    size, devices = number_size(recipe), recipe.hardware.devices
    shards = devices if recipe.model.compute == "bfloat16" else 1  # in float32 every process has the whole learner
    items = [
        make_item("weights", 4 * shape.parameters / shards, "always", "float32"),
        make_item("AdamW's two moments", 8 * trainable / shards, "always", "float32"),
        make_item("gradients", 4 * trainable / shards, "updating", "float32"),
        make_item("weights and gradients gathered to compute", gathered_bytes(recipe, shape), "updating"),
        *_pass_items(recipe, shape, budget),
    ]
    if copies_head(recipe, gpu):
        heads = 2 if recipe.loss.kl_coefficient else 1
        copies = 4 * heads * shape.hidden * shape.vocabulary
        items.append(make_item("output head in float32", copies, "updating"))
    if gpu and publishes_from_gpu(recipe):
        items.append(make_item("weights for rollout workers", size * shape.parameters, "always", "cluster.publish"))
    if recipe.loss.kl_coefficient:
        turns = budget.max_turns / devices
        hidden = turns * min(budget.response, budget.context) * shape.hidden * size
        items += [
            make_item("reference", size * shape.parameters, "always", recipe.model.compute),
            make_item("the reference's hidden states", hidden, "updating", "every token sampled in the step"),
        ]
    return items


def publishes_from_gpu(recipe: Recipe) -> bool:
    """Whether a copy of the weights stays on the learner's GPUs until the next one is published."""
    several = recipe.cluster.rollout_workers > 0 or recipe.hardware.devices > 1
    return several and recipe.cluster.publish != "object_store"


def _pass_items(recipe: Recipe, shape: ModelShape, budget: TokenBudget) -> list[Item]:
    """The memory of the passes of one micro-batch through the model."""
    size, checkpointing = number_size(recipe), recipe.learner.gradient_checkpointing
    tokens, packed = microbatch_tokens(recipe, budget), packs(recipe, shape)
    kept = activation_bytes(shape, tokens, size=size, packed=packed, checkpointing=checkpointing)
    passing = tokens * size * (3 * shape.intermediate + 2 * shape.query_size + 3 * shape.hidden)
    logits = LOGIT_ARRAYS * 4 * min(CHUNK_ELEMENTS, tokens * shape.vocabulary)
    note = f"{tokens:,} tokens{', checkpointed' * checkpointing}"
    if recipe.learner.layout == "auto" and shape.pads:
        note += f"; padded: {shape.pads}"
    if shape.unknown:
        note += f"; {shape.unknown}"
    items = [make_item("activations of a micro-batch", kept, "updating", note)]
    samples, prefix = samples_behind_prefixes(recipe, budget, tokens) if packed else (0, 0.0)
    if samples:
        positions = tokens + round(samples * prefix)
        wide = prefix_bytes(shape, positions, size=size, checkpointing=checkpointing)
        passing += prefix_bytes(shape, positions, size=size, checkpointing=True)  # one block's gradients
        note = f"{samples:,} samples, {prefix:,.0f} tokens shared"
        items.append(make_item("keys and values after shared prefixes", wide, "updating", note))
    return [
        *items,
        make_item("gradients of activations", passing, "updating"),
        make_item("logits of a chunk", logits, "updating"),
    ]


def microbatch_tokens(recipe: Recipe, budget: TokenBudget) -> int:
    """Tokens of the largest micro-batch: the setting, but at least one sample and at most the whole minibatch."""
    share = budget.max_tokens // (recipe.hardware.devices * recipe.learner.minibatches)
    return max(budget.max_sample, min(recipe.learner.tokens_per_microbatch, share))


def packs(recipe: Recipe, shape: ModelShape) -> bool:
    """Whether the samples of a recipe's model are packed."""
    layout = recipe.learner.layout
    return layout == "packed" or (layout == "auto" and not shape.pads)


def samples_behind_prefixes(recipe: Recipe, budget: TokenBudget, tokens: int) -> tuple[int, float]:
    """Samples of a packed micro-batch that share a prefix when replies are short, and its length; (0, 0.0) for none."""
    prefix = budget.prefix
    if prefix < MIN_PREFIX:
        return 0, 0.0
    own = budget.prompt - prefix + SHORT_SHARE * budget.response
    share = budget.max_turns // (recipe.hardware.devices * recipe.learner.minibatches)
    samples = min(share, int((tokens - prefix) / max(1.0, own)))
    return (samples, prefix) if samples > 1 else (0, 0.0)


def gathered_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """Bytes of the bfloat16 weights that compute, and of their gradients before they are reduced in float32.

    On one device FSDP2 keeps the copy of the whole model from the forward to the backward pass; on several there are
    two blocks (the next one is prefetched) and what is outside blocks. The head's gradient exists twice while chunks
    add to it. In float32 the weights themselves compute.
    """
    size = number_size(recipe)
    if size == 4:
        return 4 * shape.outside_blocks
    alone = recipe.hardware.devices == 1
    weights = shape.parameters if alone else shape.outside_blocks + 2 * shape.largest_block
    return size * (weights + shape.largest_block + 2 * shape.outside_blocks) + 4 * shape.largest_block


def copies_head(recipe: Recipe, gpu: bool) -> bool:
    """Whether there is a float32 copy of the output head's weights beside those in bfloat16 (`models/head.py`)."""
    return recipe.model.head == "float32" and number_size(recipe) < 4 and not gpu


def make_item(name: str, size: float, phase: Phase, note: str = "") -> Item:
    """An item of `size` bytes."""
    return Item(name=name, gib=size / GIB, phase=phase, note=note)


def engine_items(
    recipe: Recipe, shape: ModelShape, budget: TokenBudget, memory_gib: float, gpu: bool, *, evaluates: bool = True
) -> list[Item]:
    """The memory of one engine on a device of `memory_gib`. In a cluster only one engine `evaluates`."""
    rows = rows_in_flight(recipe, evaluates)
    past = [] if gpu else past_self_items(recipe, shape)  # with GPUs in main memory, of which there is no plan
    if recipe.engine.kind == "vllm":
        return [*_vllm(recipe, shape, rows, memory_gib, gpu), *past]
    alone = number_size(recipe) == 4 and not recipe.cluster.rollout_workers  # in a cluster it has its own weights
    return [*_transformers(recipe, shape, budget, rows, gpu, shared=alone), *past]


def past_self_items(recipe: Recipe, shape: ModelShape) -> list[Item]:
    """The main memory that an engine needs besides to play past selves, or opponents that share it.

    They use its place for weights in turn.
    """
    shared = bool(shared_opponents(recipe))
    if not shared and not plays_past_selves(recipe.selfplay):
        return []
    size = number_size(recipe) * shape.parameters
    read = 4 * shape.parameters if shared else size  # past selves are in the engine's precision, checkpoints in float32
    return [
        make_item("the policy's weights while others play in its engine", size, "always", recipe.model.compute),
        make_item("a past self or an opponent that is read from disk", read, "playing"),
    ]


def opponent_items(
    name: str, recipe: Recipe, shape: ModelShape, budget: TokenBudget, memory_gib: float, gpu: bool, rows: int
) -> list[Item]:
    """The memory of an opponent's engine.

    Args:
        name: The opponent.
        recipe: The run's recipe with the opponent's model, sampling and engine.
        shape: The opponent's model.
        budget: Its tokens.
        memory_gib: The device's memory.
        gpu: Whether the device is a GPU.
        rows: Replies in flight; 0 for a worker that does not play with it, whose items are 0.
    """
    if recipe.engine.kind == "vllm":
        items = _vllm(recipe, shape, rows, memory_gib, gpu)
    else:
        items = _transformers(recipe, shape, budget, rows, gpu, shared=False)
    return [
        dataclasses.replace(item, name=f"opponent {name}: {item.name}", gib=item.gib if rows else 0.0) for item in items
    ]


def rows_in_flight(recipe: Recipe, evaluates: bool = True) -> int:
    """Replies that an engine generates at once, in self-play or in evaluation.

    A rollout worker is counted with up to twice its share of a step's games, since a faster worker plays more.
    """
    games = recipe.selfplay.games_begun
    playing = min(recipe.selfplay.in_flight, games)
    if recipe.cluster.rollout_workers:
        playing = min(playing, math.ceil(2 * games / recipe.cluster.rollout_workers))
    if not evaluates:
        return min(recipe.engine.max_rows, playing)
    evaluating = min(recipe.evaluation.in_flight, recipe.evaluation.episodes) if recipe.evaluation.games else 0
    return min(recipe.engine.max_rows, max(playing, evaluating))


def vllm_cache_tokens(recipe: Recipe, shape: ModelShape, memory_gib: float, gpu: bool) -> int:
    """Number of tokens that fit into vLLM's cache on its devices. To start, it needs space for one context."""
    processes = recipe.engine.tensor_parallel
    copies = processes / min(processes, max(1, shape.key_heads))  # of a head's keys and values
    room = recipe.engine.memory_share * memory_gib * GIB
    if gpu:
        room = processes * (room - _vllm_working_bytes(shape, recipe.engine.max_rows))
    room -= number_size(recipe) * shape.parameters
    return max(0, int(room // max(1, copies * cache_bytes(shape, number_size(recipe)))))


def _vllm(recipe: Recipe, shape: ModelShape, rows: int, memory_gib: float, gpu: bool) -> list[Item]:
    """The memory of a vLLM: on each of its GPUs, or of all its processes in the one memory of a CPU."""
    processes = recipe.engine.tensor_parallel
    own = number_size(recipe) * shape.parameters / (processes if gpu else 1)
    held = _weights_phase(recipe, gpu)
    room = f"room for {vllm_cache_tokens(recipe, shape, memory_gib, gpu):,} tokens"
    note = recipe.model.compute + (f", a share of {processes}" if gpu and processes > 1 else "")
    cache = max(0.0, recipe.engine.memory_share * memory_gib * GIB - own)
    items = [
        make_item("vLLM's weights", own, held, note),
        make_item("vLLM's keys and values", cache, held, room),
    ]
    if not gpu:  # there its share is for weights, keys and values alone
        working = processes * _vllm_working_bytes(shape, rows)
        items.append(make_item("vLLM's working memory and logits", working, "playing"))
    if copies_head(recipe, gpu):
        items.append(make_item("vLLM's output head in float32", 4 * shape.hidden * shape.vocabulary, "playing"))
    return items


def _transformers(
    recipe: Recipe, shape: ModelShape, budget: TokenBudget, rows: int, gpu: bool, *, shared: bool
) -> list[Item]:
    size = number_size(recipe)
    own = 0 if shared and not recipe.lora.rank else size * shape.parameters
    caches: Phase = "playing" if recipe.engine.sleep else "always"
    length = round_up(budget.max_sample)
    cache = CACHE_SLACK * rows * (length * cache_bytes(shape, size) + shape.kept_per_reply * size)
    prefill = rows * round_up(budget.max_prompt) * size * (3 * shape.intermediate + 3 * shape.hidden)
    sampling = SAMPLING_BYTES * rows * shape.vocabulary
    items = [
        make_item(
            "the engine's weights",
            own,
            "always" if shared else _weights_phase(recipe, gpu),
            recipe.model.compute if own else "shared with the learner",
        ),
        make_item(
            "keys and values" + " and states" * bool(shape.kept_per_reply),
            cache,
            caches,
            f"{rows:,} replies of up to {length:,} tokens",
        ),
        make_item("prefill and sampling", prefill + sampling, "playing"),
    ]
    if copies_head(recipe, gpu):
        items.append(make_item("the engine's output head in float32", 4 * shape.hidden * shape.vocabulary, caches))
    return items


def _weights_phase(recipe: Recipe, gpu: bool) -> Phase:
    """When the engine's weights are on the device. A sleeping engine moves them to the CPU, which frees only a GPU."""
    return "playing" if recipe.engine.sleep and gpu else "always"


def _vllm_working_bytes(shape: ModelShape, rows: int) -> float:
    return VLLM_WORKING_GIB * GIB + VLLM_LOGIT_ARRAYS * 4 * rows * shape.vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A group of devices with the same memory items."""

    name: str
    items: tuple[Item, ...]
    together: str = ""
    """Why both phases happen at the same time; empty when they do not."""

    def phase_gib(self, phase: Phase) -> float:
        """Memory used in a phase of the step."""
        return sum(item.gib for item in self.items if item.phase in ("always", phase))

    @property
    def need_gib(self) -> float:
        """The most memory used at once."""
        if self.together:
            return sum(item.gib for item in self.items)
        return max(self.phase_gib("playing"), self.phase_gib("updating"))


def lay_out(
    recipe: Recipe, learner: Iterable[Item], engine: Iterable[Item], others: Iterable[Item], gpu: bool
) -> tuple[Device, ...]:
    """Every kind of device.

    Args:
        recipe: Says how many processes there are and which share devices.
        learner: Memory of one rank of the learner.
        engine: Memory of the engine that evaluates.
        others: Memory of each of the other engines.
        gpu: Whether the devices are GPUs.
    """
    ranks, workers = recipe.hardware.devices, recipe.cluster.rollout_workers
    learner, engine = tuple(learner), tuple(engine)
    if not workers and (gpu or ranks == 1):
        further = ranks * (recipe.engine.tensor_parallel - 1) if gpu else 0
        beside = [Device(name=_each(further, "further GPU") + " of the engine", items=engine)] if further else []
        return (Device(name=_each(ranks, "device"), items=(*learner, *engine)), *beside)
    return _gpus(recipe, learner, engine) if gpu else _machines(recipe, learner, engine, tuple(others))


def _gpus(recipe: Recipe, learner: tuple[Item, ...], engine: tuple[Item, ...]) -> tuple[Device, ...]:
    cluster, ranks = recipe.cluster, recipe.hardware.devices
    engine_gpus = cluster.rollout_workers * recipe.engine.tensor_parallel
    if not cluster.shares_gpus:
        return (
            Device(name=_each(ranks, "GPU") + " of the learner", items=learner),
            Device(name=_each(engine_gpus, "GPU") + " of rollout workers", items=engine),
        )
    ahead = "both at once on a shared GPU" if cluster.schedule != "sync" else ""
    shared = Device(name=_each(ranks, "GPU") + " of the learner", items=(*learner, *engine), together=ahead)
    others = min(cluster.rollout_workers - ranks, int(1 / cluster.gpus_per_worker))
    if others <= 0:
        return (shared,)
    return shared, Device(name=f"a GPU of {_count(others, 'other rollout worker')}", items=_times(engine, others))


def _machines(
    recipe: Recipe, learner: tuple[Item, ...], engine: tuple[Item, ...], others: tuple[Item, ...]
) -> tuple[Device, ...]:
    cluster, ranks = recipe.cluster, recipe.hardware.devices
    workers = cluster.rollout_workers or ranks
    learners = _times(learner, ranks)
    if cluster.rollout_workers and cluster.address != "local":
        return (
            Device(name=f"the machine of {_count(ranks, 'learner worker')}", items=learners),
            Device(name="the machine of a rollout worker", items=engine),
        )
    ahead = "both at once on one machine" if cluster.rollout_workers and cluster.schedule != "sync" else ""
    name = f"a machine of {_count(ranks, 'learner worker')} and {_count(workers, 'rollout worker')}"
    return (Device(name=name, items=(*learners, *_with_others(engine, others, workers - 1)), together=ahead),)


def _times(items: Iterable[Item], processes: int) -> tuple[Item, ...]:
    """The items of several processes in one memory."""
    if processes == 1:
        return tuple(items)
    return tuple(
        dataclasses.replace(
            item,
            gib=item.gib * processes,
            note=", ".join(filter(None, (item.note, f"in {processes} processes"))),
        )
        for item in items
    )


def _with_others(engine: tuple[Item, ...], others: tuple[Item, ...], number: int) -> tuple[Item, ...]:
    """The items of the engine that evaluates and `number` others in one memory."""
    if engine == others or not number:
        return _times(engine, 1 + number)
    return tuple(
        dataclasses.replace(
            own,
            gib=own.gib + number * other.gib,
            note=", ".join(
                filter(None, (own.note, _count(number, "other process", "es") + f": {other.note}".rstrip(": ")))
            ),
        )
        for own, other in zip(engine, others, strict=True)
    )


def _each(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"each of {number} {what}s"


def _count(number: int, what: str, more: str = "s") -> str:
    return f"{number} {what}{more if number != 1 else ''}"
