"""From settings to the engine that samples with a language model. The only file that lists the engines."""

from __future__ import annotations

import copy
import enum
from typing import Any

import torch

from spiral.core.policy import SamplingConfig
from spiral.inference.base import LanguagePolicy
from spiral.inference.settings import EngineConfig
from spiral.inference.transformers import TransformersPolicy
from spiral.models.loading import LanguageModel, cast_parameters, load_language_model, model_directory
from spiral.models.settings import ModelConfig
from spiral.text import PromptConfig


class Weights(enum.Enum):
    """Owner of the weights that an engine samples with, and whether they change."""

    SHARED = "shared"
    """A learner in this process, which updates the model that was loaded."""
    RECEIVED = "received"
    """The engine, to which a learner elsewhere sends new weights."""
    FIXED = "fixed"
    """The engine; nothing is trained."""


def load_for_engine(model: ModelConfig, engine: EngineConfig) -> LanguageModel:
    """Loads a model that only an engine uses: in the precision of computing, without weights where vLLM reads them.

    Raises:
        ValueError: As `load_language_model`.
    """
    return load_language_model(model, weights=engine.kind == "transformers", cast=True)


def make_policy(
    engine: EngineConfig,
    model: ModelConfig,
    loaded: LanguageModel,
    prompt: PromptConfig,
    sampling: SamplingConfig,
    *,
    weights: Weights,
    name: str = "policy",
) -> LanguagePolicy:
    """Starts an engine with the weights of a model.

    The transformers engine uses a `SHARED` model itself in float32 and a copy of it in bfloat16.

    Args:
        engine: Which engine, and its settings.
        model: Where the model comes from, on which device and in which precision it computes.
        loaded: The same model, loaded. vLLM reads the weights from the files.
        prompt: How observations become prompts.
        sampling: How replies are sampled.
        weights: Who owns the weights.
        name: The policy's name in records.

    Raises:
        ValueError: The engine is not installed, cannot run the model on that device, or cannot take new weights of it;
            or the model cannot be prompted like that.
    """
    codec = loaded.codec(prompt)
    if engine.kind == "vllm":
        _check_device(model.device)
        from spiral.inference.vllm import VllmPolicy  # an optional package

        return VllmPolicy(
            model_directory(model.path),
            codec,
            sampling,
            config=engine,
            compute=model.compute,
            head=model.head,
            name=name,
            trained=weights is not Weights.FIXED,
        )
    network = loaded.model
    if model.compute == "bfloat16" and weights is Weights.SHARED:
        network = _bfloat16_copy(network)
    elif model.compute == "bfloat16":
        cast_parameters(network, torch.bfloat16)
    return TransformersPolicy(
        network,
        codec,
        sampling,
        name=name,
        max_rows=engine.max_rows,
        context=engine.context or None,
        head=model.head,
        own=network is not loaded.model or weights is not Weights.SHARED,
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
