"""The devices that a run is planned for, and the memory of this machine's devices."""

from __future__ import annotations

import math
import os
from pathlib import Path

from pydantic import Field

from spiral.core.settings import Section

GIB = 2**30
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files in which Linux limits a container's memory."""


class HardwareConfig(Section):
    """Devices that the run is planned for."""

    devices: int = Field(
        1, ge=1, le=4096, description="Devices of the learner, one for each of cluster.learner_workers."
    )
    memory_gib: float = Field(0.0, ge=0, description="Memory of one device; 0 asks this machine.")


def device_memory_gib(device: str) -> float:
    """Memory in GiB of the device that `model.device` names; infinite if it is not known.

    A device that this machine does not have is taken to be the CPU.
    """
    import torch

    if is_gpu(device):
        name = "cuda" if device == "auto" else device
        return float(torch.cuda.get_device_properties(torch.device(name)).total_memory) / GIB
    return _main_memory() / GIB


def is_gpu(device: str) -> bool:
    """Whether the device called `device` is a CUDA device of this machine."""
    import torch

    return device.startswith(("auto", "cuda")) and torch.cuda.is_available()


def _main_memory() -> float:
    """The memory that this process may use, in bytes."""
    files = [Path(name) for name in CGROUP_LIMITS if Path(name).is_file()]
    said = [file.read_text(encoding="utf-8").strip() for file in files]
    limits = [math.inf, *(float(text) for text in said if text.isdigit())]
    if hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(os.sysconf_names):
        limits.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    return min(limits)
