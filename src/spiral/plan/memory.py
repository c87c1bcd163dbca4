"""How much memory of a device each part of a run takes: arithmetic on shapes, nothing is allocated.

    learner   float32 weights 4 P / N, AdamW's two moments 8 T / N, gradients 4 T / N    P parameters, T trainable
              bfloat16 copies of the weights that compute, gathered one block at a time (FSDP2), or all on one device
              activations: what autograd keeps of a block, times the layers; with gradient checkpointing one block, and
              the input of every other
              logits of one chunk of `learner/logprobs.py`
    engine    its own weights, unless it computes with the learner's; keys and values of the replies in flight

An engine that sleeps while the learner updates (`engine.sleep`) holds these only while it is playing.
N devices share the learner's state; everything else is whole on each. The formulas are for blocks like Llama's: RMS
norms, grouped-query attention by a fused kernel, a gated MLP. For others they are estimates.

Left out: a framework's own few hundred MiB, fragmentation, and tensors of a moment (a gathered weight on its way to
the engine, the copy that a growing cache makes of itself). The margin in `planning.py` is for them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

from spiral.hardware import GIB
from spiral.learner.logprobs import CHUNK_ELEMENTS
from spiral.plan.tokens import TokenBudget
from spiral.policies.slot_cache import round_up
from spiral.recipe import Recipe
from spiral.seating import empty_model

LOGIT_ARRAYS = 6
"""Float32 arrays as large as a chunk's logits that are alive at the worst moment of its backward pass (measured)."""
SAMPLING_BYTES = 32
"""A logit's worth of memory when a token is drawn from it: float32 and float64 probabilities and their sums."""
CACHE_SLACK = 1.5
"""Storage for keys and values grows in steps, so some of it is not in use."""
VLLM_WORKING_GIB = 1.0
"""What vLLM keeps of its share for activations and CUDA graphs: an allowance, not a measurement."""
VLLM_LOGIT_ARRAYS = 3
"""Float32 arrays of logits, one row for every reply it may hold, that vLLM draws from."""

Phase = Literal["always", "playing", "updating"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that takes memory on a device, and when."""

    name: str
    gib: float
    phase: Phase
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What of a model the formulas need."""

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
    normed_heads: bool
    """Whether queries and keys are normed (Qwen3)."""
    vocabulary: int
    context: int
    linear_layers: tuple[tuple[str, int], ...]
    """Name and sides (inputs plus outputs) of every linear layer but the head."""


def model_shape(config: Any) -> ModelShape:
    """The shape of the model that a transformers configuration describes."""
    model = empty_model(config)
    config = config.get_text_config()
    kinds = set(model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks] or [0]
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        parameters=int(model.num_parameters()),
        largest_block=max(sizes),
        outside_blocks=int(model.num_parameters()) - sum(sizes),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        query_size=config.num_attention_heads * head_size,
        key_size=(getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head_size,
        heads=config.num_attention_heads,
        normed_heads=any(name.endswith("q_norm.weight") for name, _ in model.named_parameters()),
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        linear_layers=tuple(
            (name.rpartition(".")[2], module.in_features + module.out_features)
            for block in blocks
            for name, module in block.named_modules()
            if isinstance(module, torch.nn.Linear)
        ),
    )


def trainable_parameters(recipe: Recipe, shape: ModelShape) -> int:
    """All of them, or those that LoRA adds: rank times both sides of every layer it is added to."""
    lora = recipe.lora
    if not lora.rank:
        return shape.parameters
    return lora.rank * sum(sides for name, sides in shape.linear_layers if not lora.modules or name in lora.modules)


def block_bytes(shape: ModelShape, size: int, packed: bool) -> int:
    """What autograd keeps of one token in one block, in bytes; `size` is that of a computed number (4 or 2).

    - A norm keeps its input in float32, its result before and after the weights: 4 + 2 s a channel. The norms of
      queries and keys keep 4 + s: what they give goes on to the rotation, which keeps nothing.
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
    """What autograd keeps of a micro-batch of `tokens` tokens up to the last hidden states, in bytes.

    With checkpointing: the input of every block, and one whole block when the backward pass comes to it.
    """
    block = block_bytes(shape, size, packed)
    last_norm = (4 + 3 * size) * shape.hidden
    blocks = shape.layers * size * shape.hidden + block if checkpointing else shape.layers * block
    return tokens * (blocks + last_norm)


def cache_bytes(shape: ModelShape, size: int) -> int:
    """Keys and values of one token, in bytes."""
    return 2 * shape.layers * shape.key_size * size


def number_size(recipe: Recipe) -> int:
    """Bytes of a number in the recipe's compute precision."""
    return 2 if recipe.model.compute == "bfloat16" else 4


def learner_items(recipe: Recipe, shape: ModelShape, budget: TokenBudget, trainable: int, gpu: bool) -> list[Item]:
    """What the learner holds on each device."""
    size, devices = number_size(recipe), recipe.hardware.devices
    shards = devices if recipe.model.compute == "bfloat16" else 1  # in float32 every process has the whole learner
    tokens = microbatch_tokens(recipe, budget)
    checkpointing = recipe.learner.gradient_checkpointing
    kept = activation_bytes(
        shape, tokens, size=size, packed=recipe.learner.layout == "packed", checkpointing=checkpointing
    )
    passing = tokens * size * (3 * shape.intermediate + 2 * shape.query_size + 3 * shape.hidden)
    logits = LOGIT_ARRAYS * 4 * min(CHUNK_ELEMENTS, tokens * shape.vocabulary)
    items = [
        _item("weights", 4 * shape.parameters / shards, "always", "float32"),
        _item("AdamW's two moments", 8 * trainable / shards, "always", "float32"),
        _item("gradients", 4 * trainable / shards, "updating", "float32"),
        _item("weights and gradients gathered to compute", gathered_bytes(recipe, shape), "updating"),
        _item("activations of a micro-batch", kept, "updating", f"{tokens:,} tokens{', checkpointed' * checkpointing}"),
        _item("gradients of activations", passing, "updating"),
        _item("logits of a chunk", logits, "updating"),
    ]
    if copies_head(recipe, gpu):
        heads = 2 if recipe.loss.kl_coefficient else 1
        copies = 4 * heads * shape.hidden * shape.vocabulary
        items.append(_item("output head in float32", copies, "updating"))
    if recipe.loss.kl_coefficient:
        turns = budget.most_turns / devices
        hidden = turns * min(budget.response, budget.context) * shape.hidden * size
        items += [
            _item("reference", size * shape.parameters, "always", recipe.model.compute),
            _item("the reference's hidden states", hidden, "updating", "every token sampled in the step"),
        ]
    return items


def microbatch_tokens(recipe: Recipe, budget: TokenBudget) -> int:
    """Tokens of the largest micro-batch: the setting, but never less than one sample or more than there are."""
    share = budget.most_tokens // (recipe.hardware.devices * recipe.learner.minibatches)
    return max(budget.longest_sample, min(recipe.learner.tokens_per_microbatch, share))


def gathered_bytes(recipe: Recipe, shape: ModelShape) -> int:
    """Weights in bfloat16 while they compute, and their gradients before those are reduced in float32.

    On one device FSDP2 keeps the copy of the whole model from the forward to the backward pass; on several there are
    two blocks (the next one is fetched ahead) beside what is outside blocks. The head's gradient exists twice while
    chunks add to it. In float32 the weights themselves compute.
    """
    size = number_size(recipe)
    if size == 4:
        return 4 * shape.outside_blocks
    alone = recipe.hardware.devices == 1
    weights = shape.parameters if alone else shape.outside_blocks + 2 * shape.largest_block
    return size * (weights + shape.largest_block + 2 * shape.outside_blocks) + 4 * shape.largest_block


def copies_head(recipe: Recipe, gpu: bool) -> bool:
    """Whether there is a float32 copy of the output head's weights beside those in bfloat16 (`policies/head.py`)."""
    return recipe.model.head == "float32" and number_size(recipe) < 4 and not gpu


def engine_items(recipe: Recipe, shape: ModelShape, budget: TokenBudget, vllm_gib: float, gpu: bool) -> list[Item]:
    """What the engine holds on each device; `vllm_gib` is what vLLM would be given (`vllm_share_gib`)."""
    size = number_size(recipe)
    own = size * shape.parameters
    head = 4 * shape.hidden * shape.vocabulary if copies_head(recipe, gpu) else 0
    # What waits in the memory of the CPU frees nothing where that is the device.
    caches: Phase = "playing" if recipe.engine.sleep else "always"
    weights: Phase = caches if gpu else "always"
    if recipe.engine.kind == "vllm":
        room = f"room for {vllm_cache_tokens(recipe, shape, vllm_gib):,} tokens"
        return [
            _item("vLLM's weights", own, weights, recipe.model.compute),
            _item("vLLM's keys and values", max(0.0, vllm_gib * GIB - own), weights, room),
            *([_item("vLLM's output head in float32", head, "playing")] if head else []),
        ]
    if size == 4 and not recipe.lora.rank:
        own = 0
    rows = rows_in_flight(recipe)
    longest = round_up(budget.longest_sample)
    cache = CACHE_SLACK * rows * longest * cache_bytes(shape, size)
    prefill = rows * round_up(budget.longest_prompt) * size * (3 * shape.intermediate + 3 * shape.hidden)
    drawing = SAMPLING_BYTES * rows * shape.vocabulary
    return [
        _item(
            "the engine's weights",
            own,
            weights if size < 4 else "always",  # in float32 it cannot tell whether they are the learner's
            recipe.model.compute if own else "shared with the learner",
        ),
        _item("keys and values", cache, caches, f"{rows:,} replies of up to {longest:,} tokens"),
        _item("prefill and sampling", prefill + drawing, "playing"),
        *([_item("the engine's output head in float32", head, caches)] if head else []),
    ]


def vllm_share_gib(recipe: Recipe, shape: ModelShape, memory_gib: float, gpu: bool) -> float:
    """What vLLM takes for itself: a share of a GPU for everything; of a CPU's memory for keys and values alone."""
    share = recipe.engine.memory_share * memory_gib
    return share if gpu else share + number_size(recipe) * shape.parameters / GIB


def rows_in_flight(recipe: Recipe) -> int:
    """Replies that the transformers engine generates at once, in self-play or in evaluation."""
    playing = min(recipe.selfplay.in_flight, recipe.selfplay.episodes_per_step)
    measuring = min(recipe.evaluation.in_flight, recipe.evaluation.episodes) if recipe.evaluation.games else 0
    return min(recipe.engine.max_rows, max(playing, measuring))


def vllm_cache_tokens(recipe: Recipe, shape: ModelShape, vllm_gib: float) -> int:
    """Tokens whose keys and values fit into what vLLM is given; it needs room for one whole context to start."""
    size = number_size(recipe)
    drawing = VLLM_LOGIT_ARRAYS * 4 * recipe.engine.max_rows * shape.vocabulary
    room = (vllm_gib - VLLM_WORKING_GIB) * GIB - drawing - size * shape.parameters
    return max(0, int(room // cache_bytes(shape, size)))


def _item(name: str, size: float, phase: Phase, note: str = "") -> Item:
    return Item(name=name, gib=size / GIB, phase=phase, note=note)
