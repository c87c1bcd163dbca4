"""How much memory of a device the learner takes: arithmetic on shapes, nothing is allocated.

    state     float32 weights 4 P / N, AdamW's two moments 8 T / N, gradients 4 T / N    P parameters, T trainable
              bfloat16 copies of the weights that compute, gathered one block at a time (FSDP2), or all on one device
    pass      what autograd keeps of a block, times the layers; with gradient checkpointing one block, and the input of
              every other; keys and values of samples that share a prefix, which is written before each of them
              logits of one chunk of `learner/logprobs.py`

N devices share the learner's state; everything else is whole on each. What the engine takes is in `engine_memory.py`.
The formulas are for blocks like Llama's: RMS norms, grouped-query attention by a fused kernel, a gated MLP. For others
they are estimates.

Left out: a framework's own few hundred MiB, fragmentation, and tensors of a moment (a gathered weight on its way to
the engine). The margin in `planning.py` is for them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

from spiral.models.loading import check_architecture, context_limit
from spiral.plan.tokens import SHORT_SHARE, TokenBudget
from spiral.policies.registry import empty_model
from spiral.runs.hardware import GIB
from spiral.runs.recipe import Recipe
from spiral.training.logprobs import CHUNK_ELEMENTS
from spiral.training.prefixes import SHORTEST_PREFIX

LOGIT_ARRAYS = 6
"""Float32 arrays as large as a chunk's logits that are alive at the worst moment of its backward pass (measured)."""

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
    """The shape of the model that a transformers configuration describes.

    Raises `ValueError` for a model that cannot be trained here.
    """
    model = empty_model(config)
    config = config.get_text_config()
    check_architecture(config, "training")
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
        context=context_limit(config, "training"),
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


def prefix_bytes(shape: ModelShape, places: int, *, size: int, checkpointing: bool) -> int:
    """What autograd keeps beyond that of samples that look back into a shared prefix, in bytes.

    `places` are theirs in attention: the prefix and what is a sample's own, for every sample. A prefix needs a mask,
    with which PyTorch's kernels want keys and values as wide as queries.
    """
    return (1 if checkpointing else shape.layers) * 2 * size * shape.query_size * places


def cache_bytes(shape: ModelShape, size: int) -> int:
    """Keys and values of one token, in bytes."""
    return 2 * shape.layers * shape.key_size * size


def number_size(recipe: Recipe) -> int:
    """Bytes of a number in the recipe's compute precision."""
    return 2 if recipe.model.compute == "bfloat16" else 4


def learner_items(recipe: Recipe, shape: ModelShape, budget: TokenBudget, trainable: int, gpu: bool) -> list[Item]:
    """What one rank of the learner holds on its device."""
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
        turns = budget.most_turns / devices
        hidden = turns * min(budget.response, budget.context) * shape.hidden * size
        items += [
            make_item("reference", size * shape.parameters, "always", recipe.model.compute),
            make_item("the reference's hidden states", hidden, "updating", "every token sampled in the step"),
        ]
    return items


def publishes_from_gpu(recipe: Recipe) -> bool:
    """Whether a copy of the weights stays on GPUs of the learner until the next is there; several need a cluster."""
    several = recipe.cluster.rollout_workers > 0 or recipe.hardware.devices > 1
    return several and recipe.cluster.publish != "object_store"


def _pass_items(recipe: Recipe, shape: ModelShape, budget: TokenBudget) -> list[Item]:
    """What the passes of one micro-batch through the model hold."""
    size, checkpointing = number_size(recipe), recipe.learner.gradient_checkpointing
    tokens, packed = microbatch_tokens(recipe, budget), recipe.learner.layout == "packed"
    kept = activation_bytes(shape, tokens, size=size, packed=packed, checkpointing=checkpointing)
    passing = tokens * size * (3 * shape.intermediate + 2 * shape.query_size + 3 * shape.hidden)
    logits = LOGIT_ARRAYS * 4 * min(CHUNK_ELEMENTS, tokens * shape.vocabulary)
    note = f"{tokens:,} tokens{', checkpointed' * checkpointing}"
    items = [make_item("activations of a micro-batch", kept, "updating", note)]
    samples, prefix = samples_behind_prefixes(recipe, budget, tokens)
    if samples:
        places = tokens + round(samples * prefix)
        wide = prefix_bytes(shape, places, size=size, checkpointing=checkpointing)
        passing += prefix_bytes(shape, places, size=size, checkpointing=True)  # one block's, on their way back
        note = f"{samples:,} samples, {prefix:,.0f} tokens shared"
        items.append(make_item("keys and values after shared prefixes", wide, "updating", note))
    return [
        *items,
        make_item("gradients of activations", passing, "updating"),
        make_item("logits of a chunk", logits, "updating"),
    ]


def microbatch_tokens(recipe: Recipe, budget: TokenBudget) -> int:
    """Tokens of the largest micro-batch: the setting, but never less than one sample or more than there are."""
    share = budget.most_tokens // (recipe.hardware.devices * recipe.learner.minibatches)
    return max(budget.longest_sample, min(recipe.learner.tokens_per_microbatch, share))


def samples_behind_prefixes(recipe: Recipe, budget: TokenBudget, tokens: int) -> tuple[int, float]:
    """How many samples of a micro-batch share a prefix, when replies are short, and how long it is; none: 0, 0.0."""
    prefix = budget.prefix
    if recipe.learner.layout != "packed" or prefix < SHORTEST_PREFIX:
        return 0, 0.0
    own = budget.prompt - prefix + SHORT_SHARE * budget.response
    share = budget.most_turns // (recipe.hardware.devices * recipe.learner.minibatches)
    samples = min(share, int((tokens - prefix) / max(1.0, own)))
    return (samples, prefix) if samples > 1 else (0, 0.0)


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


def make_item(name: str, size: float, phase: Phase, note: str = "") -> Item:
    """Something of `size` bytes."""
    return Item(name=name, gib=size / GIB, phase=phase, note=note)
