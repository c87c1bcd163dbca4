"""Settings of the model: where it comes from, where it runs and in what precision.

They are separate from the code that they configure, so that a recipe is read and checked without loading torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spiral.core.settings import Section

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
