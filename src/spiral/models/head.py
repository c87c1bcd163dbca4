"""The output head: from hidden states to logits, in a precision of choice.

bfloat16 has 8 significant bits: a logit of 20 moves in steps of 1/8. So two programs with the same weights that sum in
a different order differ by some hundredths of a nat per token, and training is off-policy before the first update. With
a float32 head the same bfloat16 hidden states and weights are multiplied exactly and summed in float32, and logits are
not rounded. MiniMax-M1 (arXiv 2506.13585) identified the head as the cause, and a float32 head as the remedy.

The weights stay in bfloat16, as in every engine. The backward pass is that of the plain head: gradients are rounded to
the precision of the blocks, not float32.

Shapes: K rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spiral.models.settings import HeadPrecision


def output_head(model: Any, precision: HeadPrecision) -> Callable[[Tensor], Tensor]:
    """The model's head as a function from hidden states [K, D] to logits [K, V], with a `weight` [V, D].

    A float32 head copies the current weights: build it again when they have changed.
    """
    linear: Callable[[Tensor], Tensor] = model.get_output_embeddings()
    return linear if precision == "compute" or not rounds(linear) else WideHead(linear)


def stated_precision(compute: str, precision: HeadPrecision) -> str:
    """The description of a precision, such as "bfloat16, head float32"."""
    return f"{compute}, head float32" if precision == "float32" and compute != "float32" else compute


def rounds(linear: Any) -> bool:
    """Whether the logits of a plain head would be rounded to less than float32."""
    return bool(torch.finfo(linear.weight.dtype).bits < 32)


class WideHead:
    """Logits in float32 from hidden states and weights in bfloat16.

    A CUDA device sums such products in float32 by itself. Elsewhere there is a float32 copy of the weights, made once.
    """

    def __init__(self, linear: Any) -> None:
        self.weight: Tensor = linear.weight
        self._bias: Tensor | None = getattr(linear, "bias", None)
        sums_wide = self.weight.is_cuda and hasattr(torch.ops.aten.mm, "dtype")  # since torch 2.8
        self._wide = None if sums_wide else self.weight.detach().float()

    def __call__(self, hidden_KD: Tensor) -> Tensor:
        """[K, V] logits in float32."""
        logits_KV: Tensor = _Product.apply(hidden_KD, self.weight, self._wide)  # type: ignore[no-untyped-call]
        return logits_KV if self._bias is None else logits_KV + self._bias.float()


class _Product(torch.autograd.Function):
    """Hidden states times weights, in float32; its gradient as if it had been rounded like everything else."""

    @staticmethod
    def forward(ctx: Any, hidden_KD: Tensor, weight_VD: Tensor, wide_VD: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden_KD, weight_VD)
        if wide_VD is None:
            return torch.mm(hidden_KD, weight_VD.t(), out_dtype=torch.float32)
        return hidden_KD.float() @ wide_VD.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_KD, weight_VD = ctx.saved_tensors
        gradient_KV = gradients[0].to(hidden_KD.dtype)
        hidden_wanted, weight_wanted, _ = ctx.needs_input_grad
        return (
            gradient_KV @ weight_VD if hidden_wanted else None,
            gradient_KV.t() @ hidden_KD if weight_wanted else None,
            None,
        )
