"""The kinds of a model's layers by what they look back at, read from its configuration without loading torch.

A layer attends to the whole text before a token, to a window of it or to a chunk; or it keeps a state of fixed size
instead (linear attention, convolutions); or both. The names are those of transformers.
"""

from __future__ import annotations

from typing import Any

WINDOWED = ("sliding_attention", "chunked_attention", "hybrid_sliding")
"""Kinds of layers that attend to a part of the text before a token."""
FULL = ("full_attention", "hybrid")
RECURRENT = ("linear_attention", "conv", "mamba", "moe", "mlp")
"""Kinds of layers without attention: what they keep of a text has a fixed size, or is nothing."""
BOTH = ("hybrid", "hybrid_sliding")
"""Kinds of layers that attend and keep a state."""


def setting(config: Any, name: str) -> Any:
    """A number of a configuration, None where it has none, and the largest where its layers differ in it."""
    try:
        return getattr(config, name, None)
    except Exception as error:  # newer releases of transformers refuse to give one number for all layers
        if isinstance(error, AttributeError) or not hasattr(config, "per_layer_config"):
            raise
        found = [getattr(layer, name, None) for layer in config.per_layer_config]
        return max((number for number in found if number is not None), default=None)


def layer_kinds(config: Any) -> list[str]:
    """The kind of each layer by transformers' names, from a text model's configuration."""
    kinds = getattr(config, "layer_types", None)
    layers = int(config.num_hidden_layers)
    if kinds:
        return list(kinds)[:layers]
    if not setting(config, "num_attention_heads"):
        return ["linear_attention"] * layers
    if setting(config, "attention_chunk_size"):
        return ["chunked_attention"] * layers
    return ["sliding_attention" if setting(config, "sliding_window") else "full_attention"] * layers
