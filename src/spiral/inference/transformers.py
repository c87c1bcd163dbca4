"""A Hugging Face causal language model as a policy: continuous batching in plain PyTorch.

Each `poll` admits the waiting prompts, then decodes one token for every reply in flight until at least one reply
is finished. Replies join and leave the batch at any step (`texts.py`). Every reply has its own random stream, so it
does not depend on the rest of the batch: bit for bit on one CPU thread, and up to the rounding of matrix products
elsewhere.

The model computes in the precision of its own weights. In float32 it is shared with the learner when both live in
one process: an update is visible at once, and only the version number changes. In bfloat16 it is a copy.

A sleeping engine holds no keys and values, and moves a model that it does not share from a CUDA device to the CPU.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from spiral.core.policy import SamplingConfig, TurnReply
from spiral.core.seeds import token_uniforms
from spiral.inference.base import LanguagePolicy, OpenTurn
from spiral.inference.parameters import ParameterNames
from spiral.inference.sampling import sample_tokens
from spiral.inference.slot_cache import GRAIN, round_up
from spiral.inference.texts import MIN_ROWS, Texts, make_texts
from spiral.models.head import output_head, stated_precision
from spiral.models.loading import usable_context
from spiral.models.settings import HeadPrecision
from spiral.text import ChatCodec


@dataclasses.dataclass(kw_only=True)
class _Row:
    """One reply in flight."""

    turn: OpenTurn
    token_ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)

    @property
    def position(self) -> int:
        """Position of the last sampled token in the sequence."""
        return len(self.turn.prompt_ids) + len(self.token_ids) - 1


class TransformersPolicy(LanguagePolicy):
    """Plays with a causal language model; holds at most `max_rows` replies in flight."""

    def __init__(
        self,
        model: Any,
        codec: ChatCodec,
        sampling: SamplingConfig,
        *,
        name: str = "policy",
        max_rows: int = 1024,
        context: int | None = None,
        head: HeadPrecision = "compute",
        own: bool = False,
    ) -> None:
        """Samples with `model` as it is.

        Args:
            model: A causal language model of transformers.
            codec: Encodes prompts and parses replies.
            sampling: How tokens are sampled.
            name: The policy's name in records.
            max_rows: Maximum number of replies in flight.
            context: Maximum number of tokens of prompt and reply together; None takes the model's limit.
            head: Precision of the output head.
            own: Whether only this engine uses the model, so that it may be moved while the engine sleeps.

        Raises:
            ValueError: The context is longer than the model takes.
        """
        usable = usable_context(model.config, context, "the transformers engine")
        super().__init__(codec, sampling, name=name, context=usable)
        self.model = model
        self.precision = stated_precision(str(model.dtype).removeprefix("torch."), head)
        self._max_rows = max_rows
        self._head_precision: HeadPrecision = head
        self._head: Callable[[Tensor], Tensor] | None = None
        self._own = own
        self._device = torch.device(model.device)
        self._waiting: deque[_Row] = deque()
        self._active: list[_Row] = []
        self._texts: Texts | None = None

    def _generate(self, turns: Sequence[OpenTurn]) -> None:
        self.wake()
        self._waiting.extend(_Row(turn=turn) for turn in turns)

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copies new weights by parameter name, except tensors that are the model's own already.

        Raises:
            ValueError: Weights are missing, unknown or of another shape.
        """
        assert not self._waiting, "weights can only change between turns"
        assert not self._active, "weights can only change between turns"
        self.wake()
        self._head = None
        parameters = dict(self.model.named_parameters())
        for name, tensor in ParameterNames(self.model).checked(weights):
            if parameters[name].data_ptr() != tensor.data_ptr():
                parameters[name].copy_(tensor)
        self.version = version

    def sleep(self, *, until_weights: bool = False) -> None:
        """Frees the keys and values, and moves a model that it does not share from a CUDA device to the CPU.

        It keeps its weights `until_weights` too: it computes with the modules that hold them.
        """
        assert not self._waiting, "an engine can only sleep between turns"
        assert not self._active, "an engine can only sleep between turns"
        self._texts, self._head = None, None
        self._move(torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # the learner may be another process
        self.asleep = True

    def wake(self) -> None:
        """Moves the model back to its device."""
        if self.asleep:
            self._move(self._device)
        self.asleep = False

    def _move(self, device: torch.device) -> None:
        """Moves the model in place, if it is the engine's own and lives on a CUDA device."""
        if self._own and self._device.type == "cuda":
            self.model.to(device)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """[N, V] the logits of hidden states, in the precision of `head`."""
        if self._head is None:
            self._head = output_head(self.model, self._head_precision)
        return self._head(hidden_ND)

    @torch.no_grad()
    def poll(self) -> list[TurnReply]:
        """Decodes until a reply is finished; returns all finished ones."""
        while not self._done and (self._waiting or self._active):
            self._advance()
        return self._take_done()

    @torch.no_grad()
    def step(self) -> list[TurnReply]:
        """One token more for every reply in flight; returns those that are finished, most often none."""
        self._advance()
        return self._take_done()

    def in_flight(self) -> dict[int, tuple[list[int], list[float]]]:
        """Token ids and log-probabilities so far of every reply in flight, by the key of its request."""
        return {row.turn.key: (row.token_ids, row.logprobs) for row in self._active}

    def drop(self, keys: Collection[int]) -> None:
        """Drops some replies that are waiting or in flight, by the keys of their requests; the others continue."""
        self._waiting = deque(row for row in self._waiting if row.turn.key not in keys)
        self._keep([index for index, row in enumerate(self._active) if row.turn.key not in keys])

    def _advance(self) -> None:
        self._admit()
        if self._active:
            self._decode()

    def cancel(self) -> None:
        """Drops every reply that is waiting or in flight."""
        self._waiting.clear()
        self._active, self._done = [], []
        self._texts = None

    def _admit(self) -> None:
        """Prefills waiting prompts, equal padded lengths together, and samples their first tokens."""
        count = min(len(self._waiting), self._max_rows - len(self._active))
        groups: dict[int, list[_Row]] = {}
        for _ in range(count):
            row = self._waiting.popleft()
            groups.setdefault(self._padded_length(len(row.turn.prompt_ids)), []).append(row)
        for length, rows in groups.items():
            token_ids = np.zeros((len(rows), length), dtype=np.int64)
            for index, row in enumerate(rows):
                token_ids[index, : len(row.turn.prompt_ids)] = row.turn.prompt_ids
            ids_NP = torch.from_numpy(token_ids).to(self.model.device)
            hidden_ND = self._in_flight().add(ids_NP, [len(row.turn.prompt_ids) for row in rows])
            self._active.extend(rows)
            self._sample(rows, hidden_ND)
        if groups:
            self._retire()

    def _in_flight(self) -> Texts:
        """What the model has computed of the texts in flight."""
        if self._texts is None:
            self._texts = make_texts(self.model)
        return self._texts

    def _padded_length(self, length: int) -> int:
        """Short prompts are grouped by exact length, long ones by the next multiple of `GRAIN`.

        Never beyond the context, where a model may have no positions, or other rotary factors.
        """
        if not self._in_flight().pads:
            return length
        padded = max(MIN_ROWS, length) if length <= 2 * GRAIN else round_up(length)
        return max(length, min(padded, self.context))

    def _decode(self) -> None:
        """One more token for every active row."""
        rows = self._active
        hidden_ND = self._in_flight().extend([row.token_ids[-1] for row in rows], [row.position for row in rows])
        self._sample(rows, hidden_ND)
        self._retire()

    def _sample(self, rows: list[_Row], hidden_ND: Tensor) -> None:
        """Draws each row's next token from its own random stream; hidden states beyond the rows are padding."""
        hidden_ND = pad(hidden_ND, (0, 0, 0, max(0, MIN_ROWS - len(hidden_ND))))
        logits_NV = self.logits(hidden_ND)[: len(rows)]
        seeds = np.array([row.turn.seed for row in rows], dtype=np.uint64)
        counters = np.array([len(row.token_ids) for row in rows], dtype=np.uint64)
        uniforms_N = torch.from_numpy(token_uniforms(seeds, counters))
        tokens_N, logprobs_N = self._drawn(rows, logits_NV, uniforms_N)
        for row, token, logprob in zip(rows, tokens_N.tolist(), logprobs_N.tolist(), strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)

    def _drawn(self, rows: list[_Row], logits_NV: Tensor, uniforms_N: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [N] and log-probabilities [N]; rows that are sampled alike are drawn together."""
        if all(row.turn.sampling is None for row in rows):
            return sample_tokens(logits_NV, uniforms_N, self.sampling)
        kinds = [row.turn.sampling or self.sampling for row in rows]
        groups = {(kind.temperature, kind.top_p): kind for kind in kinds}
        tokens_N = torch.zeros(len(rows), dtype=torch.long, device=logits_NV.device)
        logprobs_N = torch.zeros(len(rows), dtype=torch.float32, device=logits_NV.device)
        for (temperature, top_p), kind in groups.items():
            alike = [index for index, own in enumerate(kinds) if (own.temperature, own.top_p) == (temperature, top_p)]
            found = sample_tokens(logits_NV[alike], uniforms_N[alike], kind)
            tokens_N[alike], logprobs_N[alike] = found
        return tokens_N, logprobs_N

    def _retire(self) -> None:
        """Removes finished rows from the batch."""
        kept: list[int] = []
        for index, row in enumerate(self._active):
            if row.token_ids[-1] in self.stop_ids:
                self._finish(row.turn, row.token_ids, row.logprobs, "stop")
            elif len(row.token_ids) >= row.turn.budget:
                self._finish(row.turn, row.token_ids, row.logprobs, "length")
            else:
                kept.append(index)
        self._keep(kept)

    def _keep(self, kept: list[int]) -> None:
        """Removes all rows but `kept` from the batch."""
        if len(kept) < len(self._active):
            self._active = [self._active[index] for index in kept]
            self._in_flight().keep(kept)
