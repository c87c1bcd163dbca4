"""Gradient checkpointing: each block's activations are computed a second time in the backward pass, not kept.

transformers does it in training mode only, which also switches on dropout, dropped layers and noise in routers: as
modules, as functions that read a number from the module or the configuration, under many names. So it is done here,
around each block, and the model stays in evaluation mode: what the learner scores is what was sampled from.
Source: Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from spiral.training.scorer import blocks


def recompute_blocks(language_model: Any) -> None:
    """Checkpoints every block of a model in place. Raises `ValueError` for a model whose blocks are not known."""
    found = blocks(language_model)
    if not found:
        raise ValueError(
            f"learner.gradient_checkpointing is true, but transformers does not say what the blocks of a model of type"
            f" {language_model.config.model_type!r} are; set learner.gradient_checkpointing to false"
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
