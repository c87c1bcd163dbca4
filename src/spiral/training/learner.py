"""The learner: owns the weights, the reference and the optimizer, and turns a batch into an update.

`Learner.update` reads from top to bottom: what is known before the first optimizer step (`_targets`), passes over the
batch (`_passes`), each of `minibatches` optimizer steps (`_optimizer_step`), each of as many micro-batches as memory
needs. What is minimised is in `loss.py`, how rows are laid out in `packing.py`.

Where several processes have joined a group (`process_group.py`), all call the same methods with the same batch, and
together make the update that one would make. Each learns from its own samples; gradients are added up, denominators
are those of the whole minibatch, and so are the metrics that every rank returns. In float32 the weights are replicated:
all ranks take the same step with the same sum of gradients, so that weights stay equal bit by bit. In bfloat16 they are
sharded (`fsdp.py`).

Shapes: K action tokens of a micro-batch, A of the samples that this rank learns from, D hidden size.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from spiral.core.metrics import Metrics
from spiral.core.policy import SamplingConfig
from spiral.core.progress import shown
from spiral.core.records import FloatArray
from spiral.core.seeds import derive_seed
from spiral.models.head import output_head
from spiral.models.loading import cast_parameters
from spiral.models.settings import HeadPrecision, ModelConfig
from spiral.training.attention import use_segment_attention
from spiral.training.batch import Batch
from spiral.training.fsdp import gathered, gradient_scale, like, reshard, shard, whole
from spiral.training.layout import chosen_layout
from spiral.training.logprobs import Scorer, TokenScores, hidden_states, recompute_blocks
from spiral.training.lora import add_lora, plain_weights
from spiral.training.loss import TOKEN_SUMS, add, averages, gap_sums, likelihood_sums, loss, loss_sums
from spiral.training.losses import TokenNumbers, make_policy_loss
from spiral.training.packing import MicroBatch, Share, empty_micro_batch, micro_batches, share_of
from spiral.training.process_group import batch_fingerprint, current_ranks, weights_fingerprint
from spiral.training.settings import NLL, LearnerConfig, LoraConfig, LossConfig, RunConfig


class TrainingDivergedError(RuntimeError):
    """Update after update had no finite gradient; `metrics` are those of the last."""

    def __init__(self, message: str, metrics: Metrics | None = None) -> None:
        super().__init__(message)
        self.metrics = dict(metrics or {})


class LearnerRecipe(Protocol):
    """The sections of a recipe that a learner is built from."""

    @property
    def run(self) -> RunConfig: ...  # noqa: D102
    @property
    def model(self) -> ModelConfig: ...  # noqa: D102
    @property
    def sampling(self) -> SamplingConfig: ...  # noqa: D102
    @property
    def loss(self) -> LossConfig: ...  # noqa: D102
    @property
    def learner(self) -> LearnerConfig: ...  # noqa: D102
    @property
    def lora(self) -> LoraConfig: ...  # noqa: D102


@dataclasses.dataclass(kw_only=True)
class _Targets:
    """Per-token numbers that stay the same during an update; each [A] unless said otherwise."""

    action_ids: Tensor
    behaviour_logprobs: Tensor
    advantages: Tensor
    samples: Tensor
    """Which sample each token belongs to."""
    old_logprobs: Tensor
    """The behaviour log-probabilities until the old policy's are known."""
    reference_hidden: Tensor | None = None
    """[A, D]"""
    old_policy: bool = True
    """Whether no optimizer step of this update has been taken yet, so that scores are those of the old policy."""

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> _Targets:
        behaviour = batch.behaviour_logprobs_A.to(device)
        return cls(
            action_ids=batch.action_ids_A.to(device),
            behaviour_logprobs=behaviour,
            advantages=batch.advantages_A.to(device),
            samples=batch.action_sample_A.to(device),
            old_logprobs=behaviour.clone(),
        )

    def note_old_policy(self, rows: MicroBatch, scores: TokenScores, config: LossConfig) -> Metrics:
        """Keep scores of the old policy, and return the sums of their gap to the behaviour log-probabilities."""
        index, logprobs_K = rows.action_K, scores.logprobs_K.detach()
        if config.old_logprobs == "learner":
            self.old_logprobs[index] = logprobs_K
        return gap_sums(logprobs_K, self.behaviour_logprobs[index])

    def numbers(self, rows: MicroBatch, scores: TokenScores) -> TokenNumbers:
        """The numbers of a micro-batch's action tokens that the policy loss is computed from."""
        index = rows.action_K
        return TokenNumbers(
            logprobs_K=scores.logprobs_K,
            old_logprobs_K=self.old_logprobs[index],
            behaviour_logprobs_K=self.behaviour_logprobs[index],
            advantages_K=self.advantages[index],
            sample_K=self.samples[index],
        )


class Learner:
    """Owns the trained model. Call `update` with one batch a step; `version` counts the updates.

    With several ranks, every method that takes or returns weights is collective.
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
        """Take over `model`, whose weights are float32. With `compute` bfloat16 it is sharded.

        Raises:
            ValueError: The device cannot shard, the loss does not exist, or ranks differ in model or settings.
        """
        self.model = model
        self.config = config
        self.loss_config = loss_config
        self.sampling = sampling
        self.total_steps = total_steps
        self.seed = seed
        self.version = 0
        self.skipped_updates = 0
        """Updates in a row whose optimizer steps were all skipped; a learner from a checkpoint starts at 0."""
        self._policy_loss = make_policy_loss(loss_config)
        self._expert = loss_config.kind == NLL
        """Whether an expert, not the policy, chose the tokens."""
        self.ranks = current_ranks(model.device)
        settings = (config, loss_config, sampling, total_steps, seed, compute, head, lora)
        self._check_same(settings)
        self.layout = chosen_layout(model, config.layout)
        packed = self.layout == "packed"
        self.reference = frozen_copy(model, compute, packed=packed) if loss_config.kl_coefficient else None
        self._compiled = compiled
        self.rate_factor = 1.0
        """Multiplies the learning rate; set by the answers of guards."""
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

    @classmethod
    def from_recipe(cls, recipe: LearnerRecipe, model: Any) -> Learner:
        """Build the learner of a recipe around `model`, as the constructor does."""
        return cls(
            model,
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

    def _check_same(self, settings: tuple[object, ...]) -> None:
        """All ranks have to begin alike, since no weights are sent between them before the first gradient."""
        with self.ranks.at("making the learner"):
            self.ranks.check_same(
                "learner configuration",
                lambda: derive_seed(*map(repr, settings)),
                "give every rank the same recipe",
            )
            self.ranks.check_same(
                "model", lambda: weights_fingerprint(self.model.parameters()), "load the same model on every rank"
            )

    def update(self, batch: Batch | None) -> Metrics:
        """Do one training step.

        Args:
            batch: The samples of the step; None when all were dropped: the version moves on, the weights do not.

        Returns:
            Metrics of the loss, the gradient and the gap between behaviour and learner log-probabilities.

        Raises:
            TrainingDivergedError: No gradient was finite in too many updates in a row.
            GroupError: A rank is lost.
        """
        step = self.version + 1
        with self.ranks.at(f"update {step}"):
            self.ranks.check_same("batch", lambda: batch_fingerprint(batch), "give every rank the same samples")
            self._refresh_reference()
            if batch is None:
                self.version = step
                return {"learner/learning_rate": self.learning_rate(step), "learner/skipped_steps": 0.0}
            totals = self._passes(batch, step)
        self.version = step
        metrics = averages(totals, self.learning_rate(step), self.loss_config.kind)
        if "sampler/gap_mean" in metrics:
            metrics["sampler/gap_warning"] = float(metrics["sampler/gap_mean"] > self.loss_config.gap_limit)
        self._stop_if_diverged(totals, metrics)
        return metrics

    def _refresh_reference(self) -> None:
        """Copy the policy into the reference every `reference_refresh_steps` updates."""
        every = self.loss_config.reference_refresh_steps
        if self.reference is not None and every and self.version and self.version % every == 0:
            self.load_reference(self.weights())

    def learning_rate(self, step: int) -> float:
        """Return the step size at `step`, counted from 1: warm-up, then linear to the final share."""
        config = self.config
        done = (step - 1) / max(1, self.total_steps - 1)
        rate = config.learning_rate * (1 - (1 - config.final_learning_rate_share) * min(1.0, done))
        rate *= self.rate_factor
        return rate * min(1.0, step / config.warmup_steps) if config.warmup_steps else rate

    def _passes(self, batch: Batch, step: int) -> Metrics:
        """Take all optimizer steps of an update. Returns sums over the whole batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        totals: Metrics = {}
        self.model.eval()  # dropout and noise of training would make it another policy than the one that sampled
        share = share_of(batch, self.ranks.rank, self.ranks.size)
        targets = self._targets(share.batch, totals)
        parts = min(self.config.minibatches, batch.num_samples)
        for epoch in range(self.config.epochs):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "shuffle", step, epoch))
            order = torch.randperm(batch.num_samples, generator=generator)
            for number, part in enumerate(order.tensor_split(parts), 1):
                with self.ranks.at(f"update {step}, pass {epoch + 1}, minibatch {number}"):
                    self._optimizer_step(share, part, targets, totals, self._denominator(batch, part))
                shown().count("minibatches", epoch * parts + number, self.config.epochs * parts)
        with self.ranks.at(f"update {step}, its metrics"):
            return self.ranks.add_up_metrics(totals, TOKEN_SUMS)

    @torch.no_grad()
    def _targets(self, batch: Batch, totals: Metrics) -> _Targets:
        """Compute what is known before the first optimizer step: old log-probabilities, the reference's hidden states.

        With one minibatch a pass, the first pass sees every token under the old weights and keeps their scores, so
        that no separate pass is needed.
        """
        targets = _Targets.of(batch, self.model.device)
        everything = torch.arange(batch.num_samples)
        if self.loss_config.old_logprobs == "learner" and self.config.minibatches > 1 and not self._expert:
            for rows in self._rows_of_all_ranks(batch, everything):
                add(totals, targets.note_old_policy(rows, self._score(rows, targets), self.loss_config))
            targets.old_policy = False
        if self.reference is not None:
            rows_of_batch = self._micro_batches(batch, everything)
            targets.reference_hidden = reference_hidden(self.reference, rows_of_batch, batch.num_action_tokens)
        return targets

    def _denominator(self, batch: Batch, part: Tensor) -> float:
        """Return the constant that the sum over the tokens of a part is divided by, the same on all ranks.

        The response budget times the number of samples, so that no reply counts more for being short; of an expert's
        games the number of action tokens, so that the loss is their mean negative log-likelihood.
        """
        if self._expert:
            return float((batch.lengths_S - batch.prompt_lengths_S)[part].sum())
        return float(self.sampling.max_new_tokens * len(part))

    def _optimizer_step(
        self, share: Share, part: Tensor, targets: _Targets, totals: Metrics, denominator: float
    ) -> None:
        """Sum gradients over all micro-batches of a part, clip them and step; skipped when they are not finite."""
        scale = gradient_scale(self.ranks.size) if self._sharded else 1.0
        sums: Metrics = {}
        for rows in self._rows_of_all_ranks(share.batch, share.of(part)):
            scores = self._score(rows, targets)
            if targets.old_policy and not self._expert:
                add(sums, targets.note_old_policy(rows, scores, self.loss_config))
            tokens = targets.numbers(rows, scores)
            parts = loss(scores, tokens, denominator, self.loss_config, self._policy_loss)
            if self._expert:
                add(sums, likelihood_sums(parts, scores, denominator))
            else:
                add(sums, loss_sums(parts, scores, tokens))
            (parts.total * scale).backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not self._sharded:
            self.ranks.add_up_gradients(parameters)  # FSDP2 has added up those of sharded weights
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)))
        if math.isfinite(norm):
            self.optimizer.step()
            targets.old_policy = False
            add(totals, {**sums, "grad_norm": norm, "optimizer_steps": 1.0})
        else:
            add(totals, {"skipped_steps": 1.0})
        self.optimizer.zero_grad(set_to_none=True)

    def _score(self, rows: MicroBatch, targets: _Targets) -> TokenScores:
        """Compute log-probabilities, entropy and KL of a micro-batch's action tokens under the current weights."""
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
            self._expert,
        )
        return scores

    def _micro_batches(self, batch: Batch, samples: Tensor) -> list[MicroBatch]:
        """Micro-batches of the given samples, on the model's device."""
        made = micro_batches(batch, samples, self.layout, self.config.tokens_per_microbatch)
        return [rows.to(self.model.device) for rows in made]

    def _rows_of_all_ranks(self, batch: Batch, samples: Tensor) -> list[MicroBatch]:
        """The same; where the model is sharded, with empty ones so that every rank has equally many."""
        rows = self._micro_batches(batch, samples)
        missing = self.ranks.max(len(rows)) - len(rows) if self._sharded else 0
        return rows + [empty_micro_batch().to(self.model.device)] * missing

    def _stop_if_diverged(self, totals: Metrics, metrics: Metrics) -> None:
        """Count updates without any optimizer step, and raise when there are too many in a row."""
        self.skipped_updates = 0 if totals.get("optimizer_steps") else self.skipped_updates + 1
        limit = self.loss_config.max_skipped_updates
        if limit and self.skipped_updates >= limit:
            raise TrainingDivergedError(
                f"no gradient was finite in {self.skipped_updates} updates in a row, up to update {self.version}"
                f" ({totals['skipped_steps']:.0f} optimizer steps skipped in the last), so the weights have not"
                f" changed; lower learner.learning_rate ({self.config.learning_rate:g}) or learner.max_grad_norm"
                f" ({self.config.max_grad_norm:g}) and go back to an earlier checkpoint, or set"
                " loss.max_skipped_updates to 0 never to stop",
                metrics,
            )

    def score(self, batch: Batch, *, split: bool = False) -> FloatArray:
        """Return the log-probabilities [A] of a batch's action tokens in nats, as in an update; changes nothing.

        With several ranks all have to call this with the same batch. Each scores all of it or, with `split`, the part
        that it learns from, and all get the whole.
        """
        with self.ranks.at(f"scoring before update {self.version + 1}"):
            return self._scores(batch, split=split)

    def _scores(self, batch: Batch, *, split: bool) -> FloatArray:
        share = share_of(batch, self.ranks.rank, self.ranks.size if split else 1)
        targets = _Targets.of(share.batch, self.model.device)
        scores = np.zeros(share.batch.num_action_tokens, dtype=np.float32)
        self.model.eval()
        with torch.set_grad_enabled(self._compiled):  # without gradients it would be compiled a second time
            for rows in self._rows_of_all_ranks(share.batch, torch.arange(share.batch.num_samples)):
                scored = self._score(rows, targets).logprobs_K.detach()
                scores[rows.action_K.cpu().numpy()] = scored.cpu().numpy()
        reshard(self._scorer)
        if share.index_S is None:
            return scores
        whole_A = torch.zeros(batch.num_action_tokens, dtype=torch.float32)
        whole_A[share.index_S[batch.action_sample_A] >= 0] = torch.from_numpy(scores)
        whole_A = whole_A.to(self.model.device)
        self.ranks.add_up(whole_A)
        return whole_A.cpu().numpy()

    @property
    def hidden_size(self) -> int:
        """Size of the model's hidden states, D."""
        return int(self.model.get_output_embeddings().weight.shape[1])

    @torch.no_grad()
    def prompt_states(self, batch: Batch) -> Tensor:
        """Return the last hidden states [S, D] at the last token of each prompt; changes nothing.

        For one rank that holds the whole model.
        """
        self.model.eval()
        counts_S = batch.lengths_S - batch.prompt_lengths_S
        first_A = torch.zeros(batch.num_action_tokens, dtype=torch.bool)
        first_A[counts_S.cumsum(0) - counts_S] = True  # the last token of a prompt predicts the first of a reply
        states_SD = torch.zeros(batch.num_samples, self.hidden_size)
        for rows in self._micro_batches(batch, torch.arange(batch.num_samples)):
            action_K = rows.action_K.cpu()
            chosen_K = first_A[action_K]
            found_KD = hidden_states(self.model, rows).float().cpu()
            states_SD[batch.action_sample_A[action_K[chosen_K]]] = found_KD[chosen_K]
        return states_SD

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter of the plain model by name, whole and in float32.

        Sharded ones are gathered one by one as the iterator advances, so all ranks have to go through all of them.
        """
        with self.ranks.at(f"gathering the weights of version {self.version}"):
            yield from plain_weights(self.model)

    def load_reference(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy weights by parameter name into the reference."""
        assert self.reference is not None
        own = dict(self.reference.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                own[name].copy_(tensor)

    def adapter_tensors(self) -> dict[str, Tensor]:
        """Return the low-rank layers' weights by name, whole; empty when every parameter is trained."""
        return {name: whole(weight.detach()) for name, weight in self.model.named_parameters() if ".lora_" in name}

    def load_adapter_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `adapter_tensors` returned."""
        self.load_parameters(tensors)

    @torch.no_grad()
    def load_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy whole tensors into the parameters of these names."""
        parameters = dict(self.model.named_parameters())
        for name, tensor in tensors.items():
            parameters[name].copy_(like(tensor, parameters[name]))

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return AdamW's state, named by parameter and whole; where it is sharded, on rank 0 alone."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return gathered(
            (f"{key}/{names[parameter]}", value)
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        )

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `optimizer_tensors` returned, which every rank has read from the checkpoint."""
        parameters = dict(self.model.named_parameters())
        for key, value in sorted(tensors.items()):
            kind, _, name = key.partition("/")
            parameter = parameters[name]
            if kind == "step":  # a fused kernel reads it on the parameter's device
                device = parameter.device if self.optimizer.defaults["fused"] else value.device
                self.optimizer.state[parameter][kind] = value.to(device, copy=True)
            else:
                self.optimizer.state[parameter][kind] = like(value, parameter)


def frozen_copy(model: Any, compute: str, *, packed: bool) -> Any:
    """Return a copy that is never trained: the reference of the KL, whole on every rank.

    Args:
        model: What is copied.
        compute: The precision of the copy's weights.
        packed: Whether rows are packed, so that it attends within segments.
    """
    copied = copy.deepcopy(model).eval()
    if packed:
        use_segment_attention(copied)
    cast_parameters(copied, getattr(torch, compute))
    return copied.requires_grad_(False)


@torch.no_grad()
def reference_hidden(reference: Any, rows: Iterable[MicroBatch], action_tokens: int) -> Tensor:
    """Return the reference's hidden states [A, D] of the action tokens, of which all are in the rows."""
    result: Tensor | None = None
    for micro_batch in rows:
        part = hidden_states(reference, micro_batch)
        if result is None:
            result = part.new_empty((action_tokens, part.shape[1]))
        result[micro_batch.action_K] = part
    if result is None:  # a rank without samples
        head: Tensor = reference.get_output_embeddings().weight
        return head.new_empty((0, head.shape[1]))
    return result
