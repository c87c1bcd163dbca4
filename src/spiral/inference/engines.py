"""The engine that runs the language model in the seats, as `EngineConfig` asks for it."""

from __future__ import annotations

import copy
from typing import Any

import torch

from spiral.core.policy import SamplingConfig
from spiral.inference.base import LanguagePolicy
from spiral.inference.settings import EngineConfig
from spiral.inference.transformers import TransformersPolicy
from spiral.models.loading import LanguageModel, cast_parameters
from spiral.models.settings import HeadPrecision
from spiral.text import ChatCodec


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
        from spiral.inference.vllm import VllmPolicy  # an optional package

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
