"""A language model as something that scores replies: one forward pass from rows of tokens to numbers a token.

Everything that needs the model's weights, the output head included, happens inside `forward`, so that a sharded
model has its weights gathered exactly then, and logits exist for one chunk of action tokens at a time.

Shapes: K action tokens of a micro-batch, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from spiral.models.head import output_head
from spiral.models.settings import HeadPrecision
from spiral.training.attention import use_segment_attention
from spiral.training.logprobs import TokenScores, score_tokens
from spiral.training.packing import MicroBatch


class Scorer(torch.nn.Module):
    """Wraps a transformers causal language model. Called with a micro-batch, it gives `TokenScores`."""

    def __init__(
        self, language_model: Any, *, compiled: bool = False, head: HeadPrecision = "compute", packed: bool = True
    ) -> None:
        """`head` is the precision of the logits. Rows that are never `packed` are attended as the model itself does.

        `compiled` has torch.compile fuse what each block does around its matrix products, for rows of any length; a
        sampler that shares the model goes on computing as it did.
        """
        super().__init__()
        if packed:
            use_segment_attention(language_model)
        self.language_model = language_model
        self.head_precision: HeadPrecision = head
        if compiled:
            for block in blocks(language_model):
                block.forward = _CompiledForward(block)

    def forward(
        self,
        rows: MicroBatch,
        action_ids_K: Tensor,
        temperature: float,
        reference: tuple[Tensor, Any] | None = None,
        entropy_gradient: bool = True,
    ) -> TokenScores:
        """Scores the micro-batch's action tokens; arguments as in `logprobs.score_tokens`."""
        with _scoring():
            hidden_KD = hidden_states(self.language_model, rows)
        head = output_head(self.language_model, self.head_precision)
        return score_tokens(hidden_KD, head, action_ids_K, temperature, reference, entropy_gradient=entropy_gradient)


_SCORES: ContextVar[bool] = ContextVar("scores", default=False)
"""Whether the pass under way is a scorer's."""


@contextmanager
def _scoring() -> Iterator[None]:
    before = _SCORES.set(True)
    try:
        yield
    finally:
        _SCORES.reset(before)


class _CompiledForward:
    """A block's `forward`: compiled in the learner's passes, plain in all others.

    Sampling changes the shapes at every token, and a reply must not depend on who else is in the batch, which compiled
    code does not promise. A pass with gradients is the learner's too: activations are computed again in the backward
    pass, outside the scorer, and have to be those of the first time. It belongs to one block and is copied with it.
    """

    def __init__(self, block: torch.nn.Module) -> None:
        self.block = block
        self.plain = type(block).forward
        self.compiled = torch.compile(self.plain, dynamic=True)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        forward = self.compiled if _SCORES.get() or torch.is_grad_enabled() else self.plain
        return forward(self.block, *inputs, **options)


def blocks(language_model: Any) -> list[torch.nn.Module]:
    """The model's repeated layers, by the names that transformers gives them for sharding, or else by their class."""
    names = set(language_model._no_split_modules or ())
    named = [module for module in language_model.modules() if type(module).__name__ in names]
    return named or [module for module in language_model.modules() if isinstance(module, GradientCheckpointingLayer)]


def hidden_states(language_model: Any, rows: MicroBatch) -> Tensor:
    """[K, D] the last hidden states that predict the action tokens of a micro-batch.

    Raises `ValueError` for a packed row when the model does not hand its keyword arguments to attention.
    """
    output = language_model.base_model(
        input_ids=rows.token_ids_RW,
        position_ids=rows.position_ids_RW,
        use_cache=False,
        segments=rows.segments,
    )
    if rows.segments is not None and rows.segments.uses == 0:
        raise ValueError(
            f"learner.layout is 'packed', but {type(language_model).__name__} does not let attention be told where"
            " samples begin; set learner.layout to 'padded'"
        )
    hidden: Tensor = output.last_hidden_state
    return hidden.flatten(0, 1)[rows.predict_K]
