"""The versions of vLLM that were tested, and the parts of it that are not public and that we use.

vLLM changes these parts from one version to the next. So another version than the tested ones gives a warning, and one
that lacks a part is refused with the name of the part before it plays. Whether a version computes what the model does
is not known here: it is measured at every launch (docs/check.md).
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterable
from typing import Any

logger = logging.getLogger(__name__)

TESTED = ("0.32.0",)
"""Versions with which the slow tests of vLLM pass."""

MODULE_PARTS = {
    "vllm.distributed.parallel_state": (
        "_EP", "get_world_group", "init_model_parallel_group", "model_parallel_is_initialized",
    ),
}  # fmt: skip
"""Parts of modules, for any engine."""

CPU_PARTS = {"vllm.utils.cpu_resource_utils": ("get_allowed_cpu_list", "get_memory_node_info")}
"""Further ones, for an engine on a CPU."""

ENGINE_PARTS = (
    "engine_core._finalizer.detach",
    "engine_core.engine_core.model_executor.shutdown",
    "collective_rpc",
    "apply_model",
    "reset_prefix_cache",
)
"""Parts of a running `LLMEngine`."""

WORKER_PARTS = ("reload_weights", "vllm_config", "get_model")
"""Parts of what computes for it on each device."""


class MissingPartError(ValueError):
    """The installed vLLM lacks a part that we use."""


def version() -> str:
    """The installed version, without its local part such as "+cpu"."""
    from vllm import __version__

    return str(__version__).partition("+")[0]


def warn_of_version() -> None:
    """Logs a warning, once a process, where the installed version was not tested."""
    _warn(version())


@functools.cache
def _warn(found: str) -> None:
    if found not in TESTED:
        logger.warning("%s; whether it computes what the model does is measured now (docs/check.md)", untested(found))


def untested(found: str) -> str:
    """Says which version was found, and which ones were tested; empty for a tested one."""
    return "" if found in TESTED else f"vLLM {found} is installed, and {' and '.join(TESTED)} was tested"


def check_modules(parts: dict[str, tuple[str, ...]]) -> None:
    """Raises `MissingPartError` where a module of vLLM, or a name in one, does not exist."""
    lacking = []
    for module, names in parts.items():
        try:
            found = importlib.import_module(module)
        except ImportError:
            lacking.append(module)
            continue
        lacking += [f"{module}.{name}" for name in missing(found, names)]
    _refuse(lacking)


def check_engine(engine: Any) -> None:
    """Raises `MissingPartError` where a running engine, or what computes for it, lacks a part."""
    _refuse([f"LLMEngine.{name}" for name in missing(engine, ENGINE_PARTS)])
    found = [name for names in engine.collective_rpc(_missing_in_worker) for name in names]
    _refuse([f"Worker.{name}" for name in dict.fromkeys(found)])


def missing(owner: object, names: Iterable[str]) -> list[str]:
    """The names, each a path of attributes from `owner`, that lead nowhere."""
    return [name for name in names if not _has(owner, name)]


def _has(owner: object, name: str) -> bool:
    for attribute in name.split("."):
        if not hasattr(owner, attribute):
            return False
        owner = getattr(owner, attribute)
    return True


def _missing_in_worker(worker: object) -> list[str]:
    return missing(worker, WORKER_PARTS)


def _refuse(lacking: list[str]) -> None:
    if lacking:
        raise MissingPartError(
            f"vLLM {version()} has no {' and no '.join(lacking)}, which is not public and which new weights and the end"
            f" of an engine need; install vLLM {TESTED[-1]}, or set engine.kind to 'transformers'"
        )
