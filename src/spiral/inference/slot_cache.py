"""Keys and values of many replies in flight, one row each, so that rows can join and leave at any step.

Rows 0..n-1 are in use. A prefill writes new rows after the last; a decode step writes one token a row, each at
its own position; finished rows are removed and the rest moved together. Rows are padded on the right only,
and lengths are rounded up to `GRAIN`, so that the attention of a row, to the last bit, does not depend on which other
rows share the batch.

Layers with a window keep all keys too, and masks hide those that are out of sight. Layers that keep a state instead of
keys (`StateLayer`) are those of transformers with rows that join and leave; padding would be part of their state, so
prompts of such models are prefilled without any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionLayer

from spiral.models.kinds import BOTH, RECURRENT

GRAIN = 32
STATES = (
    "conv_states", "recurrent_states", "has_previous_state",
    "is_conv_states_initialized", "is_recurrent_states_initialized",
)  # fmt: skip
"""What transformers' layers of a state keep: tensors [rows, ...], and whether they hold anything yet."""


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

    def begin_prefill(self, rows: int) -> None:
        """Prepares for new rows after the first `rows`, which are in use."""
        self.first_row, self.positions = rows, None

    def end_prefill(self, which: Tensor | None) -> None:
        """Repeats the new rows as `SlotCache.end_prefill` says; without that they are already in their place."""
        if which is not None and self.is_initialized:
            self._reserve(self.first_row + len(which), 0)
            new = slice(self.first_row, self.first_row + len(which))
            self.keys[new] = self.keys[self.first_row + which]
            self.values[new] = self.values[self.first_row + which]

    def begin_decode(self, positions: Tensor, reach: int) -> None:
        """Prepares for one token a row, as `SlotCache.begin_decode`."""
        self.positions, self.reach = positions, reach

    def keep(self, rows: Tensor) -> None:
        """Moves the given rows [k] to the front, in order."""
        if not self.is_initialized:
            return  # a layer that takes the keys of another one
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


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]
    """One layer's states, [rows, ...] each."""

    def __init__(self, states: int = 1) -> None:
        options = {"number_of_states": states} if states > 1 else {}
        super().__init__(**options)
        self._options = options
        self._before: dict[str, Any] = {}

    def begin_prefill(self, rows: int) -> None:
        """Prepares for new rows, whose states begin empty; those of the first `rows` are put aside."""
        self._resize(rows)
        self._before = {name: getattr(self, name) for name in STATES}
        empty = LinearAttentionLayer(**self._options)
        for name in STATES:
            setattr(self, name, getattr(empty, name))

    def end_prefill(self, which: Tensor | None) -> None:
        """Puts the new rows after the others, repeated as `SlotCache.end_prefill` says."""
        if which is not None:
            self._change(lambda state: state[which])
        for name in STATES[:2]:
            setattr(self, name, _pairwise(_joined, self._before[name], getattr(self, name)))
        self._before = {}

    def begin_decode(self, positions: Tensor, reach: int) -> None:
        """Prepares for one token for each of `positions` [rows]; some of the last may be filler."""
        self._resize(len(positions))

    def keep(self, rows: Tensor) -> None:
        """Moves the given rows [k] to the front, in order."""
        self._change(lambda state: state[rows])

    def numbers(self) -> int:
        """The size of one row's states."""
        kept = [getattr(self, name) for name in STATES[:2]]
        states = [state for part in kept for state in (part.values() if isinstance(part, dict) else [part])]
        return sum(state[:1].numel() for state in states if state is not None)

    def _resize(self, rows: int) -> None:
        """Cuts rows off at the end, or adds empty ones."""
        self._change(lambda state: _resized(state, rows))

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        for name in STATES[:2]:
            kept = getattr(self, name)
            setattr(self, name, _pairwise(lambda state, _: None if state is None else change(state), kept))


def _resized(state: Tensor, rows: int) -> Tensor:
    if len(state) == rows:
        return state
    return torch.cat([state[:rows], state.new_zeros((max(0, rows - len(state)), *state.shape[1:]))])


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else torch.cat([first, second])


def _pairwise(change: Callable[[Any, Any], Any], first: Any, second: Any = None) -> Any:
    """Changes a state, or each of several by their number, as newer releases of transformers keep them."""
    if not isinstance(first, dict):
        return change(first, second)
    return {number: change(state, None if second is None else second[number]) for number, state in first.items()}


class HybridLayer(StateLayer, SlotLayer):
    """One layer's states and its keys and values."""

    def __init__(self, states: int = 1) -> None:
        SlotLayer.__init__(self)
        StateLayer.__init__(self, states)

    def lazy_initialization(self, *keys_and_values: Tensor, **states: Any) -> None:
        """Begins the one part or the other."""
        if keys_and_values:
            SlotLayer.lazy_initialization(self, *keys_and_values)
        else:
            StateLayer.lazy_initialization(self, **states)

    def begin_prefill(self, rows: int) -> None:
        """Prepares both parts."""
        SlotLayer.begin_prefill(self, rows)
        StateLayer.begin_prefill(self, rows)

    def end_prefill(self, which: Tensor | None) -> None:
        """Repeats new rows of both parts."""
        SlotLayer.end_prefill(self, which)
        StateLayer.end_prefill(self, which)

    def begin_decode(self, positions: Tensor, reach: int) -> None:
        """Prepares both parts."""
        SlotLayer.begin_decode(self, positions, reach)
        StateLayer.begin_decode(self, positions, reach)

    def keep(self, rows: Tensor) -> None:
        """Moves the rows of both parts."""
        SlotLayer.keep(self, rows)
        StateLayer.keep(self, rows)


def _layer(kind: str, states: int) -> SlotLayer | StateLayer:
    if kind in BOTH:
        return HybridLayer(states)
    return StateLayer(states) if kind in RECURRENT else SlotLayer()


class SlotCache(Cache):  # type: ignore[misc]
    """All layers, and the number of rows in use."""

    def __init__(self, kinds: Sequence[str], states: int = 1) -> None:
        """Makes empty layers.

        Args:
            kinds: The kind of each layer (`layer_kinds`).
            states: Number of states of each layer that keeps any.
        """
        super().__init__(layers=[_layer(kind, states) for kind in kinds])
        self.rows = self._rows_before = 0

    def begin_prefill(self, rows: int) -> None:
        """Prepares for a forward pass with `rows` new prompts, which `end_prefill` has to follow."""
        for layer in self.layers:
            layer.begin_prefill(self.rows)
        self._rows_before = self.rows
        self.rows += rows

    def end_prefill(self, which: Tensor | None = None) -> None:
        """Adds the new rows to those in use.

        Args:
            which: For each row to add, the index of its row in the forward pass; None adds all as they are.
        """
        for layer in self.layers:
            layer.end_prefill(which)
        if which is not None:
            self.rows = self._rows_before + len(which)

    def begin_decode(self, positions: Tensor, reach: int) -> None:
        """Prepares for a forward pass with one token for every row in use, at `positions` [rows], all below `reach`.

        `reach` is an argument because reading it from a GPU in every layer would synchronise with the device.
        """
        for layer in self.layers:
            layer.begin_decode(positions, reach)

    def keep(self, rows: Tensor) -> None:
        """Only the given rows stay in use, moved to the front in order."""
        for layer in self.layers:
            layer.keep(rows)
        self.rows = len(rows)
