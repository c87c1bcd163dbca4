"""The learner: owns the weights, the reference and the optimizer, and turns a batch into an update.

One `update` passes over the batch `epochs` times in `minibatches` parts; each part is one optimizer step, made of
as many micro-batches as memory needs. What is minimised is in `loss.py`, how rows are laid out in `layout.py`.

Where several processes have joined a group (`group.py`), all call the same methods with the same batch, and together
make the update that one would make. Each learns from its own samples (`division.py`); gradients are added up,
denominators are those of the whole minibatch, and so are the metrics that every rank returns. In float32 the weights
are replicated, in bfloat16 sharded.

Shapes: K action tokens of a micro-batch, A of the whole batch, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spiral.core.metrics import Metrics
from spiral.core.policy import SamplingConfig
from spiral.core.progress import shown
from spiral.core.records import FloatArray
from spiral.core.seeds import derive_seed
from spiral.models.head import output_head
from spiral.models.loading import check_architecture
from spiral.models.settings import HeadPrecision
from spiral.training.batch import Batch
from spiral.training.division import Share, share_of
from spiral.training.fsdp import gradient_scale, like, reshard, shard, whole
from spiral.training.logprobs import TokenScores
from spiral.training.lora import add_lora, plain_weights
from spiral.training.optimizer import TrainingDivergedError, load_optimizer_tensors, optimizer_tensors, sum_gradients
from spiral.training.packing import MicroBatch, empty_micro_batch, micro_batches
from spiral.training.ranks import batch_fingerprint, current_ranks, weights_fingerprint
from spiral.training.recompute import recompute_blocks
from spiral.training.reference import copy_weights, frozen_copy, reference_hidden
from spiral.training.scorer import Scorer
from spiral.training.settings import LearnerConfig, LoraConfig, LossConfig
from spiral.training.sums import TOKEN_SUMS, add, averages
from spiral.training.targets import Targets, micro_batch_loss, targets_of


class Learner:
    """Owns the trained model. Call `update` with one batch a step; `version` counts the updates.

    With several ranks, every method that gives or takes weights is collective.
    """

    def __init__(
        self,
        model: Any,
        *,
        config: LearnerConfig,
        loss_config: LossConfig,
        sampling: SamplingConfig,
        total_steps: int,
        seed: int,
        compute: str = "float32",
        head: HeadPrecision = "compute",
        compiled: bool = False,
        lora: LoraConfig | None = None,
    ) -> None:
        """Takes over `model`, whose weights are float32. With `compute` bfloat16 it is sharded (`sharding.py`).

        Raises `ValueError` on a device where that cannot be done, and when ranks differ in model or settings.
        """
        self.model = model
        self.config = config
        self.loss_config = loss_config
        self.sampling = sampling
        self.total_steps = total_steps
        self.seed = seed
        self.version = 0
        self.skipped_updates = 0
        """Updates in a row whose optimizer steps were all skipped; a learner from a checkpoint counts anew."""
        check_architecture(model.config, "the learner")
        self.ranks = current_ranks(model.device)
        settings = (config, loss_config, sampling, total_steps, seed, compute, head, lora)
        self._check_same(settings)
        packed = config.layout == "packed"
        self.reference = frozen_copy(model, compute, packed=packed) if loss_config.kl_coefficient else None
        self._compiled = compiled
        # After the copy, which would share compiled blocks.
        self._scorer = Scorer(model, compiled=compiled, head=head, packed=packed)
        if lora is not None and lora.rank:
            add_lora(model, lora, seed)
        self._sharded = compute == "bfloat16"
        if config.gradient_checkpointing:
            recompute_blocks(model)
        if self._sharded:
            shard(self._scorer, torch.bfloat16)
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=self._sharded,
        )

    def _check_same(self, settings: tuple[object, ...]) -> None:
        """All ranks have to begin alike, since nothing is sent from one to another before the first gradient."""
        with self.ranks.at("making the learner"):
            self.ranks.check_same(
                "the learner's configuration", lambda: derive_seed(*map(repr, settings)), "give every rank one recipe"
            )
            self.ranks.check_same(
                "the model", lambda: weights_fingerprint(self.model.parameters()), "load every rank's from one place"
            )

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter of the plain model by name, whole and in float32, for whoever samples from the policy.

        Sharded ones are gathered one by one as they are asked for, so all ranks have to go through all of them.
        """
        return plain_weights(self.model)

    def adapter_tensors(self) -> dict[str, Tensor]:
        """The low-rank layers' weights by name, whole; empty when every parameter is trained."""
        return {name: whole(weight.detach()) for name, weight in self.model.named_parameters() if ".lora_" in name}

    @torch.no_grad()
    def load_adapter_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `adapter_tensors` gave."""
        parameters = dict(self.model.named_parameters())
        for name, tensor in tensors.items():
            parameters[name].copy_(like(tensor, parameters[name]))

    def learning_rate(self, step: int) -> float:
        """The step size at `step`, counted from 1: warm-up, then linear to the final share."""
        config = self.config
        done = (step - 1) / max(1, self.total_steps - 1)
        rate = config.learning_rate * (1 - (1 - config.final_learning_rate_share) * min(1.0, done))
        return rate * min(1.0, step / config.warmup_steps) if config.warmup_steps else rate

    def update(self, batch: Batch | None) -> Metrics:
        """One training step on `batch`. Returns metrics of the loss, the gradient and the sampler-learner gap.

        None stands for a step whose samples were all dropped: the version moves on, the weights do not. Raises
        `TrainingDivergedError` when nothing could be learned for too long, `GroupError` when a rank is lost.
        """
        step = self.version + 1
        with self.ranks.at(f"update {step}"):
            self.ranks.check_same("the batch", lambda: batch_fingerprint(batch), "give every rank the same samples")
            self._refresh_reference()
            if batch is None:
                self.version = step
                return {"learner/learning_rate": self.learning_rate(step), "learner/skipped_steps": 0.0}
            totals = self._passes(batch, step)
        self.version = step
        metrics = averages(totals, self.learning_rate(step))
        if "sampler/gap_mean" in metrics:
            metrics["sampler/gap_warning"] = float(metrics["sampler/gap_mean"] > self.loss_config.gap_limit)
        self._stop_if_diverged(totals, metrics)
        return metrics

    def _passes(self, batch: Batch, step: int) -> Metrics:
        """All optimizer steps of an update. Returns sums over the whole batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        totals: Metrics = {}
        self.model.eval()  # dropout and noise of training would make another policy of it than the sampler's
        share = share_of(batch, self.ranks.rank, self.ranks.size)
        targets = self._targets(share.batch, totals)
        for epoch in range(self.config.epochs):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "shuffle", step, epoch))
            order = torch.randperm(batch.num_samples, generator=generator)
            for number, part in enumerate(order.tensor_split(min(self.config.minibatches, batch.num_samples)), 1):
                with self.ranks.at(f"update {step}, pass {epoch + 1}, minibatch {number}"):
                    self._optimizer_step(share, part, targets, totals)
                parts = min(self.config.minibatches, batch.num_samples)
                shown().count("minibatches", epoch * parts + number, self.config.epochs * parts)
        return self.ranks.add_up_metrics(totals, TOKEN_SUMS)

    def score(self, batch: Batch) -> FloatArray:
        """[A] the log-probabilities of a batch's action tokens in nats, computed as in an update; changes nothing.

        With several ranks all have to ask, with the same batch, and each scores all of it.
        """
        targets = targets_of(batch, self.model.device)
        scores = np.zeros(batch.num_action_tokens, dtype=np.float32)
        self.model.eval()
        with torch.set_grad_enabled(self._compiled):  # without gradients it would be compiled a second time
            for rows in self._rows_together(batch, torch.arange(batch.num_samples)):
                scored = self._score(rows, targets).logprobs_K.detach()
                scores[rows.action_K.cpu().numpy()] = scored.cpu().numpy()
        reshard(self._scorer)
        return scores

    def _stop_if_diverged(self, totals: Metrics, metrics: Metrics) -> None:
        """Counts updates without any optimizer step, and raises when there are too many in a row."""
        self.skipped_updates = 0 if totals.get("optimizer_steps") else self.skipped_updates + 1
        limit = self.loss_config.max_skipped_updates
        if limit and self.skipped_updates >= limit:
            raise TrainingDivergedError(
                f"no gradient was finite in {self.skipped_updates} updates in a row, up to update {self.version}"
                f" ({totals['skipped_steps']:.0f} optimizer steps skipped in the last), and the weights have stayed as"
                f" they were; lower learner.learning_rate ({self.config.learning_rate:g}) or learner.max_grad_norm"
                f" ({self.config.max_grad_norm:g}) and go back to a checkpoint of before, or set"
                " loss.max_skipped_updates to 0 to go on without end",
                metrics,
            )

    def _refresh_reference(self) -> None:
        """Copies the policy into the reference when its time has come."""
        every = self.loss_config.reference_refresh_steps
        if self.reference is not None and every and self.version and self.version % every == 0:
            self.load_reference(self.weights())

    def load_reference(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies weights by parameter name into the reference."""
        assert self.reference is not None
        copy_weights(self.reference, weights)

    def _optimizer_step(self, share: Share, part: Tensor, targets: Targets, totals: Metrics) -> None:
        """Gradients over all micro-batches of a part, clipped, then one AdamW step; skipped when not finite."""
        denominator = float(self.sampling.max_new_tokens * len(part))
        scale = gradient_scale(self.ranks.size) if self._sharded else 1.0
        sums: Metrics = {}
        for rows in self._rows_together(share.batch, share.of(part)):
            scores = self._score(rows, targets)
            if targets.untouched:
                add(sums, targets.note_old_policy(rows, scores, self.loss_config))
            total, measured = micro_batch_loss(rows, scores, targets, denominator, self.loss_config)
            add(sums, measured)
            (total * scale).backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not self._sharded:
            sum_gradients(parameters, self.ranks)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)))
        if math.isfinite(norm):
            self.optimizer.step()
            targets.untouched = False
            add(totals, {**sums, "grad_norm": norm, "optimizer_steps": 1.0})
        else:
            add(totals, {"skipped_steps": 1.0})
        self.optimizer.zero_grad(set_to_none=True)

    def _score(self, rows: MicroBatch, targets: Targets) -> TokenScores:
        """Log-probabilities, entropy and KL of a micro-batch's action tokens under the current weights."""
        reference = None
        if self.reference is not None and targets.reference_hidden is not None:
            head = output_head(self.reference, self._scorer.head_precision)
            reference = (targets.reference_hidden[rows.action_K], head)
        scores: TokenScores = self._scorer(
            rows,
            targets.action_ids[rows.action_K],
            self.sampling.temperature,
            reference,
            self.loss_config.entropy_bonus > 0,
        )
        return scores

    @torch.no_grad()
    def _targets(self, batch: Batch, totals: Metrics) -> Targets:
        """What is known before the first optimizer step: old log-probabilities and the reference's hidden states.

        With one minibatch a pass, the first pass sees every token under the old weights and notes them on its way.
        """
        targets = targets_of(batch, self.model.device)
        everything = torch.arange(batch.num_samples)
        if self.loss_config.old_logprobs == "learner" and self.config.minibatches > 1:
            for rows in self._rows_together(batch, everything):
                add(totals, targets.note_old_policy(rows, self._score(rows, targets), self.loss_config))
            targets.untouched = False
        if self.reference is not None:
            made = self._rows(batch, everything)
            targets.reference_hidden = reference_hidden(self.reference, made, batch.num_action_tokens)
        return targets

    def _rows(self, batch: Batch, samples: Tensor) -> list[MicroBatch]:
        """The micro-batches of some samples, on the model's device."""
        made = micro_batches(batch, samples, self.config.layout, self.config.tokens_per_microbatch)
        return [rows.to(self.model.device) for rows in made]

    def _rows_together(self, batch: Batch, samples: Tensor) -> list[MicroBatch]:
        """The same; where the model is sharded, with empty ones so that all ranks have equally many."""
        rows = self._rows(batch, samples)
        missing = self.ranks.most(len(rows)) - len(rows) if self._sharded else 0
        return rows + [empty_micro_batch().to(self.model.device)] * missing

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """AdamW's state, named by parameter and whole, for `checkpoint.py`; where it is sharded, on rank 0 alone."""
        return optimizer_tensors(self.optimizer, self.model)

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `optimizer_tensors` gave, which every rank has read from the checkpoint."""
        load_optimizer_tensors(self.optimizer, self.model, tensors)
