"""The learner: owns the weights, the reference and the optimizer, and turns a batch into an update.

One `update` passes over the batch `epochs` times in `minibatches` parts; each part is one optimizer step, made of
as many micro-batches as memory needs. What is minimised is in `loss.py`, how rows are laid out in `layout.py`.

Shapes: K action tokens of a micro-batch, A of the whole batch, D hidden size.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from spiral.batch import Batch
from spiral.config import Section
from spiral.learner.attention import use_segment_attention
from spiral.learner.layout import Layout, MicroBatch, micro_batches
from spiral.learner.logprobs import TokenScores
from spiral.learner.lora import LoraConfig, add_lora, plain_weights
from spiral.learner.loss import LossConfig, loss
from spiral.learner.scorer import Scorer, hidden_states
from spiral.learner.sharding import like, shard, whole
from spiral.learner.sums import add, averages, gap_sums
from spiral.measures import Metrics
from spiral.policies.loading import cast_parameters, check_architecture
from spiral.policies.sampling import SamplingConfig
from spiral.seeds import derive_seed


class LearnerConfig(Section):
    """How weights are updated."""

    learning_rate: float = Field(1e-6, gt=0, description="AdamW step size.")
    final_learning_rate: float = Field(
        1.0, ge=0, le=1, description="Share of it left at the last step; linear in between."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from zero.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW decay of the gradient's mean.")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW decay of the gradient's square.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    epochs: int = Field(2, ge=1, description="Passes over each batch.")
    minibatches: int = Field(1, ge=1, description="Optimizer steps a pass.")
    layout: Layout = Field(
        "padded", description="'padded': one sample a row, sorted by length; 'packed': end to end, attended apart."
    )
    tokens_per_microbatch: int = Field(16384, ge=1, description="Tokens in one forward and backward pass.")
    gradient_checkpointing: bool = Field(False, description="Compute activations twice instead of keeping them.")


@dataclasses.dataclass(kw_only=True)
class _Targets:
    """Per-token numbers of the whole batch that do not change during the update; each [A] unless said."""

    action_ids: Tensor
    behaviour_logprobs: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    reference_hidden: Tensor | None
    """[A, D]"""
    untouched: bool = True
    """Whether no optimizer step of this update has been taken, so that scores are still those of the old policy."""


class Learner:
    """Owns the trained model. Call `update` with one batch a step; `version` counts the updates."""

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
        compiled: bool = False,
        lora: LoraConfig | None = None,
    ) -> None:
        """Takes over `model`, whose weights are float32. With `compute` bfloat16 it is sharded (`sharding.py`).

        Raises `ValueError` on a device where that cannot be done.
        """
        self.model = model
        self.config = config
        self.loss_config = loss_config
        self.sampling = sampling
        self.total_steps = total_steps
        self.seed = seed
        self.version = 0
        check_architecture(model.config, "the learner")
        self.reference = frozen_copy(model, compute) if loss_config.kl_coefficient else None
        self._scorer = Scorer(model, compiled=compiled)  # after the copy, which would share compiled blocks
        if lora is not None and lora.rank:
            add_lora(model, lora, seed)
        if compute == "bfloat16":
            shard(self._scorer, torch.bfloat16)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=compute == "bfloat16",
        )

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter of the plain model by name, whole and in float32, for whoever samples from the policy."""
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
        rate = config.learning_rate * (1 - (1 - config.final_learning_rate) * min(1.0, done))
        return rate * min(1.0, step / config.warmup_steps) if config.warmup_steps else rate

    def update(self, batch: Batch | None) -> Metrics:
        """One training step on `batch`. Returns metrics of the loss, the gradient and the sampler-learner gap.

        None stands for a step whose samples were all dropped: the version moves on, the weights do not.
        """
        step = self.version + 1
        self._refresh_reference()
        if batch is None:
            self.version = step
            return {"learner/learning_rate": self.learning_rate(step), "learner/skipped_steps": 0.0}
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        totals: Metrics = {}
        self._training_mode()
        targets = self._targets(batch, totals)
        for epoch in range(self.config.epochs):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "shuffle", step, epoch))
            order = torch.randperm(batch.num_samples, generator=generator)
            for part in order.tensor_split(min(self.config.minibatches, batch.num_samples)):
                self._optimizer_step(batch, part, targets, totals)
        self.model.eval()
        self.version = step
        metrics = averages(totals, self.learning_rate(step))
        if "sampler/gap_mean" in metrics:
            metrics["sampler/gap_warning"] = float(metrics["sampler/gap_mean"] > self.loss_config.gap_limit)
        return metrics

    def _training_mode(self) -> None:
        """Transformers checkpoints activations only in training mode; dropout stays off, the sampler has none."""
        self.model.train(self.config.gradient_checkpointing)
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
            elif getattr(module, "attention_dropout", 0.0):
                module.attention_dropout = 0.0

    def _refresh_reference(self) -> None:
        """Copies the policy into the reference when its time has come."""
        every = self.loss_config.reference_refresh_steps
        if self.reference is not None and every and self.version and self.version % every == 0:
            self.load_reference(self.weights())

    @torch.no_grad()
    def load_reference(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies weights by parameter name into the reference."""
        assert self.reference is not None
        own = dict(self.reference.named_parameters())
        for name, tensor in weights:
            own[name].copy_(tensor)

    def _optimizer_step(self, batch: Batch, part: Tensor, targets: _Targets, totals: Metrics) -> None:
        """Gradients over all micro-batches of a part, clipped, then one AdamW step; skipped when not finite."""
        denominator = float(self.sampling.max_new_tokens * len(part))
        sums: Metrics = {}
        for rows in self._rows(batch, part):
            total = self._micro_batch_loss(rows, targets, denominator, sums)
            total.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)))
        if math.isfinite(norm):
            self.optimizer.step()
            targets.untouched = False
            add(totals, {**sums, "grad_norm": norm, "optimizer_steps": 1.0})
        else:
            add(totals, {"skipped_steps": 1.0})
        self.optimizer.zero_grad(set_to_none=True)

    def _micro_batch_loss(self, rows: MicroBatch, targets: _Targets, denominator: float, sums: Metrics) -> Tensor:
        """The loss of one micro-batch; adds its sums over tokens to `sums`."""
        index = rows.action_K
        scores = self._score(rows, targets)
        if targets.untouched:
            self._note_old_policy(rows, scores, targets, sums)
        parts = loss(
            scores,
            targets.old_logprobs[index],
            targets.behaviour_logprobs[index],
            targets.advantages[index],
            denominator,
            self.loss_config,
        )
        ratio = (scores.logprobs_K - targets.old_logprobs[index]).detach()
        add(
            sums,
            {
                "tokens": float(len(index)),
                "policy_loss": float(parts.policy),
                "clipped": float(parts.clipped),
                "entropy": float(scores.entropy_K.detach().sum()),
                "kl_reference": float(scores.kl_K.detach().sum()),
                "kl_old": float((ratio.exp() - 1 - ratio).sum()),
            },
        )
        return parts.total

    def _note_old_policy(self, rows: MicroBatch, scores: TokenScores, targets: _Targets, sums: Metrics) -> None:
        """While the weights are those that the update began with, scores are the old policy's: no pass of its own."""
        index, logprobs_K = rows.action_K, scores.logprobs_K.detach()
        add(sums, gap_sums(logprobs_K, targets.behaviour_logprobs[index]))
        if self.loss_config.old_logprobs == "learner":
            targets.old_logprobs[index] = logprobs_K

    def _score(self, rows: MicroBatch, targets: _Targets) -> TokenScores:
        """Log-probabilities, entropy and KL of a micro-batch's action tokens under the current weights."""
        reference = None
        if self.reference is not None and targets.reference_hidden is not None:
            reference = (targets.reference_hidden[rows.action_K], self.reference.get_output_embeddings())
        scores: TokenScores = self._scorer(
            rows,
            targets.action_ids[rows.action_K],
            self.sampling.temperature,
            reference,
            self.loss_config.entropy_bonus > 0,
        )
        return scores

    @torch.no_grad()
    def _targets(self, batch: Batch, totals: Metrics) -> _Targets:
        """What is known before the first optimizer step: old log-probabilities and the reference's hidden states.

        With one minibatch a pass, the first pass sees every token under the old weights and notes them on its way.
        """
        device = self.model.device
        behaviour = batch.behaviour_logprobs_A.to(device)
        targets = _Targets(
            action_ids=batch.action_ids_A.to(device),
            behaviour_logprobs=behaviour,
            advantages=batch.advantages_S[batch.action_sample_A].to(device),
            old_logprobs=behaviour.clone(),
            reference_hidden=None,
        )
        everything = torch.arange(batch.num_samples)
        if self.loss_config.old_logprobs == "learner" and self.config.minibatches > 1:
            for rows in self._rows(batch, everything):
                self._note_old_policy(rows, self._score(rows, targets), targets, totals)
            targets.untouched = False
        if self.reference is not None:
            targets.reference_hidden = self._reference_hidden(batch, everything)
        return targets

    def _reference_hidden(self, batch: Batch, samples: Tensor) -> Tensor:
        """[A, D] the reference's hidden states, in the order of the action tokens."""
        result: Tensor | None = None
        for rows in self._rows(batch, samples):
            part = hidden_states(self.reference, rows)
            if result is None:
                result = part.new_empty((batch.num_action_tokens, part.shape[1]))
            result[rows.action_K] = part
        assert result is not None
        return result

    def _rows(self, batch: Batch, samples: Tensor) -> list[MicroBatch]:
        """The micro-batches of some samples, on the model's device."""
        made = micro_batches(batch, samples, self.config.layout, self.config.tokens_per_microbatch)
        return [rows.to(self.model.device) for rows in made]

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """AdamW's state, named by parameter and whole, for `checkpoint.py`."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            f"{key}/{names[parameter]}": whole(value)
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        }

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `optimizer_tensors` gave."""
        parameters = dict(self.model.named_parameters())
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            parameter = parameters[name]
            if kind == "step":  # a fused kernel reads it on the parameter's device
                device = parameter.device if self.optimizer.defaults["fused"] else value.device
                self.optimizer.state[parameter][kind] = value.to(device, copy=True)
            else:
                self.optimizer.state[parameter][kind] = like(value, parameter)


def frozen_copy(model: Any, compute: str) -> Any:
    """A copy that is never trained, in the precision of the computation."""
    copied = copy.deepcopy(model).eval()
    use_segment_attention(copied)
    cast_parameters(copied, getattr(torch, compute))
    return copied.requires_grad_(False)
