"""Settings of the engine that generates replies, read without loading torch."""

from __future__ import annotations

import importlib.util
from typing import Literal, Self

from pydantic import Field, model_validator

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
    tensor_parallel: int = Field(
        1, ge=1, description="vLLM: devices of one machine that share out each layer of the model, and its heads."
    )
    stall_seconds: float = Field(
        600.0,
        gt=0,
        description="vLLM: a step that takes longer ends the run with what it was doing; a start may take 6 times"
        " as long.",
    )
    sleep: bool = Field(
        False,
        description="Give the device's memory to the learner between games; a vLLM that sleeps needs a GPU, and that of"
        " an opponent room for its weights in the memory of the CPU.",
    )

    @model_validator(mode="after")
    def _one_device_without_vllm(self) -> Self:
        if self.kind == "transformers" and self.tensor_parallel > 1:
            raise ValueError(
                f"engine.tensor_parallel (--tensor-parallel) is {self.tensor_parallel} and engine.kind (--engine) is"
                " 'transformers', which uses one device; set the engine to 'vllm', or the number of devices to 1"
            )
        return self


def resolved(config: EngineConfig) -> EngineConfig:
    """The settings with 'auto' replaced by the engine that it means on this machine.

    Raises:
        ValueError: Only vLLM takes these settings, and it is not installed.
    """
    if config.kind != "auto":
        return config
    if config.tensor_parallel > 1 and not vllm_installed():
        raise ValueError(
            f"engine.tensor_parallel is {config.tensor_parallel}, which needs vLLM, and vLLM is not installed; install"
            " it, or set engine.tensor_parallel to 1"
        )
    return config.model_copy(update={"kind": "vllm" if vllm_installed() else "transformers"})


def check_heads(tensor_parallel: int, heads: int, key_heads: int) -> None:
    """Raises `ValueError` where a number of devices does not share out a model's attention heads.

    Args:
        tensor_parallel: The number of devices.
        heads: Attention heads, of which every device gets as many as the others.
        key_heads: Heads of keys and values. Each is on one device, or where these are more on as many as every other.
    """

    def possible(devices: int) -> bool:
        return heads % devices == 0 and (key_heads % devices == 0 or devices % key_heads == 0)

    if tensor_parallel == 1 or (heads and key_heads and possible(tensor_parallel)):
        return
    if not heads or not key_heads:
        raise ValueError(
            f"engine.tensor_parallel is {tensor_parallel}, and this model has no attention heads to share out; set it"
            " to 1"
        )
    fitting = ", ".join(str(devices) for devices in range(1, heads + 1) if possible(devices))
    raise ValueError(
        f"engine.tensor_parallel is {tensor_parallel}, and this model has {heads} attention heads and {key_heads} of"
        f" keys and values; expected {fitting}"
    )


def vllm_installed() -> bool:
    """Whether vLLM is installed."""
    return importlib.util.find_spec("vllm") is not None
