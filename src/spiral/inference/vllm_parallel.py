"""One vLLM engine over several devices of a machine (tensor parallelism: Shoeybi et al., 2019, arXiv 1909.08053).

vLLM's own executor starts one process for each device, and every process holds its part of each weight. The scheduler
stays in this process. An iterator over a learner's weights cannot leave this process, so new weights go to the others
through files in shared memory, `CHUNK_BYTES` at a time: beside the learner's and the engine's weights there is never
more than such a part, or the largest weight, and what the processes have read of a layer that is not complete. In each
process vLLM loads a part as if it were all of a checkpoint that is read in parts, as its own transfers of weights do
(`vllm.distributed.weight_transfer`).

The processes are started anew ("spawn") and import the program's main module. So a script of yours that starts a run
with such an engine needs `if __name__ == "__main__":`.

Not supported: devices of several machines, pipeline and data parallelism, experts that are divided as whole experts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from spiral.inference.settings import EngineConfig, check_heads
from spiral.models.kinds import setting

CHUNK_BYTES = 256 * 2**20
"""Size of the parts in which new weights are handed over; a larger weight is a part of its own."""

SHARED_MEMORY = "/dev/shm"
"""Linux's directory of files in memory."""

PARTS = {
    "vllm.config": ("set_current_vllm_config",),
    "vllm.distributed": ("get_tensor_model_parallel_rank",),
    "vllm.model_executor.model_loader.reload": ("initialize_layerwise_reload", "finalize_layerwise_reload"),
}
"""Parts of vLLM that such an engine needs besides (`vllm_versions.py`)."""


def check_parallel(config: EngineConfig, model: Any, on_cpu: bool) -> None:
    """Raises `ValueError` for an engine over devices that this process has not, or that do not share out the heads.

    Args:
        config: Settings of the engine.
        model: The model's configuration.
        on_cpu: Whether the devices are cores of a CPU, and not GPUs.
    """
    wanted = config.tensor_parallel
    if wanted == 1:
        return
    text = model.get_text_config()
    heads = setting(text, "num_attention_heads") or 0
    check_heads(wanted, heads, setting(text, "num_key_value_heads") or heads)
    found = len(os.sched_getaffinity(0)) if on_cpu else torch.accelerator.device_count()
    if wanted > found:
        what = "CPU core" if on_cpu else "GPU"
        raise ValueError(
            f"engine.tensor_parallel is {wanted}, and this process has {found} {what}{'' if found == 1 else 's'};"
            f" expected at most {found} (--tensor-parallel where there is no recipe)"
        )


@contextlib.contextmanager
def process_environment(processes: int, on_cpu: bool) -> Iterator[None]:
    """Context manager for the start of vLLM's processes, which inherit this one's environment variables.

    On a CPU they share out its threads; on GPUs vLLM decides that. They log errors alone where the user has not asked
    for more, as this process does.
    """
    wanted = {}
    if on_cpu:
        wanted["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // processes))
    if os.environ["VLLM_LOGGING_LEVEL"] == "WARNING":
        wanted |= {"VLLM_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def send_weights(engine: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Loads new weights in every process of an engine.

    Args:
        engine: The `LLMEngine`, with no request in flight.
        weights: All weights of the model by the names in its files.

    Raises:
        RuntimeError: A process failed, or there is no room for a part. The engine cannot be used any more.
    """
    engine.collective_rpc(_begin)
    _send(engine, weights, _load)
    engine.collective_rpc(_finish)


def copy_weights(engine: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copies weights as they are into an engine, by its own names; each process takes its part of the first dimension.

    Raises:
        RuntimeError: As `send_weights`.
    """
    _send(engine, weights, _copy)


def _send(engine: Any, weights: Iterable[tuple[str, Tensor]], function: Any) -> None:
    """Calls a function of this file with every part of the weights, in every process at once."""
    for part in parts_of(weights):
        with _file_of(part) as path:
            engine.collective_rpc(function, args=(path, list(part)))


def parts_of(weights: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Copies of the weights in main memory, in their order, in parts of `CHUNK_BYTES` at most or one weight."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, weight in weights:
        if part and size + weight.nbytes > CHUNK_BYTES:
            yield part
            part, size = {}, 0
        # A copy of its own: tied weights share memory, and one that is a part of a larger one would take all of it.
        part[name] = weight.detach().to("cpu", copy=True).contiguous()
        size += weight.nbytes
    if part:
        yield part


@contextlib.contextmanager
def _file_of(part: dict[str, Tensor]) -> Iterator[str]:
    """Context manager around a file with these weights, in shared memory or, where that is full, on the disk."""
    size = sum(weight.nbytes for weight in part.values())
    places = [SHARED_MEMORY, tempfile.gettempdir()]
    place = next((name for name in places if _room(name) > 1.1 * size), None)
    if place is None:
        raise RuntimeError(
            f"no room for {size / 2**20:,.0f} MiB of new weights in {' and '.join(places)}, through which the processes"
            " of engine.tensor_parallel get them; make room (a container's shared memory is set by --shm-size)"
        )
    with tempfile.TemporaryDirectory(prefix="spiral-weights-", dir=place) as directory:
        path = Path(directory) / "part.safetensors"
        save_file(part, path)
        yield str(path)


def _room(directory: str) -> int:
    """Free bytes for files of this process; 0 for a directory that it cannot write to."""
    return shutil.disk_usage(directory).free if os.access(directory, os.W_OK) else 0


def _begin(worker: Any) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

    with set_current_vllm_config(worker.vllm_config):
        initialize_layerwise_reload(worker.get_model())


def _load(worker: Any, path: str, names: list[str]) -> None:
    from vllm.config import set_current_vllm_config

    with torch.no_grad(), set_current_vllm_config(worker.vllm_config):
        worker.get_model().load_weights(_read(path, names))


def _finish(worker: Any) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    with torch.no_grad(), set_current_vllm_config(worker.vllm_config):
        finalize_layerwise_reload(worker.get_model(), worker.vllm_config.model_config)


def _copy(worker: Any, path: str, names: list[str]) -> None:
    from vllm.distributed import get_tensor_model_parallel_rank

    for name, weight in _read(path, names):
        own = worker.get_model().get_parameter(name)
        own.data.copy_(weight.narrow(0, get_tensor_model_parallel_rank() * len(own), len(own)))


def _read(path: str, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The weights of a file in the order of `names`; a weight's memory stays when the file is removed."""
    with safe_open(path, framework="pt") as stored:
        for name in names:
            yield name, stored.get_tensor(name)
