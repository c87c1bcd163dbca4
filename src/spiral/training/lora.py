"""LoRA: train low-rank additions to the linear layers, and leave the model itself as it is.

For every linear layer W the policy computes W + (alpha / rank) B A with A [rank, in], B [out, rank] trained and B zero
at first (Hu et al., 2021, arXiv 2106.09685). The layers are peft's. Policies and checkpoints get plain
weights with the additions in them, so nothing outside the learner knows of LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from spiral.core.seeds import derive_seed
from spiral.training.fsdp import whole
from spiral.training.logprobs import blocks
from spiral.training.settings import LoraConfig

ADAPTER = "default"


def add_lora(model: Any, config: LoraConfig, seed: int) -> None:
    """Add trainable low-rank layers in place and freeze the rest.

    Raises `ValueError` when peft is missing, or for a name that is no linear layer of a block.
    """
    try:
        import peft  # an optional package
    except ImportError as error:
        raise ValueError("lora.rank is set, but peft is not installed; pip install peft") from error
    linear = {
        name.rpartition(".")[2]
        for block in blocks(model)
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    names = set(config.modules) or linear
    if not names or not names <= linear:
        raise ValueError(
            f"lora.modules is {config.modules}; the linear layers in this model's blocks are {sorted(linear)}"
        )
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=sorted(names), task_type="CAUSAL_LM"
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "lora"))
        # Of a model that it knows peft would also wrap the stacked weights of experts, which are no linear layers.
        peft.inject_adapter_in_model(settings, torch.nn.ModuleList(blocks(model)), adapter_name=ADAPTER)


def plain_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter under its name before `add_lora`, whole and with the additions in it."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        layer_name, _, last = name.rpartition(".base_layer.")
        weight = whole(parameter.detach())
        if layer_name and last == "weight":
            layer = model.get_submodule(layer_name)
            down, up = (whole(side[ADAPTER].weight.detach()) for side in (layer.lora_A, layer.lora_B))
            weight = weight + layer.scaling[ADAPTER] * (up @ down)
        yield (f"{layer_name}.{last}" if layer_name else name), weight
