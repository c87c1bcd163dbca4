"""The name under which the package `verifiers` finds spiral's games; see `spiral.integrations.verifiers`."""

from spiral.integrations.verifiers import (
    SpiralEnv,
    SpiralEnvConfig,
    SpiralHarness,
    SpiralHarnessConfig,
    SpiralTask,
    SpiralTaskset,
    SpiralTasksetConfig,
    load_environment,
)

__all__ = [
    "SpiralEnv",
    "SpiralEnvConfig",
    "SpiralHarness",
    "SpiralHarnessConfig",
    "SpiralTask",
    "SpiralTaskset",
    "SpiralTasksetConfig",
    "load_environment",
]
