"""The texts in flight, as a model sees them: hidden states of the last token of each, computed with a cache or without.

`CachedTexts` keeps what a model has computed of each text (`slot_cache.py`). It knows the layers of most families, but
not how each uses them. So for any that does more than full attention it is tried on a few tokens first (`make_texts`):
where the cache gives other hidden states than whole texts, or cannot be used at all, `WholeTexts` computes each text
anew for every token. That is slow, and right for every causal model.

Shapes: N texts, P tokens of a prompt with padding, D hidden size.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from spiral.inference.slot_cache import SlotCache, round_up
from spiral.models.kinds import BOTH, RECURRENT, WINDOWED, layer_kinds
from spiral.models.layers import attention_masks, last_hidden, whole_masks, whole_texts

logger = logging.getLogger(__name__)

MIN_ROWS = 4
"""Smaller batches are padded to this, because CPUs sum a matrix product of fewer rows in another order."""
TOLERANCE = {torch.float32: 1e-3}
"""Largest difference of a hidden state with and without a cache, as a share of the largest one."""
COARSE = 0.1
"""The same in other precisions. A wrong mask or state makes a difference of the order of 1."""


class Texts(Protocol):
    """The texts in flight, in the order in which they were added."""

    pads: bool
    """Whether prompts of different lengths may be added together, padded on the right."""

    def add(self, ids_NP: Tensor, lengths: list[int]) -> Tensor:
        """Adds prompts; returns [N, D], the hidden state of the last token of each."""
        ...

    def extend(self, ids: list[int], positions: list[int]) -> Tensor:
        """Adds one token to every text, at its position; returns [N, D] or, behind these, rows of padding."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Removes all texts but these, given in order."""
        ...


class CachedTexts:
    """Texts of which the model's keys, values and states are kept."""

    def __init__(self, model: Any) -> None:
        self._model = model
        kinds = layer_kinds(model.config)
        self.pads = not any(kind in RECURRENT or kind in BOTH for kind in kinds)
        """Padding would become a part of a state."""
        self._windowed = any(kind in WINDOWED for kind in kinds)
        self.cache = SlotCache(kinds, int(getattr(model.config, "number_of_conv_states", 1)))

    def add(self, ids_NP: Tensor, lengths: list[int]) -> Tensor:
        """As in `Texts`. Equal prompts, such as those of several attempts at one deal, are computed once."""
        lengths_N = torch.tensor(lengths, device=ids_NP.device)
        rows_NP, which_N = torch.unique(torch.column_stack([ids_NP, lengths_N]), dim=0, return_inverse=True)
        repeated = len(rows_NP) < len(ids_NP)
        if repeated:
            ids_NP, lengths_N = rows_NP[:, :-1], rows_NP[:, -1]
        self.cache.begin_prefill(len(ids_NP))
        masks = {"attention_mask": whole_masks(self._model, ids_NP.shape[1])} if self._windowed else {}
        hidden_NPD = self._forward(input_ids=ids_NP, **masks)
        self.cache.end_prefill(which_N if repeated else None)
        last_ND = hidden_NPD[torch.arange(len(ids_NP), device=lengths_N.device), lengths_N - 1]
        return last_ND[which_N] if repeated else last_ND

    def extend(self, ids: list[int], positions: list[int]) -> Tensor:
        """As in `Texts`."""
        device = self._model.device
        filler = [0] * (MIN_ROWS - len(ids))
        last_N = torch.tensor(ids + filler, device=device)
        positions_N = torch.tensor(positions + filler, device=device)
        reach = round_up(max(positions) + 1)
        self.cache.begin_decode(positions_N, reach)
        hidden_N1D = self._forward(
            input_ids=last_N[:, None],
            position_ids=positions_N[:, None],
            attention_mask=attention_masks(self._model, positions_N[:, None], reach),
        )
        return hidden_N1D[:, -1]

    def keep(self, rows: list[int]) -> None:
        """As in `Texts`."""
        self.cache.keep(torch.tensor(rows, dtype=torch.long, device=self._model.device))

    def _forward(self, **inputs: Any) -> Tensor:
        return last_hidden(self._model, **inputs, past_key_values=self.cache, use_cache=True)


class WholeTexts:
    """Texts of which nothing is kept but their tokens."""

    pads = True

    def __init__(self, model: Any) -> None:
        self._model = model
        self._texts: list[list[int]] = []

    def add(self, ids_NP: Tensor, lengths: list[int]) -> Tensor:
        """As in `Texts`."""
        texts = [ids[:length] for ids, length in zip(ids_NP.tolist(), lengths, strict=True)]
        self._texts += texts
        return self._last(texts)

    def extend(self, ids: list[int], positions: list[int]) -> Tensor:
        """As in `Texts`."""
        for text, token in zip(self._texts, ids, strict=True):
            text.append(token)
        return self._last(self._texts)

    def keep(self, rows: list[int]) -> None:
        """As in `Texts`."""
        self._texts = [self._texts[row] for row in rows]

    def _last(self, texts: list[list[int]]) -> Tensor:
        """[N, D] of the last tokens; texts of one padded length together, so that company changes nothing."""
        groups: dict[int, list[int]] = {}
        for row, text in enumerate(texts):
            groups.setdefault(round_up(len(text)), []).append(row)
        found: dict[int, Tensor] = {}
        for width, rows in groups.items():
            ids = [texts[row] + [0] * (width - len(texts[row])) for row in rows]
            hidden_NWD = whole_texts(self._model, torch.tensor(ids, device=self._model.device))
            found |= {row: hidden_WD[len(texts[row]) - 1] for row, hidden_WD in zip(rows, hidden_NWD, strict=True)}
        return torch.stack([found[row] for row in range(len(texts))])


def make_texts(model: Any) -> CachedTexts | WholeTexts:
    """No texts yet, and a cache for them if it computes what whole texts do; that is tried once for each model."""
    if model not in _UNCACHED:
        _UNCACHED[model] = _why_uncached(model)
        if _UNCACHED[model]:
            logger.warning(
                "this model of type %r is sampled without a cache: every token computes its whole text anew, which is"
                " slow (%s)",
                model.config.model_type,
                _UNCACHED[model],
            )
    return WholeTexts(model) if _UNCACHED[model] else CachedTexts(model)


_UNCACHED: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Why a model is sampled without a cache, or nothing where it has one."""


@torch.no_grad()
def _why_uncached(model: Any) -> str:
    """The reason for which a cache cannot be used; empty when it can.

    Full attention that PyTorch computes is known; everything else is tried.
    """
    config = model.config
    known = set(layer_kinds(config)) == {"full_attention"} and config._attn_implementation != "eager"
    if known and not getattr(config, "alibi", False):
        return ""
    try:
        found, expected = _tried(model)
    except Exception as error:  # the code of a model family may raise anything
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    gap = float((found - expected).abs().max() / expected.abs().max())
    if gap <= TOLERANCE.get(model.dtype, COARSE):
        return ""
    return f"with one its hidden states differ by {100 * gap:.2g}%"


def _tried(model: Any) -> tuple[Tensor, Tensor]:
    """Hidden states of a few made-up texts that join and leave, with a cache and without."""
    found: list[Tensor] = []
    expected: list[Tensor] = []
    vocabulary = model.get_input_embeddings().weight.shape[0]
    for texts, results in ((CachedTexts(model), found), (WholeTexts(model), expected)):
        lengths, tokens = [9, 6], iter(range(7, 10_000, 11))
        for length in lengths:
            ids = torch.tensor([[next(tokens) % vocabulary for _ in range(length)]], device=model.device)
            results.append(texts.add(ids, [length]))
        for _ in range(2):
            results.append(texts.extend([next(tokens) % vocabulary for _ in lengths], lengths)[:2])
            lengths = [length + 1 for length in lengths]
        texts.keep([1])
        results.append(texts.extend([next(tokens) % vocabulary], lengths[1:])[:1])
    return torch.cat(found).float(), torch.cat(expected).float()
