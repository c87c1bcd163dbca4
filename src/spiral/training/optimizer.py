"""Around AdamW: gradients added up over ranks, its state by name, and giving up on training that has diverged.

Where weights are replicated (float32), every rank has the gradient of its own samples; their sum is made in a few
large buckets after the last backward pass, and all ranks then clip it and take the same step, so that weights stay
equal bit by bit. Where they are sharded, FSDP2 has added gradients up already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spiral.core.metrics import Metrics
from spiral.training.fsdp import gathered, like
from spiral.training.ranks import Ranks

BUCKET_ELEMENTS = 2**26
"""Of gradients added up in one message: 256 MiB."""


class TrainingDivergedError(RuntimeError):
    """Update after update had no finite gradient; `metrics` are those of the last."""

    def __init__(self, message: str, metrics: Metrics | None = None) -> None:
        super().__init__(message)
        self.metrics = dict(metrics or {})


@torch.no_grad()
def sum_gradients(parameters: Sequence[Tensor], ranks: Ranks) -> None:
    """Adds up gradients over all ranks; a parameter without a gradient on any rank stays without."""
    if ranks.size == 1:
        return
    present = torch.tensor([parameter.grad is not None for parameter in parameters], device=ranks.device).long()
    ranks.add_up(present)
    used = [parameter for parameter, count in zip(parameters, present.tolist(), strict=True) if count]
    for bucket in _buckets(used):
        flat = torch.cat([_gradient(parameter).flatten() for parameter in bucket])
        ranks.add_up(flat)
        for parameter, part in zip(bucket, torch.split(flat, [parameter.numel() for parameter in bucket]), strict=True):
            parameter.grad = part.view_as(parameter)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters in runs of at most `BUCKET_ELEMENTS` (or one parameter)."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: Any) -> dict[str, Tensor]:
    """The optimizer's state, named by parameter and whole; see `sharding.gathered` for which rank has it."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return gathered(
        (f"{key}/{names[parameter]}", value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    )


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave, on all ranks in the same order."""
    parameters = dict(model.named_parameters())
    for key, value in sorted(tensors.items()):
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        if kind == "step":  # a fused kernel reads it on the parameter's device
            device = parameter.device if optimizer.defaults["fused"] else value.device
            optimizer.state[parameter][kind] = value.to(device, copy=True)
        else:
            optimizer.state[parameter][kind] = like(value, parameter)
