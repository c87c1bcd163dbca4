"""The `[benchmark]` section of a recipe."""

from __future__ import annotations

from pydantic import Field

from spiral.core.settings import Section
from spiral.evaluation.reasoning.tasks import Protocol


class BenchmarkConfig(Section):
    """Reasoning benchmarks before training, after it, and in between."""

    tasks: dict[str, str] = Field(
        {}, description="Task (`spiral benchmark --help`) to a JSONL file; '' takes the hub's problems."
    )
    limit: int = Field(0, ge=0, description="Number of problems drawn from each task by the seed; 0 takes all.")
    protocol: Protocol = Field(
        "v3",
        description="Version of the paper: 'v3' takes 32 replies to each problem of AIME and AMC, 1 to others; 'v1' 4.",
    )
    samples: int = Field(0, ge=0, le=10_000, description="Replies to each problem; 0 as the protocol says.")
    shots: int = Field(
        0,
        ge=0,
        le=64,
        description="Worked examples before questions of gpqa_diamond and mmlu_pro, for base models.",
    )
    shots_data: dict[str, str] = Field({}, description="Task to a JSONL file of worked examples in place of the hub's.")
    max_new_tokens: int = Field(8192, ge=1, description="Budget of a reply; temperature 0.6 and top-p 0.95 are fixed.")
    in_flight: int = Field(256, ge=1, description="Replies being generated at once.")
    every: int = Field(0, ge=0, description="Steps between benchmarks; 0 runs them only before and after training.")
    seed: int = Field(1_000_003, ge=0, description="Draws the problems and the replies.")
