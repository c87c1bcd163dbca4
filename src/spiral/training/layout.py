"""Which layout of rows a model is trained with when `learner.layout` is "auto": packed where that is exact.

Packing needs attention that sees where a sample begins (`attention.py`). A layer that keeps a state from token to token
would go on from one sample to the next, and not every family hands its attention what it is given. So what a
configuration tells is asked first, and then a few made-up samples are scored in both layouts.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from spiral.core.records import FloatArray, Sample
from spiral.models.head import output_head
from spiral.models.kinds import layer_kinds
from spiral.training.attention import use_segment_attention
from spiral.training.batch import make_batch
from spiral.training.logprobs import hidden_states, score_tokens
from spiral.training.packing import micro_batches
from spiral.training.settings import Layout, RowLayout

logger = logging.getLogger(__name__)

PACKABLE = {"full_attention", "sliding_attention"}
"""Kinds of layers that can be attended within segments."""
TOLERANCE = 1e-3
"""Largest difference of a token in nats that rounding explains; the weights are float32."""
SHARED, LENGTHS = 20, (9, 4, 14)
"""Tokens that the made-up samples have in common, and those that each has for itself."""


def chosen_layout(model: Any, layout: Layout) -> RowLayout:
    """The layout that a setting means for a model. Why "auto" pads is logged as a warning, since it is slower."""
    if layout != "auto":
        return layout
    reason = why_padded(model)
    kind = model.config.model_type
    if reason:
        logger.warning("learner.layout 'auto' pads the samples of this model of type %r: %s", kind, reason)
        return "padded"
    logger.debug("learner.layout 'auto' packs the samples of this model of type %r", kind)
    return "packed"


def unpackable(config: Any, attention: str) -> str:
    """The reason why samples cannot be packed by a configuration and implementation of attention; empty for none."""
    if attention == "eager":
        return "its attention is one that only the model itself computes"
    if getattr(config, "alibi", False):
        return "its positions are a bias on attention scores"
    others = sorted(set(layer_kinds(config)) - PACKABLE)
    if others:
        return f"its layers of the kind {', '.join(others)} do not see where a sample begins"
    return ""


@torch.no_grad()
def why_padded(model: Any) -> str:
    """The reason why a model's samples cannot be packed, with the numbers; empty if they can. Changes nothing."""
    config = model.config
    attention, training = config._attn_implementation, model.training
    reason = unpackable(config, attention)
    if reason:
        return reason
    try:
        model.eval()
        padded = _scores(model, "padded")
        try:
            use_segment_attention(model)
            packed = _scores(model, "packed")
        finally:
            model.set_attn_implementation(attention)
    except Exception as error:  # the code of a model family may raise anything
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    finally:
        model.train(training)
    gap = float(np.abs(padded - packed).max())
    return "" if gap <= TOLERANCE else f"packed and padded rows differ by up to {gap:.2g} nats a token"


def _scores(model: Any, layout: RowLayout) -> FloatArray:
    """[A] log-probabilities of made-up samples in one layout. Raises `ValueError` for a window that is not attended."""
    batch = make_batch(_samples(model.get_input_embeddings().weight.shape[0]))
    scores = np.zeros(batch.num_action_tokens, dtype=np.float32)
    for rows in micro_batches(batch, torch.arange(batch.num_samples), layout, 10_000):
        placed = rows.to(model.device)
        hidden_KD = hidden_states(model, placed)
        ids_K = batch.action_ids_A[rows.action_K].to(model.device)
        scored = score_tokens(hidden_KD, output_head(model, "compute"), ids_K, 1.0)
        scores[rows.action_K.numpy()] = scored.logprobs_K.float().cpu().numpy()
        if placed.segments is not None:
            windows = layer_kinds(model.config).count("sliding_attention")
            if placed.segments.windows != windows:
                raise ValueError(
                    f"it has {windows} layers with a window, and tells attention of {placed.segments.windows}"
                )
    return scores


def _samples(vocabulary: int) -> list[Sample]:
    """Samples that begin with the same tokens."""
    made = []
    for index, length in enumerate(LENGTHS):
        shared = np.arange(SHARED) * 7
        own = np.arange(length) * 11 + 3 + index
        ids = np.concatenate([shared, own]) % vocabulary
        split = SHARED + 2
        made.append(
            Sample(
                prompt_ids=ids[:split],
                action_ids=ids[split:],
                behaviour_logprobs=np.zeros(len(ids) - split, dtype=np.float32),
                advantages=np.zeros(len(ids) - split, dtype=np.float32),
                game="probe",
                player=0,
                policy_version=0,
            )
        )
    return made
