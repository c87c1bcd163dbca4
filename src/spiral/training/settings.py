"""Settings of the learner: the optimizer, the loss and low-rank training.

They are separate from the code that they configure, so that a recipe is read and checked without loading torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from spiral.core.plugins import check_options, resolve
from spiral.core.settings import Section, checked

Answer = Literal["log", "stop", "anchor", "pull", "rollback"]
"""What a run does when a guard finds a collapse (`spiral.runs.answers`)."""
RowLayout = Literal["padded", "packed"]
Layout = Literal["auto", "padded", "packed"]
NLL = "nll"
"""The loss of expert games, the negative log-likelihood; it makes a run one of fine-tuning (`spiral.training.sft`)."""
BUILTIN_LOSSES = ("ppo", "policy_gradient", "dual_clip", "cispo", "gspo", "dppo", NLL)
"""`spiral.training.losses` has them."""
CLIPPED_LOSSES = ("ppo", "dual_clip")
"""Those that use `loss.clip_low` and `loss.clip_high`."""


class RunConfig(Section):
    """Settings of the run: length, seed and what to keep."""

    steps: int = Field(100, ge=1, description="Training steps: games, then an update.")
    seed: int = Field(0, ge=0, description="Every random draw of the run follows from it.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints; the last step always gets one.")
    keep_checkpoints: int = Field(0, ge=0, description="Number of newest checkpoints to keep; 0 keeps all.")
    snapshots: list[Annotated[int, Field(ge=0)]] = Field(
        [],
        description="Steps whose model is kept for ever, without optimizer; 0 is before training. RUN@STEP loads it.",
    )
    episodes_every: int = Field(10, ge=1, description="Steps between saved episode files; the last step is saved too.")
    record_learner: bool = Field(
        True,
        description="Save advantages and the learner's log-probabilities with the episodes; one pass over their batch.",
    )
    trackers: list[str] = Field(
        ["tensorboard"],
        description="Where metrics go besides metrics.jsonl: tensorboard, wandb, trackio, mlflow or 'module:Tracker'.",
    )
    tracker_options: dict[str, dict[str, Any]] = Field({}, description="Tracker to its settings.")
    tracker_seconds: float = Field(
        120.0,
        gt=0,
        le=86_400,
        description="How long a tracker may take at a time; then it gets nothing more of the run.",
    )
    guards: list[str] = Field(
        ["collapse", "gap", "health", "room"],
        description="What warns when training goes wrong: these or 'module:Guard'.",
    )
    guard_options: dict[str, dict[str, Any]] = Field({}, description="Guard to its settings.")

    @field_validator("snapshots")
    @classmethod
    def _snapshots_in_order(cls, steps: list[int]) -> list[int]:
        return sorted(set(steps))

    @model_validator(mode="after")
    def _options_have_an_owner(self) -> Self:
        for kind, names, options in (
            ("tracker", self.trackers, self.tracker_options),
            ("guard", self.guards, self.guard_options),
        ):
            for name in options:
                if name not in names:
                    raise ValueError(
                        f"run.{kind}_options has {name!r}, which run.{kind}s does not name; add it there, or remove its"
                        " options"
                    )
        return self


class LearnerConfig(Section):
    """Settings of the optimizer and the micro-batches."""

    learning_rate: float = Field(1e-6, gt=0, description="AdamW step size.")
    final_learning_rate_share: float = Field(
        1.0, ge=0, le=1, description="Share of learning_rate that is left at the last step; linear in between."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from zero.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW decay of the gradient's mean.")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW decay of the gradient's square.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    epochs: int = Field(2, ge=1, description="Passes over each batch.")
    minibatches: int = Field(1, ge=1, description="Optimizer steps a pass.")
    layout: Layout = Field(
        "padded",
        description="'padded': one sample a row, sorted by length; 'packed': end to end, separate attention; 'auto':"
        " packed for a model that computes the same with it, else padded.",
    )
    tokens_per_microbatch: int = Field(16384, ge=1, description="Tokens in one forward and backward pass.")
    gradient_checkpointing: bool = Field(False, description="Compute activations twice instead of keeping them.")


class DualClipOptions(Section):
    """Options of the loss 'dual_clip'."""

    bound: float = Field(3.0, gt=1, description="Ratio beyond which a token with a negative advantage has no gradient.")


class CispoOptions(Section):
    """Options of the loss 'cispo'."""

    low: float = Field(1.0, gt=0, le=1, description="The weight is clipped below 1 - low; 1 does not clip it.")
    high: float = Field(4.0, gt=0, description="The weight is clipped above 1 + high.")


class GspoOptions(Section):
    """Options of the loss 'gspo'."""

    low: float = Field(3e-4, gt=0, lt=1, description="The ratio of a reply is clipped below 1 - low.")
    high: float = Field(4e-4, gt=0, description="The ratio of a reply is clipped above 1 + high.")


class DppoOptions(Section):
    """Options of the loss 'dppo'."""

    divergence: Literal["tv", "kl"] = Field("tv", description="Total variation, or KL in nats.")
    limit: float = Field(0.1, gt=0, description="Divergence beyond which a token may not be pushed further.")


LOSS_OPTIONS: dict[str, type[Section]] = {
    "dual_clip": DualClipOptions,
    "cispo": CispoOptions,
    "gspo": GspoOptions,
    "dppo": DppoOptions,
}
"""What `loss.options` may hold for the built-in losses that have options."""


class LossConfig(Section):
    """Settings of the loss."""

    kind: str = Field(
        "ppo",
        description="A loss of docs/estimators.md, such as 'ppo' or 'gspo'; 'nll' learns expert games (`spiral sft`);"
        " or 'module:attribute'.",
    )
    options: dict[str, object] = Field({}, description="Options of the loss, such as { low = 0.2 } for 'gspo'.")
    clip_low: float = Field(
        0.2, gt=0, lt=1, description="'ppo' and 'dual_clip': the ratio is clipped below 1 - clip_low."
    )
    clip_high: float = Field(
        0.2, gt=0, description="'ppo' and 'dual_clip': the ratio is clipped above 1 + clip_high, such as 0.28."
    )
    importance_cap: float = Field(2.0, gt=0, description="Largest importance weight of a token.")
    old_logprobs: Literal["behaviour", "learner"] = Field(
        "learner",
        description="Denominator of the ratio: behaviour log-probabilities, or the learner's at the update's start.",
    )
    gap_limit: float = Field(0.05, gt=0, description="Warn at a larger gap of engine and learner, nats a token.")
    entropy_bonus: float = Field(0.0, ge=0, description="Weight of the entropy, in return per nat.")
    kl_coefficient: float = Field(0.0, ge=0, description="Weight of the exact KL to the reference; 0: no reference.")
    reference_refresh_steps: int = Field(
        0, ge=0, description="Steps between copies of the policy into the reference; 0 never copies."
    )
    max_skipped_updates: int = Field(
        3, ge=0, description="Stop after this many updates without a finite gradient; 0 never."
    )

    def check(self) -> None:
        """Raise `ValueError` unless `kind` names a loss, and one that takes `options`; imports a user's module."""
        if self.kind in BUILTIN_LOSSES:
            self.builtin_options()
            return
        found: Any = resolve("losses", self.kind, dict.fromkeys(BUILTIN_LOSSES, Section))
        check_options(self.kind, found, self.options, positional=0 if isinstance(found, type) else 1)

    def builtin_options(self) -> dict[str, Any]:
        """Return the keyword arguments of the built-in loss `kind`. Raise `ValueError` for options it does not take."""
        clips = {"clip_low": self.clip_low, "clip_high": self.clip_high} if self.kind in CLIPPED_LOSSES else {}
        section = LOSS_OPTIONS.get(self.kind)
        if section is None:
            if self.options:
                settings = "; see loss.clip_low and loss.clip_high" if clips else ""
                raise ValueError(f"the loss {self.kind!r} has no options, and loss.options is {self.options}{settings}")
            return clips
        check_options(self.kind, section, self.options)
        return {**clips, **checked(section, self.options).model_dump()}

    @model_validator(mode="after")
    def _clips_are_used(self) -> Self:
        """A loss without PPO's clip has no use for its bounds."""
        fields = type(self).model_fields
        for name in ("clip_low", "clip_high"):
            value = getattr(self, name)
            if self.kind not in CLIPPED_LOSSES and value != fields[name].default:
                raise ValueError(
                    f"loss.{name} is {value:g}, but only {' and '.join(map(repr, CLIPPED_LOSSES))} use it, and"
                    f" loss.kind is {self.kind!r}; remove loss.{name}"
                    + (", and see loss.options" if self.kind in LOSS_OPTIONS else "")
                )
        return self

    @model_validator(mode="after")
    def _refreshed_reference_exists(self) -> Self:
        if self.reference_refresh_steps and not self.kl_coefficient:
            raise ValueError(
                f"loss.reference_refresh_steps is {self.reference_refresh_steps}, but loss.kl_coefficient is 0, so"
                " there is no reference; set loss.kl_coefficient, for example to 0.1"
            )
        return self


class SftConfig(Section):
    """Which turns of expert games are learned from by `spiral sft`, and in which portions."""

    data: list[str] = Field(
        [], description="Directories of `spiral collect`, run directories or Parquet files of episodes."
    )
    keep: Literal["winners", "not_losers", "all"] = Field(
        "winners",
        description="Whose turns: those of 'winners', also of draws ('not_losers'), or of 'all' players. Turns of"
        " opponents and illegal moves are never learned from.",
    )
    finished_only: bool = Field(True, description="Only games that their rules ended, not an illegal move or a limit.")
    games: list[str] = Field([], description="Only these games; none named means all in the data.")
    max_turns: int = Field(0, ge=0, description="Only games of at most this many turns; 0 is no limit.")
    max_tokens: int = Field(
        0,
        ge=0,
        description="Only turns whose prompt and reply have at most this many tokens; 0 is the model's context. A reply"
        " also has to fit sampling.max_new_tokens.",
    )
    max_episodes: int = Field(
        0, ge=0, description="Learn from this many of the games that are left, drawn by run.seed; 0 takes all."
    )
    epochs: int = Field(1, ge=1, description="Passes over the turns; run.steps follows from them.")
    samples_per_step: int = Field(128, ge=1, le=1_000_000, description="Turns of a step.")


class LoraConfig(Section):
    """Low-rank training instead of all parameters."""

    rank: int = Field(0, ge=0, le=65_536, description="Rank of the additions; 0 trains every parameter of the model.")
    alpha: float = Field(32.0, gt=0, description="The additions are scaled by alpha / rank.")
    modules: list[str] = Field(
        [], description="Names of the linear layers to add to; none named means all but the head."
    )
