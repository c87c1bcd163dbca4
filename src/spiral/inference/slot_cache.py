"""Keys and values of many replies in flight, one row each, so that rows can join and leave at any step.

Rows 0..n-1 are in use. A prefill writes new rows after the last; a decode step writes one token a row, each at
its own position; finished rows are removed and the rest moved together. Rows are padded on the right only,
and lengths are rounded up to `GRAIN`, so that the attention of a row, to the last bit, does not depend on which other
rows share the batch.

Not supported: sliding windows and recurrent layers; `TransformersPolicy` refuses such models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

GRAIN = 32


def round_up(length: int) -> int:
    """The next multiple of `GRAIN`."""
    return -(-length // GRAIN) * GRAIN


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: [rows, heads, positions, head size]."""

    def __init__(self) -> None:
        super().__init__()
        self.first_row = 0
        self.positions: Tensor | None = None
        """[n] where the next token of each row goes, or None during a prefill."""
        self.reach = 0
        """Number of positions that the queries of a decode step attend to."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Starts empty with the heads, sizes and device of the first states seen."""
        self.keys = key_states.new_zeros((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_zeros((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Stores new states; returns the keys and values that the queries attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, length = key_states.shape[0], key_states.shape[2]
        if self.positions is None:
            self._reserve(self.first_row + rows, length)
            self.keys[self.first_row : self.first_row + rows, :, :length] = key_states
            self.values[self.first_row : self.first_row + rows, :, :length] = value_states
            return key_states, value_states
        reach = self.reach
        self._reserve(rows, reach)
        index = torch.arange(rows, device=key_states.device)
        self.keys[index, :, self.positions] = key_states[:, :, 0]
        self.values[index, :, self.positions] = value_states[:, :, 0]
        return self.keys[:rows, :, :reach], self.values[:rows, :, :reach]

    def keep(self, rows: Tensor) -> None:
        """Moves the given rows [k] to the front, in order."""
        self.keys[: len(rows)] = self.keys[rows]
        self.values[: len(rows)] = self.values[rows]

    def _reserve(self, rows: int, length: int) -> None:
        """Grows the storage in steps, rows by doubling and lengths by a quarter, and keeps what is in it."""
        old_rows, heads, old_length, _ = self.keys.shape
        if rows <= old_rows and length <= old_length:
            return
        new_rows = max(rows, old_rows if rows <= old_rows else 2 * old_rows)
        new_length = max(round_up(length), old_length if length <= old_length else round_up(old_length * 5 // 4))
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros((new_rows, heads, new_length, old.shape[3]))
            new[:old_rows, :, :old_length] = old
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Only called during a prefill, whose queries attend to their own prompt."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Zero: a prefill always starts at position 0, and decode steps pass their positions."""
        return 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_max_cache_shape(self) -> int:
        """`get_max_length` under the name that older releases of transformers call."""
        return self.get_max_length()


class SlotCache(Cache):  # type: ignore[misc]
    """All layers, and the number of rows in use."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)
        self.rows = 0

    def begin_prefill(self, rows: int, layers: int) -> None:
        """Prepares for a forward pass with `rows` new prompts."""
        while len(self.layers) < layers:
            self.layers.append(SlotLayer())
        for layer in self.layers:
            layer.first_row, layer.positions = self.rows, None
        self.rows += rows

    def begin_decode(self, positions: Tensor, reach: int) -> None:
        """Prepares for a forward pass with one token for every row in use, at `positions` [rows], all below `reach`.

        `reach` is an argument because reading it from a GPU in every layer would synchronise with the device.
        """
        for layer in self.layers:
            layer.positions, layer.reach = positions, reach

    def keep(self, rows: Tensor) -> None:
        """Only the given rows stay in use, moved to the front in order."""
        for layer in self.layers:
            layer.keep(rows)
        self.rows = len(rows)
