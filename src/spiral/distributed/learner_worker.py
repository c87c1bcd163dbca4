"""A process that learns: the `Learner` of a run in one process, behind a Ray actor's methods.

Each is one rank of the learners' process group (`learner.group`). All are asked the same at the same time; rank 0
writes checkpoints and gives the weights out, through the object store or as the sender of broadcasts. Any of them can
lend its memory to the rollout workers beside it.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from spiral.agreement import LearnerCheck
from spiral.core.locks import Claim
from spiral.core.metrics import Metrics
from spiral.core.records import FloatArray
from spiral.distributed.session import thread_stacks
from spiral.distributed.weights.base import PackedWeights, pack
from spiral.distributed.weights.broadcast import Meeting, own_address
from spiral.distributed.weights.ipc import Lender, Loan, own_places
from spiral.distributed.weights.sync import Sender
from spiral.models.card import training_card
from spiral.models.loading import LanguageModel, load_language_model
from spiral.runs.agreement import learner_options
from spiral.runs.recipe import Recipe
from spiral.training.batch import Batch
from spiral.training.checkpoint import load_checkpoint, save_checkpoint
from spiral.training.learner import Learner
from spiral.training.process_group import BACKENDS, free_port, join_group


class LearnerWorker:
    """One rank of the learner."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._recipe = Recipe()
        self._loaded: LanguageModel | None = None
        self._learner: Learner | None = None
        self._sender = Sender()

    def meeting_place(self, local: bool) -> tuple[str, int]:
        """Where the ranks can meet on this machine: an address and a free port."""
        address = own_address(local)
        return address, free_port(address)

    def set_up(
        self, recipe: Recipe, checkpoint: Path | None, place: tuple[str, int], threads: int, seconds: float
    ) -> dict[str, Any]:
        """Loads the model, meets the other ranks and makes the learner, from a checkpoint where one is given.

        Returns the state that the checkpoint holds, {} without one.
        """
        import torch

        threading.current_thread().name = "learn"
        torch.set_num_threads(threads)
        self._recipe = recipe
        source = recipe.model
        if checkpoint is not None and not recipe.lora.rank:
            source = source.model_copy(update={"path": str(checkpoint)})
        loaded = load_language_model(source)
        if self.size > 1:
            address, port = place
            backend = BACKENDS.get(loaded.model.device.type, BACKENDS["cpu"])
            join_group(self.rank, self.size, port=port, address=address, backend=backend, timeout_seconds=seconds)
        self._loaded = loaded
        # Over several ranks all measure, whatever one of them may know: scoring is collective.
        model, codec, compute = loaded.model, loaded.codec(recipe.prompt), recipe.model.compute
        check = LearnerCheck(model, codec, compute, recipe.sampling.temperature)
        self._learner = Learner(
            loaded.model,
            config=recipe.learner,
            loss_config=recipe.loss,
            sampling=recipe.sampling,
            total_steps=recipe.run.steps,
            seed=recipe.run.seed,
            compute=recipe.model.compute,
            head=recipe.model.head,
            compiled=recipe.model.compile,
            lora=recipe.lora,
        )
        check.compare(self._learner, learner_options(recipe))
        return {} if checkpoint is None else load_checkpoint(checkpoint, self._learner)

    def score(self, batch: Batch) -> FloatArray:
        """[A] the log-probabilities of a batch's action tokens; all have to be asked."""
        assert self._learner is not None
        return self._learner.score(batch)

    def update(self, batch: Batch | None) -> tuple[int, Metrics]:
        """One update; the version it made and its metrics."""
        assert self._learner is not None
        metrics = self._learner.update(batch)
        return self._learner.version, metrics

    def weights(self, dtype: Any) -> tuple[int, PackedWeights | None]:
        """The size in bytes and the whole weights on rank 0, nothing on the others; all have to be asked."""
        assert self._learner is not None
        named = self._learner.weights()
        if self.rank == 0:
            packed = pack(named, dtype)
            return packed.num_bytes, packed
        for _ in named:  # gathered one by one, on all ranks
            pass
        return 0, None

    def keep_weights(self, dtype: Any, keep: int) -> int:
        """Rank 0 and lenders keep the whole weights, and no more than `keep` versions; all have to be asked.

        Returns the size in bytes.
        """
        assert self._learner is not None
        named = self._learner.weights()
        if self.rank == 0 or isinstance(self._sender, Lender):
            return self._sender.keep(self._learner.version, named, dtype, keep)
        for _ in named:  # gathered one by one, on all ranks
            pass
        return 0

    def lending_place(self) -> str:
        """Where this rank's memory can be read."""
        on_gpu, in_memory = own_places()
        return on_gpu if self._on_gpu() else in_memory

    def lend(self) -> None:
        """Weights are kept where others can read them from now on."""
        self._sender = Lender(newest_only=self._on_gpu())

    def lend_weights(self, version: int) -> Loan | None:
        """Weights that were kept, for one process at this rank's place to read."""
        assert isinstance(self._sender, Lender)
        return self._sender.lend(version)

    def holds_weights(self, number: int) -> bool:
        """Whether what was lent is still as it was."""
        assert isinstance(self._sender, Lender)
        return self._sender.holds(number)

    def broadcast_place(self, local: bool, seconds: float) -> tuple[str, int]:
        """Where this rank meets those to whom it sends weights."""
        return self._sender.meeting_place(local, seconds)

    def send_weights(self, version: int, meeting: Meeting) -> str | None:
        """Sends weights that were kept; what went wrong, if anything did."""
        return self._sender.send(version, meeting)

    def abandon(self, generation: int) -> None:
        """Ends a meeting to which somebody cannot come."""
        self._sender.abandon(generation)

    def copy_weights(self, version: int) -> list[Any]:
        """Puts weights that were kept into the object store; a list with the reference."""
        return self._sender.copy(version)

    def save(self, root: Path, state: dict[str, Any], keep: int, claim: Claim | None = None) -> None:
        """Writes the checkpoint of the present version, while the driver's `claim` to the run holds."""
        assert self._learner is not None
        assert self._loaded is not None
        save_checkpoint(
            root,
            learner=self._learner,
            tokenizer=self._loaded.tokenizer,
            card=training_card(self._recipe.model_dump(mode="json")),
            state=state,
            keep=keep,
            check=claim.check if claim else lambda: None,
        )

    def _on_gpu(self) -> bool:
        assert self._loaded is not None
        return bool(self._loaded.model.device.type == "cuda")

    def process(self) -> int:
        """The process's number."""
        return os.getpid()

    def stacks(self) -> str:
        """Where every thread of this process is in its Python code."""
        return thread_stacks()
