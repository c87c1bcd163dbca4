"""Settings of the engine that generates replies, read without loading torch."""

from __future__ import annotations

import importlib.util
from typing import Literal

from pydantic import Field

from spiral.core.settings import Section


class EngineConfig(Section):
    """Settings of the inference engine."""

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
    """The settings with 'auto' replaced by the engine that it means on this machine."""
    if config.kind != "auto":
        return config
    return config.model_copy(update={"kind": "vllm" if vllm_installed() else "transformers"})


def vllm_installed() -> bool:
    """Whether vLLM is installed."""
    return importlib.util.find_spec("vllm") is not None
