"""Which engine runs the language model in the seats, and how much it may hold."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any, Literal

import torch
from pydantic import Field

from spiral.config import Section
from spiral.policies.head import HeadPrecision
from spiral.policies.language import LanguagePolicy
from spiral.policies.loading import LanguageModel, cast_parameters
from spiral.policies.sampling import SamplingConfig
from spiral.policies.transformers import TransformersPolicy
from spiral.text import ChatCodec


class EngineConfig(Section):
    """How replies are generated."""

    kind: Literal["transformers", "vllm", "auto"] = Field(
        "transformers",
        description="'transformers' runs everywhere; 'vllm' is faster and must be installed; 'auto': vllm if it is.",
    )
    max_rows: int = Field(1024, ge=1, description="Replies generated at once; further ones wait.")
    context: int = Field(0, ge=0, description="Most tokens of prompt and reply together; 0 takes the model's limit.")
    memory_share: float = Field(
        0.4, gt=0, lt=1, description="vLLM: share of the device's memory for its weights and keys and values."
    )
    stall_seconds: float = Field(
        600.0,
        gt=0,
        description="vLLM: a step that takes longer ends the run with what it was doing; a start may take 6 times"
        " as long.",
    )
    sleep: bool = Field(
        False,
        description="Give the device's memory to the learner between games; a vLLM that sleeps needs a GPU, and room"
        " for its weights in the memory of the CPU.",
    )


def resolved(config: EngineConfig) -> EngineConfig:
    """The same with 'auto' replaced by the engine that it stands for here."""
    if config.kind != "auto":
        return config
    installed = importlib.util.find_spec("vllm") is not None
    return config.model_copy(update={"kind": "vllm" if installed else "transformers"})


def make_policy(
    config: EngineConfig,
    loaded: LanguageModel,
    directory: str,
    codec: ChatCodec,
    sampling: SamplingConfig,
    *,
    compute: str,
    head: HeadPrecision = "compute",
    device: str = "auto",
    name: str = "policy",
    shared: bool = True,
    trained: bool = True,
) -> LanguagePolicy:
    """The engine asked for, with the weights of `loaded`, which came from `directory`.

    The transformers engine takes the model itself in float32 and a copy of it in bfloat16; where nobody shares the
    model, it is cast in place. `device` is the one asked for; `trained` says that new weights will come. Raises
    `ValueError` when the engine is not installed, or cannot run the model there or take its new weights.
    """
    if config.kind == "vllm":
        _check_device(device)
        from spiral.policies.vllm import VllmPolicy  # an optional package

        return VllmPolicy(
            directory, codec, sampling, config=config, compute=compute, head=head, name=name, trained=trained
        )
    model = loaded.model
    if compute == "bfloat16" and shared:
        model = _bfloat16_copy(model)
    elif compute == "bfloat16":
        cast_parameters(model, torch.bfloat16)
    return TransformersPolicy(
        model,
        codec,
        sampling,
        name=name,
        max_rows=config.max_rows,
        context=config.context or None,
        head=head,
        own=compute == "bfloat16" or not shared,
    )


def _check_device(device: str) -> None:
    """Raises `ValueError` for a device that vLLM would not play on: in one process it takes the first GPU it sees."""
    _, _, number = device.partition(":")
    if number.strip("0"):
        raise ValueError(
            f"vLLM plays on the first GPU that it sees, and the device is {device!r}; expected 'auto', with"
            f" CUDA_VISIBLE_DEVICES={number} in the environment, or engine.kind 'transformers'"
        )


def _bfloat16_copy(model: Any) -> Any:
    """A copy with every parameter cast as it is copied, so that there is never a second model in float32."""
    cast = {
        id(parameter): torch.nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, cast)
