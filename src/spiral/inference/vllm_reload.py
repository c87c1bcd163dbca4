"""Copies new weights into a running vLLM, and finds the weights that it has not taken.

vLLM's own in-place reload says nothing where it loses a weight: the old one stays, and the engine plays with a mixture
of both. So every weight is overwritten with `MARK` before, and one that still holds it afterwards ends the run.

What vLLM 0.32 gets wrong and is put right here, in parts of vLLM that are not public:

- On a CPU it packs the weights of experts when an engine starts, and not in a reload: 0.5 to 0.7 nats a token for a
  small Mixtral of random weights. It packs them again where `quant_method.moe_kernel` is None.
- Of gpt-oss it writes experts and attention sinks to tensors that the reload has set aside: 0.16 to 0.23 nats. Experts
  under the names that vLLM's loader of single experts knows are taken, and sinks as the engine holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from spiral.inference.vllm_parallel import copy_weights, send_weights
from spiral.inference.vllm_versions import version

MARK = -(2.0**100)
"""Fills weights before a reload: a number that float32 and bfloat16 hold exactly, and that no weight has."""

GPT_OSS_EXPERTS = {
    "gate_up_proj": "w13_weight",
    "gate_up_proj_bias": "w13_bias",
    "down_proj": "w2_weight",
    "down_proj_bias": "w2_bias",
}
"""vLLM's names for the weights of one expert of gpt-oss."""


def reload(engine: Any, weights: Iterable[tuple[str, Tensor]], kind: str, processes: int = 1) -> None:
    """Copies new weights into an `LLMEngine`.

    Args:
        engine: The engine, with no request in flight.
        weights: All weights of the model by the names in its files.
        kind: The model's type, such as "llama".
        processes: Number of processes that compute for it, if there are others than this one.

    Raises:
        RuntimeError: vLLM has not taken all weights. The engine cannot be used any more.
    """
    sinks: list[tuple[str, Tensor]] = []
    if kind == "gpt_oss":
        weights = _single_experts(weights, sinks)
    engine.apply_model(_mark)
    if processes > 1:
        send_weights(engine, weights)
        copy_weights(engine, sinks)
    else:
        engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        if sinks:
            engine.collective_rpc("reload_weights", kwargs={"weights_iterator": sinks, "is_checkpoint_format": False})
    left = [*dict.fromkeys(name for names in engine.apply_model(_marked) for name in names)]
    if left:
        raise RuntimeError(
            f"vLLM {version()} did not take {len(left)} of the weights of this model of type {kind!r}, such as"
            f" {left[0]!r}; set engine.kind to 'transformers'"
        )


def _single_experts(
    weights: Iterable[tuple[str, Tensor]], sinks: list[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """The weights of gpt-oss with one tensor for each expert; its sinks go to `sinks`, by the engine's names."""
    for name, weight in weights:
        layer, _, last = name.rpartition(".")
        if last == "sinks":
            sinks.append((name.replace(".self_attn.", ".attn."), weight))
        elif layer.endswith(".experts") and last in GPT_OSS_EXPERTS:
            for expert, part in enumerate(weight):
                yield f"{layer}.{expert}.{GPT_OSS_EXPERTS[last]}", part
        else:
            yield name, weight


def _mark(model: torch.nn.Module) -> None:
    from vllm.platforms import current_platform

    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data.fill_(MARK)
    if not current_platform.is_cpu():
        return
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None  # type: ignore[union-attr]


def _marked(model: torch.nn.Module) -> list[str]:
    """The names of the weights that still hold `MARK` somewhere."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.numel() and float(parameter.data.amin()) == MARK
    ]
