"""The checks of `spiral check`: every computation of a run, before and after an update, and the chat template."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from spiral.agreement import Difference, DisagreementError, Tolerance, begin_check, tolerance_of
from spiral.games import load_game
from spiral.inference.engines import Weights, make_policy
from spiral.inference.room import PromptRoomError, check_room
from spiral.inference.settings import EngineConfig, resolved
from spiral.models.loading import LanguageModel, load_language_model
from spiral.runs.agreement import learner_options
from spiral.runs.recipe import Recipe
from spiral.text.prompts import PromptConfig
from spiral.text.template_report import TemplateReport, describe_template
from spiral.training.learner import Learner
from spiral.training.settings import LossConfig

TRIAL_RATE = 1e-3
"""Learning rate of the trial update: large enough for an engine that misses some of the weights to show."""
KEYS_AND_VALUES = 1 << 30
"""Bytes for the keys and values of one long text, beside half of the weights'."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelReport:
    """The results of a check of a model."""

    headline: str
    """Parameters, family, precision, context."""
    tolerance: Tolerance
    differences: list[Difference]
    not_crossed: tuple[str, ...]
    """Lengths at which the model's computation changes, but which are too long to be checked here."""
    template: TemplateReport
    error: ValueError | None
    """Why the model is refused."""

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "model": self.headline,
            "agrees": self.error is None,
            "error": None if self.error is None else str(self.error),
            "tolerance": dataclasses.asdict(self.tolerance),
            "differences": [dataclasses.asdict(found) for found in self.differences],
            "not_crossed": list(self.not_crossed),
            "template": dataclasses.asdict(self.template),
        }


def check_model_report(recipe: Recipe, *, every_layout: bool) -> ModelReport:
    """Checks a model as `recipe` would run it.

    Args:
        recipe: whose model, engine, precision, sampling, prompt and learner are checked.
        every_layout: also with packed rows and gradient checkpointing, whatever the recipe says.

    Raises:
        ValueError: The model cannot be loaded, or no engine can be started for it.
    """
    loaded = load_language_model(recipe.model)
    recipe = _with_prompt(recipe, loaded)
    engine = _small_engine(resolved(recipe.engine), loaded.model, recipe.model.compute)
    recipe = recipe.model_copy(update={"engine": engine})
    template = describe_template(loaded.tokenizer, recipe.prompt, loaded.declared_ends)
    policy = make_policy(engine, recipe.model, loaded, recipe.prompt, recipe.sampling, weights=Weights.SHARED)
    config = loaded.model.config
    headline = (
        f"{loaded.model.num_parameters() / 1e6:,.1f}M parameters, {config.model_type}, {recipe.model.compute},"
        f" a context of {policy.context:,} tokens"
    )
    tolerance = tolerance_of(recipe.model.compute, recipe.sampling.temperature)
    differences: list[Difference] = []
    not_crossed: tuple[str, ...] = ()
    error: ValueError | None = None
    shared = getattr(policy, "model", None) is loaded.model
    try:
        for spec in recipe.selfplay.games:
            check_room(policy, load_game(spec), recipe.model.path, first=True)
        check = begin_check(policy, loaded.model, recipe.model.compute, games=list(recipe.selfplay.games))
        differences, not_crossed = check.differences, check.probes.not_crossed
        check.engine()
        if every_layout:
            sharded = recipe.model.compute == "bfloat16"  # which can be done to a model once only
            model = copy.deepcopy(loaded.model) if sharded else loaded.model
            check.learner(_learner(recipe, model), learner_options(recipe), fewer=True)
            auto = {"layout": "auto", "gradient_checkpointing": True}
            recipe = recipe.model_copy(update={"learner": recipe.learner.model_copy(update=auto)})
        options = learner_options(recipe)
        learner = _learner(recipe, copy.deepcopy(loaded.model) if shared and recipe.lora.rank else loaded.model)
        check.learner(learner, options)
        learner.update(check.trial())
        policy.load_weights(learner.weights(), learner.version)
        check.updated(learner, options)
    except (DisagreementError, PromptRoomError) as refused:
        error = refused
    finally:
        policy.close()
    return ModelReport(
        headline=headline,
        tolerance=tolerance,
        differences=differences,
        not_crossed=not_crossed,
        template=template,
        error=error,
    )


def _small_engine(engine: EngineConfig, model: Any, compute: str) -> EngineConfig:
    """Less memory for vLLM on a CPU if the user set no memory_share: vLLM fills all of it, which takes long."""
    if engine.kind != "vllm" or model.device.type != "cpu" or "memory_share" in engine.model_fields_set:
        return engine
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    nodes = max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))))  # the share is of one node's
    needed = 1.5 * model.num_parameters() * getattr(torch, compute).itemsize + KEYS_AND_VALUES
    return engine.model_copy(update={"memory_share": min(engine.memory_share, nodes * needed / total)})


def _with_prompt(recipe: Recipe, loaded: LanguageModel) -> Recipe:
    """Uses the model's own prompt if the recipe has none, and a plain one for a model without a chat template."""
    if "prompt" in recipe.model_fields_set:
        return recipe
    prompt = loaded.prompt or (recipe.prompt if loaded.tokenizer.chat_template else PromptConfig(template="qwen3"))
    return recipe.model_copy(update={"prompt": prompt})


class SignStep(torch.optim.AdamW):
    """AdamW's first step, which is the sign of the gradient, without memory for its moments."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Moves every parameter by the rate."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad.sign_(), alpha=-group["lr"])


def _learner(recipe: Recipe, model: Any) -> Learner:
    """A learner for the trial update: one small step, without a reference."""
    once = {"learning_rate": TRIAL_RATE, "epochs": 1, "minibatches": 1, "warmup_steps": 0}
    trial = {
        "learner": recipe.learner.model_copy(update=once),
        "loss": LossConfig(old_logprobs="behaviour"),
        "run": recipe.run.model_copy(update={"steps": 1}),
    }
    learner = Learner.from_recipe(recipe.model_copy(update=trial), model)
    learner.optimizer = SignStep(learner.optimizer.param_groups)
    return learner
