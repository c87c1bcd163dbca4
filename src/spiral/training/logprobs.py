"""Log-probabilities, entropy and KL of the action tokens, from one forward pass over rows of tokens.

The logits of all tokens, [tokens, vocabulary] in float32, are what fills a GPU first. Here they exist only for one
chunk of action tokens at a time: each chunk is computed under activation checkpointing, so the backward pass
computes it again instead of keeping it. The KL to a reference is exact over the vocabulary and costs no more
memory, because only the reference's hidden states [K, D] are kept, not its logits.

Everything that needs the model's weights, the output head included, happens inside `Scorer.forward`, so that a sharded
model has its weights gathered exactly then.

`recompute_blocks` is gradient checkpointing: each block's activations are computed a second time in the backward pass
instead of being kept (Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174).
transformers does it in training mode only, which also switches on dropout, dropped layers and noise in routers. Here it
is done around each block, and the model stays in evaluation mode: what the learner scores is what was sampled from.

Shapes: K action tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from spiral.models.head import output_head
from spiral.models.layers import last_hidden
from spiral.models.settings import HeadPrecision
from spiral.training.attention import use_segment_attention
from spiral.training.packing import MicroBatch

CHUNK_ELEMENTS = 2**25
"""Logits held at once: 128 MiB in float32."""


class TokenScores(NamedTuple):
    """Log-probability, entropy and KL of the action tokens in nats, and which are the most likely; each [K]."""

    logprobs_K: Tensor
    entropy_K: Tensor
    kl_K: Tensor
    """KL(policy || reference), exact over the vocabulary; zeros without a reference."""
    likeliest_K: Tensor = torch.zeros(0, dtype=torch.bool)
    """Whether no other token was more likely; all false where that was not asked for."""


def score_tokens(
    hidden_KD: Tensor,
    head: Any,
    targets_K: Tensor,
    temperature: float,
    reference: tuple[Tensor, Any] | None = None,
    *,
    entropy_gradient: bool = True,
    likeliest: bool = False,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> TokenScores:
    """Score `targets_K` under softmax(head(hidden) / temperature).

    Args:
        hidden_KD: The hidden states that predict the targets.
        head: The output head.
        targets_K: The action tokens.
        temperature: That of sampling. At 0 the policy's own distribution (temperature 1) is scored, since a greedy one
            has no gradient.
        reference: The hidden states [K, D'] and the output head of the reference model.
        entropy_gradient: False for a loss without the entropy; what is computed again for a gradient that is never
            asked for would stay in memory.
        likeliest: Whether to find out which targets are the most likely tokens, which takes a pass over the logits.
        chunk_elements: Logits held at once.
    """
    temperature = temperature or 1.0
    vocabulary = head.weight.shape[0]
    size = max(1, chunk_elements // vocabulary)
    parts = []
    for start in range(0, max(1, len(targets_K)), size):  # of no tokens too, so that all weights are passed through
        chunk = slice(start, start + size)
        reference_chunk = None if reference is None else (reference[0][chunk], reference[1])
        arguments = (
            hidden_KD[chunk],
            head,
            targets_K[chunk],
            temperature,
            reference_chunk,
            entropy_gradient,
            likeliest,
        )
        if torch.is_grad_enabled() and len(targets_K) > size:
            parts.append(checkpoint(_score_chunk, *arguments, use_reentrant=False))
        else:
            parts.append(_score_chunk(*arguments))
    logprobs, entropy, kl, top = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenScores(logprobs_K=logprobs, entropy_K=entropy, kl_K=kl, likeliest_K=top)


def _score_chunk(
    hidden_KD: Tensor,
    head: Any,
    targets_K: Tensor,
    temperature: float,
    reference: tuple[Tensor, Any] | None,
    entropy_gradient: bool,
    likeliest: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute everything that needs the logits of one chunk."""
    log_p_KV = torch.log_softmax(head(hidden_KD).float() / temperature, dim=-1)
    logprobs_K = log_p_KV.gather(-1, targets_K[:, None]).squeeze(-1)
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_gradient):
        entropy_K = -(log_p_KV.exp() * log_p_KV).sum(-1)
    top_K = log_p_KV.argmax(-1) == targets_K if likeliest else torch.zeros_like(targets_K, dtype=torch.bool)
    if reference is None:
        return logprobs_K, entropy_K, torch.zeros_like(logprobs_K), top_K
    with torch.no_grad():
        log_q_KV = torch.log_softmax(reference[1](reference[0]).float() / temperature, dim=-1)
    return logprobs_K, entropy_K, (log_p_KV.exp() * (log_p_KV - log_q_KV)).sum(-1), top_K


class Scorer(torch.nn.Module):
    """Wraps a transformers causal language model. Called with a micro-batch, it returns `TokenScores`."""

    def __init__(
        self, language_model: Any, *, compiled: bool = False, head: HeadPrecision = "compute", packed: bool = True
    ) -> None:
        """`head` is the precision of the logits. Rows that are never `packed` are attended as the model itself does.

        `compiled` has torch.compile fuse what each block does around its matrix products, for rows of any length;
        an engine that shares the model is not affected.
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
        likeliest: bool = False,
    ) -> TokenScores:
        """Score the micro-batch's action tokens; arguments as in `score_tokens`."""
        with _scoring():
            hidden_KD = hidden_states(self.language_model, rows)
        head = output_head(self.language_model, self.head_precision)
        return score_tokens(
            hidden_KD,
            head,
            action_ids_K,
            temperature,
            reference,
            entropy_gradient=entropy_gradient,
            likeliest=likeliest,
        )


_SCORES: ContextVar[bool] = ContextVar("scores", default=False)
"""Whether the current forward pass is a scorer's."""


@contextmanager
def _scoring() -> Iterator[None]:
    before = _SCORES.set(True)
    try:
        yield
    finally:
        _SCORES.reset(before)


class _CompiledForward:
    """A block's `forward`: compiled in the learner's passes, plain in all others.

    Sampling changes the shapes at every token, and a reply must not depend on the rest of its batch, which compiled
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
    """Return the model's repeated layers, by the names that transformers has for sharding, or else by their class."""
    names = set(language_model._no_split_modules or ())
    named = [module for module in language_model.modules() if type(module).__name__ in names]
    return named or [module for module in language_model.modules() if isinstance(module, GradientCheckpointingLayer)]


def hidden_states(language_model: Any, rows: MicroBatch) -> Tensor:
    """Return the last hidden states [K, D] that predict the action tokens of a micro-batch.

    Raises `ValueError` for a packed row when the model does not hand its keyword arguments to attention.
    """
    hidden_RWD = last_hidden(
        language_model,
        input_ids=rows.token_ids_RW,
        position_ids=rows.position_ids_RW,
        use_cache=False,
        segments=rows.segments,
    )
    if rows.segments is not None and rows.segments.uses == 0:
        raise ValueError(
            f"learner.layout is 'packed', but {type(language_model).__name__} does not pass on to attention where"
            " samples begin; set learner.layout to 'padded'"
        )
    return hidden_RWD.flatten(0, 1)[rows.predict_K]


def recompute_blocks(language_model: Any) -> None:
    """Checkpoint every block of a model in place.

    Raises `ValueError` for a model whose blocks transformers does not list.
    """
    found = blocks(language_model)
    if not found:
        raise ValueError(
            f"learner.gradient_checkpointing is true, but transformers does not list the blocks of model type"
            f" {language_model.config.model_type!r}, which it needs; set learner.gradient_checkpointing to false"
        )
    for block in found:
        block.forward = _Recomputed(block.forward)


class _Recomputed:
    """A block's `forward` under activation checkpointing wherever there will be a backward pass."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*inputs, **options)
        return checkpoint(self._forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
