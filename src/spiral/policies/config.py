"""Settings of the model in the seats: where it comes from, what generates its replies, how they are sampled.

They are apart from what they configure, so that a recipe is read and checked without loading torch.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

from pydantic import Field

from spiral.config import Section

HeadPrecision = Literal["float32", "compute"]


class ModelConfig(Section):
    """Which model, where it runs, and in what precision."""

    path: str = Field(
        "nano", description="From `spiral models`, a run or checkpoint directory, or a Hugging Face name or path."
    )
    device: str = Field(
        "auto", description="'auto' (CUDA where there is one, else the CPU), 'cpu', 'cuda', 'cuda:1', 'mps'."
    )
    compute: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of sampling and of the learner's passes; its weights are kept in float32."
    )
    head: HeadPrecision = Field(
        "compute",
        description="Precision of the output head's logits: 'float32', in which engine and learner agree better, or"
        " 'compute', that of the rest. Both are the same where compute is float32.",
    )
    compile: bool = Field(
        False, description="Compile the blocks for the learner; takes a minute and, on a CPU, a C++ compiler."
    )


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
    return config.model_copy(update={"kind": "vllm" if vllm_installed() else "transformers"})


def vllm_installed() -> bool:
    """Whether the vLLM engine can be asked for here."""
    return importlib.util.find_spec("vllm") is not None


class SamplingConfig(Section):
    """How replies are sampled. A model's `generation_config.json` only says where they end."""

    temperature: float = Field(1.0, ge=0, description="Divides the logits; 0 takes the most likely token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the most likely tokens whose mass reaches this share.")
    max_new_tokens: int = Field(256, ge=1, description="Response budget in tokens; a longer reply is cut off.")
