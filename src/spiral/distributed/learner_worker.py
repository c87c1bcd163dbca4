"""A process that learns: the `Learner` of a run in one process, behind a Ray actor's methods.

Every worker is one rank of a process group (`spiral.training.process_group`). All ranks get the same calls at the same
time; rank 0 writes checkpoints. What each rank does with the weights is up to the weight transport.
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
from spiral.distributed.session import own_address, thread_stacks
from spiral.distributed.weights.base import TransportContext, WeightSender
from spiral.distributed.weights.registry import make_sender, send
from spiral.models.card import training_card
from spiral.models.loading import LanguageModel, load_language_model
from spiral.runs.agreement import learner_options
from spiral.runs.recipe import Recipe
from spiral.training.batch import Batch
from spiral.training.checkpoint import load_checkpoint, save_checkpoint, save_snapshot
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
        self._transport: TransportContext | None = None
        self._sender: WeightSender | None = None

    def meeting_place(self, local: bool) -> tuple[str, int]:
        """An address and a free port of this machine, for the process group."""
        address = own_address(local)
        return address, free_port(address)

    def set_up(
        self,
        recipe: Recipe,
        checkpoint: Path | None,
        meeting_place: tuple[str, int],
        threads: int,
        seconds: float,
        transport: TransportContext,
    ) -> dict[str, Any]:
        """Loads the model, joins the process group and makes the learner.

        Args:
            recipe: The recipe of the run.
            checkpoint: Where to begin from, if given.
            meeting_place: Address and port of the process group.
            threads: Threads of torch.
            seconds: Timeout of every wait in the process group.
            transport: How to send weights.

        Returns:
            The state in the checkpoint; {} without one.
        """
        import torch

        threading.current_thread().name = "learn"
        torch.set_num_threads(threads)
        self._recipe = recipe
        self._transport = transport
        self._sender = make_sender(transport, self.rank)
        source = recipe.model
        if checkpoint is not None and not recipe.lora.rank:
            source = source.model_copy(update={"path": str(checkpoint)})
        loaded = load_language_model(source)
        if self.size > 1:
            address, port = meeting_place
            backend = BACKENDS.get(loaded.model.device.type, BACKENDS["cpu"])
            join_group(self.rank, self.size, port=port, address=address, backend=backend, timeout_seconds=seconds)
        self._loaded = loaded
        # Scoring is collective, so all ranks compare, even if the result is known to one of them.
        model, codec, compute = loaded.model, loaded.codec(recipe.prompt), recipe.model.compute
        check = LearnerCheck(model, codec, compute, recipe.sampling.temperature)
        self._learner = Learner.from_recipe(recipe, loaded.model)
        check.compare(self._learner, learner_options(recipe))
        return {} if checkpoint is None else load_checkpoint(checkpoint, self._learner)

    def score(self, batch: Batch, split: bool = False) -> FloatArray:
        """[A] The log-probabilities of a batch's action tokens; all ranks have to be called."""
        assert self._learner is not None
        return self._learner.score(batch, split=split)

    def update(self, batch: Batch | None) -> tuple[int, Metrics]:
        """Does one update; returns the new version and the metrics."""
        assert self._learner is not None
        metrics = self._learner.update(batch)
        return self._learner.version, metrics

    def send_weights(self) -> tuple[int, Any]:
        """Sends the current weights; all ranks have to be called. Returns the size in bytes and the payload."""
        assert self._learner is not None
        assert self._sender is not None
        assert self._transport is not None
        return send(self._transport.config, self._sender, self._learner.version, self._learner.weights())

    def call_transport(self, method: str, *arguments: Any) -> Any:
        """Calls a method of this rank's side of the weight transport."""
        return getattr(self._sender, method)(*arguments)

    def save(self, root: Path, state: dict[str, Any], keep: int, claim: Claim | None = None) -> None:
        """Writes the checkpoint of the current version, as long as the driver's `claim` to the run holds."""
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

    def save_snapshot(self, root: Path, claim: Claim | None = None) -> None:
        """Writes the model of the current version alone, as long as the driver's `claim` to the run holds."""
        assert self._learner is not None
        assert self._loaded is not None
        save_snapshot(
            root,
            learner=self._learner,
            tokenizer=self._loaded.tokenizer,
            card=training_card(self._recipe.model_dump(mode="json")),
            compute=self._recipe.model.compute,
            check=claim.check if claim else lambda: None,
        )

    def process(self) -> int:
        """The process id."""
        return os.getpid()

    def stacks(self) -> str:
        """The Python stack of every thread of this process."""
        return thread_stacks()
