"""FSDP2: weights, gradients and optimizer state in float32, sharded over devices; computation in bfloat16.

Every block of the model is a separate unit: its weights are cast and gathered when it runs. Gradients are reduced
and added up in float32. On one device nothing is sharded, and FSDP2 only keeps the two precisions.
With several, FSDP2 averages gradients where the learner wants their sum, so the loss is multiplied by their number
(`gradient_scale`); and every rank has to run the model equally often (`packing.empty_micro_batch`).
Source: PyTorch FSDP2, `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from spiral.training.logprobs import Scorer, blocks
from spiral.training.process_group import BACKENDS


def shard(scorer: Scorer, compute: torch.dtype) -> None:
    """Shard a scorer's model in place over the default process group, which is made when there is none.

    Raises `ValueError` on devices without FSDP2.
    """
    device = scorer.language_model.device
    if device.type not in BACKENDS:
        raise ValueError(
            f"model.compute is bfloat16 on {device.type}, which PyTorch cannot shard on; expected"
            f" {' or '.join(BACKENDS)}, or set model.compute to 'float32'"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)  # FSDP2 puts parameters on the current device, wherever they were
    _ensure_process_group(BACKENDS[device.type])
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    several = mesh.size() > 1
    for block in blocks(scorer.language_model):
        fully_shard(block, mesh=mesh, mp_policy=precision, reshard_after_forward=several)
    fully_shard(scorer, mesh=mesh, mp_policy=precision, reshard_after_forward=False)


def reshard(scorer: Scorer) -> None:
    """Return to sharded float32 weights after a forward pass that no backward pass follows."""
    for module in scorer.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gradient_scale(ranks: int) -> float:
    """Return the factor of each rank's loss that turns FSDP2's mean of the gradients into their sum."""
    return float(ranks)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from all devices; the tensor itself when it is not sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return whole tensors by name. Those sharded over several ranks are kept by rank 0 alone, on the CPU."""
    kept = {}
    for name, tensor in named:
        full = whole(tensor)
        if not isinstance(tensor, DTensor) or tensor.device_mesh.size() == 1:
            kept[name] = full
        elif tensor.device_mesh.get_rank() == 0:
            kept[name] = full.cpu()
    return kept


def like(whole_tensor: Tensor, model: Tensor) -> Tensor:
    """Return a copy of a whole tensor on the device of `model`, sharded like it."""
    placed = whole_tensor.to(model.device, copy=True)
    if not isinstance(model, DTensor):
        return placed
    return distribute_tensor(placed, model.device_mesh, model.placements)


def _ensure_process_group(backend: str) -> None:
    """Make a group of this process alone, unless it is in one."""
    if not torch.distributed.is_initialized():
        store = HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
