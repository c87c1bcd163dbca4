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


def layer_kinds(config: Any) -> list[str]:
    """The kind of each layer by transformers' names, from a text model's configuration."""
    kinds = getattr(config, "layer_types", None)
    layers = int(config.num_hidden_layers)
    if kinds:
        return list(kinds)[:layers]
    if not getattr(config, "num_attention_heads", None):
        return ["linear_attention"] * layers
    if getattr(config, "attention_chunk_size", None):
        return ["chunked_attention"] * layers
    return ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"] * layers
