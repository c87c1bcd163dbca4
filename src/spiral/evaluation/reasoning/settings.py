"""The `[benchmark]` section of a recipe."""

from __future__ import annotations

from pydantic import Field

from spiral.core.settings import Section


class BenchmarkConfig(Section):
    """Reasoning benchmarks before training, after it, and in between."""

    tasks: dict[str, str] = Field(
        {}, description="Task (`spiral benchmark --help`) to a JSONL file; '' takes the hub's problems."
    )
    limit: int = Field(0, ge=0, description="Number of problems drawn from each task by the seed; 0 takes all.")
    samples: int = Field(4, ge=1, le=10_000, description="Replies to each problem.")
    max_new_tokens: int = Field(8192, ge=1, description="Budget of a reply; temperature 0.6 and top-p 0.95 are fixed.")
    in_flight: int = Field(256, ge=1, description="Replies being generated at once.")
    every: int = Field(0, ge=0, description="Steps between benchmarks; 0 runs them only before and after training.")
    seed: int = Field(1_000_003, ge=0, description="Draws the problems and the replies.")
