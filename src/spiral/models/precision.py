"""Whether a CPU is fast in bfloat16: many have no instructions for it, and PyTorch then takes many times longer."""

from __future__ import annotations

import functools
import logging
import time

logger = logging.getLogger(__name__)

LIMIT = 1.5
"""Time of a product in bfloat16 over its time in float32 from which a warning is given."""
ROWS, WIDTH, REPEATS = 64, 512, 4


@functools.cache
def warn_of_slow_bfloat16(device: str) -> None:
    """Warns, once in a process, if `device` is a CPU that multiplies matrices more slowly in bfloat16."""
    if device == "cpu" and (ratio := bfloat16_ratio()) > LIMIT:
        logger.warning(
            "this CPU takes %.1f times as long in bfloat16 as in float32; set model.compute to 'float32'"
            " (--compute float32)",
            ratio,
        )


@functools.cache
def bfloat16_ratio() -> float:
    """The time of a product of matrices on this CPU in bfloat16 over that in float32, measured in some milliseconds."""
    import torch

    def shortest(dtype: torch.dtype) -> float:
        rows, weight = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
        times = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            times.append(time.perf_counter() - begun)
        return min(times)

    return shortest(torch.bfloat16) / shortest(torch.float32)
