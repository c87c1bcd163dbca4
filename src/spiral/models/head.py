"""The output head: from hidden states to logits, in a precision of choice.

bfloat16 has 8 significant bits: a logit of 20 moves in steps of 1/8. So two programs with the same weights that sum in
a different order differ by some hundredths of a nat per token, and training is off-policy before the first update. With
a float32 head the same bfloat16 hidden states and weights are multiplied exactly and summed in float32, and logits are
not rounded. MiniMax-M1 (arXiv 2506.13585) identified the head as the cause, and a float32 head as the remedy.

The weights stay in bfloat16, as in every engine. The backward pass is that of the plain head: gradients are rounded to
the precision of the blocks, not float32.

Some models scale, cap or shift what their last linear layer gives (Granite, Cohere, Gemma), each in its own way. No
list of them is kept: the model's own `forward` is run with the blocks left out, on the hidden states that are asked
for, and with a linear layer of choice. Where that changes nothing, which is measured once, the layer alone is used.

Shapes: K rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from spiral.models.layers import without_head
from spiral.models.settings import HeadPrecision


def output_head(model: Any, precision: HeadPrecision) -> Callable[[Tensor], Tensor]:
    """The model's head as a function from hidden states [K, D] to logits [K, V], with a `weight` [V, D].

    A float32 head copies the current weights: build it again when they have changed.
    """
    linear: Callable[[Tensor], Tensor] = model.get_output_embeddings()
    head = linear if precision == "compute" or not rounds(linear) else WideHead(linear)
    return OwnHead(model, head) if changes_logits(model) else head


def stated_precision(compute: str, precision: HeadPrecision) -> str:
    """The description of a precision, such as "bfloat16, head float32"."""
    return f"{compute}, head float32" if precision == "float32" and compute != "float32" else compute


def rounds(linear: Any) -> bool:
    """Whether the logits of a plain head would be rounded to less than float32."""
    return bool(torch.finfo(linear.weight.dtype).bits < 32)


def changes_logits(model: Any) -> bool:
    """Whether a model does more with hidden states than to multiply them with its output embeddings.

    Measured with made-up logits, so that it takes no weights; a model is measured once.
    """
    if model not in _CHANGES:
        _CHANGES[model] = _changes_logits(model)
    return _CHANGES[model]


_CHANGES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@torch.no_grad()
def _changes_logits(model: Any) -> bool:
    linear = model.get_output_embeddings()
    vocabulary, size = linear.weight.shape
    options = {"device": linear.weight.device, "dtype": linear.weight.dtype}
    hidden_KD = torch.linspace(-3, 3, 2 * size, **options).view(2, size)
    logits_KV = torch.linspace(-60, 60, 2 * vocabulary, **options).view(2, vocabulary)
    made_up = _MadeUp(linear.weight, logits_KV)
    try:
        found_KV = OwnHead(model, made_up)(hidden_KD)
    except Exception as error:  # the code of a model family may raise anything
        raise ValueError(
            f"the logits of {type(model).__name__} cannot be computed apart from its blocks"
            f" ({type(error).__name__}: {error}), so it can be neither sampled from nor trained"
        ) from error
    assert made_up.seen is not None
    same = torch.equal(made_up.seen.view(2, size), hidden_KD) and torch.equal(found_KV.float(), logits_KV.float())
    return not same


class OwnHead:
    """What a model makes of hidden states by its own `forward`: [K, V] logits, with a `weight` [V, D]."""

    def __init__(self, model: Any, linear: Callable[[Tensor], Tensor]) -> None:
        """`linear` replaces the model's output embeddings."""
        self.weight: Tensor = linear.weight  # type: ignore[attr-defined]
        self._model, self._linear = model, linear

    def __call__(self, hidden_KD: Tensor) -> Tensor:
        """[K, V] logits."""
        blockless = _Blockless(self._model, self._linear, hidden_KD[None])
        logits_1KV: Tensor = type(self._model).forward(blockless, input_ids=None).logits
        return logits_1KV[0]


class _Blockless:
    """Stands in for a model in its class's `forward`: blocks give fixed hidden states, and the head is another one."""

    def __init__(self, model: Any, linear: Callable[[Tensor], Tensor], hidden_1KD: Tensor) -> None:
        self._model, self._linear, self._hidden = model, linear, hidden_1KD

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if isinstance(found, torch.nn.Module):
            if found is self._model.get_output_embeddings():
                return self._linear
            if found is without_head(self._model):
                return _Blocks(found, self._hidden)
        return found


class _Blocks:
    """In place of a model's blocks, or of a part that runs them (OPT calls `model.decoder`)."""

    def __init__(self, blocks: Any, hidden_1KD: Tensor) -> None:
        self._blocks, self._hidden = blocks, hidden_1KD

    def __call__(self, *_: Any, **__: Any) -> _Output:
        return _Output(self._hidden)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._blocks, name)
        return _Blocks(found, self._hidden) if isinstance(found, torch.nn.Module) else found


class _Output(tuple[Tensor]):
    """The hidden states [1, K, D] as families' outputs give them; of everything else there is None."""

    def __new__(cls, hidden_1KD: Tensor) -> _Output:
        return super().__new__(cls, (hidden_1KD,))

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        return None


class _MadeUp:
    """A linear layer that gives fixed logits and keeps what it was given."""

    def __init__(self, weight: Tensor, logits_KV: Tensor) -> None:
        self.weight, self._logits = weight, logits_KV
        self.seen: Tensor | None = None

    def __call__(self, hidden_1KD: Tensor) -> Tensor:
        self.seen = hidden_1KD
        return self._logits[None]


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
        """[K, V] logits in float32; with more dimensions before D they have those too."""
        rows_KD = hidden_KD.flatten(0, -2)
        logits_KV: Tensor = _Product.apply(rows_KD, self.weight, self._wide)  # type: ignore[no-untyped-call]
        logits_KV = logits_KV if self._bias is None else logits_KV + self._bias.float()
        return logits_KV.view(*hidden_KD.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """Hidden states times weights, in float32; gradients in the inputs' precision."""

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
