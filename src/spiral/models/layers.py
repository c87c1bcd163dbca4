"""The hidden states of a model of any family of transformers, and the masks of its layers.

transformers builds masks for the layers of each kind (`kinds.py`) itself, but only for rows that all are at the same
position, and for attention that it knows. Where that is not so, they are built here.

Shapes: N rows, Q queries and K keys of a row, W width of a row, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from spiral.models.kinds import RECURRENT, WINDOWED, layer_kinds, setting


def attention_masks(model: Any, queries_NQ: Tensor, keys: int) -> Any:
    """The masks with which tokens at positions `queries_NQ` attend to the keys 0..K-1 of their rows.

    One mask [N, 1, Q, K] where all layers attend alike, else one for each kind of layer; None where none attends.
    """
    config = model.config
    kinds = dict.fromkeys(layer_kinds(config))
    if all(kind in RECURRENT for kind in kinds):
        return None
    if getattr(config, "layer_types", None) and any(kind in WINDOWED for kind in kinds):
        return {kind: _mask(model, kind, queries_NQ, keys) for kind in kinds}
    windowed = next((kind for kind in kinds if kind in WINDOWED), "full_attention")
    return _mask(model, windowed, queries_NQ, keys)


def _mask(model: Any, kind: str, queries_NQ: Tensor, keys: int) -> Tensor | None:
    """The mask of one kind of layer: which keys count, or for `eager` attention what is added to the scores."""
    if kind in RECURRENT:
        return None
    config, keys_K = model.config, torch.arange(keys, device=queries_NQ.device)
    queries_NQ1 = queries_NQ[:, :, None]
    seen_NQK = keys_K <= queries_NQ1
    if kind == "chunked_attention":
        size = setting(config, "attention_chunk_size")
        seen_NQK &= keys_K // size == queries_NQ1 // size
    elif kind in WINDOWED:
        seen_NQK &= keys_K > queries_NQ1 - setting(config, "sliding_window")
    seen_N1QK = seen_NQK[:, None]
    if config._attn_implementation != "eager":
        return seen_N1QK
    blocked = torch.zeros(seen_N1QK.shape, dtype=model.dtype, device=queries_NQ.device)
    return blocked.masked_fill_(~seen_N1QK, torch.finfo(model.dtype).min)


def whole_masks(model: Any, width: int) -> Any:
    """The masks of rows of `width` tokens from their first one on; None where the model attends rightly without."""
    if not any(kind in WINDOWED for kind in layer_kinds(model.config)):
        return None  # causal attention is what every model does by itself
    return attention_masks(model, torch.arange(width, device=model.device)[None], width)


def whole_texts(model: Any, ids_NW: Tensor) -> Tensor:
    """[N, W, D] the last hidden states of texts, computed without a cache; rows may be padded on the right."""
    return last_hidden(model, input_ids=ids_NW, attention_mask=whole_masks(model, ids_NW.shape[1]), use_cache=False)


def without_head(model: Any) -> Any:
    """The part of a causal language model that gives hidden states."""
    base = model.base_model
    return base if base is not model else model.model  # Llama 4 has it under another name than it says


def last_hidden(model: Any, **inputs: Any) -> Tensor:
    """[N, W, D] the last hidden states of a model without its head.

    Inputs have the names of most families. A family gets the positions only if it has a use for them, and its cache
    under its own name.
    """
    base = without_head(model)
    named, others = _parameters(type(base).forward)
    if "position_ids" not in named:
        inputs.pop("position_ids", None)
    if "past_key_values" in inputs and "cache_params" in named:
        inputs["cache_params"] = inputs.pop("past_key_values")
    if not others:
        inputs = {name: value for name, value in inputs.items() if name in named}
    hidden_NWD: Tensor = base(**inputs).last_hidden_state
    return hidden_NWD


@cache
def _parameters(forward: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The names of what a model's `forward` takes, and whether it takes others too."""
    parameters = inspect.signature(forward).parameters.values()
    others = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return frozenset(parameter.name for parameter in parameters), others
