"""Which engine runs the language model in the seats, and how much it may hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spiral.config import Section


class EngineConfig(Section):
    """How replies are generated."""

    kind: Literal["transformers", "vllm"] = Field(
        "transformers", description="'transformers' runs everywhere; 'vllm' is faster and must be installed."
    )
    max_rows: int = Field(256, ge=1, description="Replies generated at once; further ones wait.")
    context: int = Field(0, ge=0, description="Most tokens of prompt and reply together; 0 takes the model's limit.")
    memory_share: float = Field(
        0.4, gt=0, lt=1, description="vLLM: share of the device's memory for its weights and keys and values."
    )
    stall_seconds: float = Field(
        600.0, gt=0, description="A generation step that takes longer ends the run with what it was doing."
    )
