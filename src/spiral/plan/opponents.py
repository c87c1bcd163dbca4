"""Memory of opponents that are models: each has an engine of its own wherever games are played.

What a sampler of the user's own names beyond the recipe's lists is not known in advance and not counted.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from spiral.inference.settings import check_heads
from spiral.models.card import ModelCard
from spiral.models.hub import NotHereError
from spiral.models.loading import local_model
from spiral.plan.memory import Item, ModelShape, model_shape, opponent_items, rows_in_flight, vllm_cache_tokens
from spiral.plan.tokens import TokenBudget
from spiral.policies.opponents import opponent_model, opponent_options
from spiral.policies.registry import (
    PolicyOptions,
    checked_model_config,
    effective_sampling,
    engine_settings,
    model_card,
)
from spiral.runs.opponents import opponent_defaults, planned_opponents
from spiral.runs.recipe import Recipe
from spiral.training.settings import LoraConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurveyedOpponent:
    """What stays the same of an opponent when a remedy changes settings."""

    name: str
    model: str
    trains: bool
    """Whether it plays in training, and not in evaluations alone."""
    shape: ModelShape | None
    """None for a model whose configuration is out of reach."""
    card: ModelCard = dataclasses.field(default_factory=ModelCard)
    missing: str = ""
    """Why the configuration is out of reach."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpponentMemory:
    """The memory of one opponent, as the recipe has it."""

    name: str
    items: tuple[Item, ...] = ()
    """On the device of the engine that evaluates."""
    others: tuple[Item, ...] = ()
    """On those of the other engines."""
    cache_tokens: int | None = None
    """Tokens whose keys and values its vLLM has room for; None for an engine that takes what it needs."""
    context: int = 0
    """Most tokens of prompt and reply together."""
    not_counted: str = ""
    """Why its memory is not counted; empty when it is."""

    @property
    def fits(self) -> bool:
        """Whether its vLLM has room for one context, without which it does not start."""
        return self.cache_tokens is None or self.cache_tokens >= self.context


def survey_opponents(recipe: Recipe, this_machine: bool) -> tuple[SurveyedOpponent, ...]:
    """The opponents of a recipe that are models here, with the shapes of their models.

    Raises `ValueError` for one that its engine cannot compute, or that is out of reach on `this_machine`.
    """
    found = []
    for name, trains in planned_opponents(recipe).items():
        model = opponent_model(name, recipe.opponent)
        vllm = engine_settings(model, _options(recipe, name), 0).kind == "vllm"
        try:
            config: Any = checked_model_config(model)
        except NotHereError as error:
            if this_machine:
                raise
            found.append(SurveyedOpponent(name=name, model=model, trains=trains, shape=None, missing=str(error)))
            continue
        shape = model_shape(config, "the vLLM engine" if vllm else "the transformers engine")
        card = ModelCard() if local_model(model) is None else model_card(model)
        found.append(SurveyedOpponent(name=name, model=model, trains=trains, shape=shape, card=card))
    return tuple(found)


def plan_opponent(
    opponent: SurveyedOpponent, recipe: Recipe, budget: TokenBudget, memory_gib: float, gpu: bool
) -> OpponentMemory:
    """The memory of an opponent on devices of `memory_gib`; `budget` is that of the policy, whose prompts it shares.

    Raises `ValueError` for one whose heads the devices of its engine do not share out.
    """
    options = _options(recipe, opponent.name)
    if opponent.shape is None:
        return OpponentMemory(name=opponent.name, not_counted=opponent.missing)
    if options.device != recipe.model.device:
        return OpponentMemory(name=opponent.name, not_counted=f"it is on another device, {options.device}")
    sampling = effective_sampling(opponent.card, options)
    engine = engine_settings(opponent.model, options, sampling.max_new_tokens)
    try:
        check_heads(engine.tensor_parallel, opponent.shape.heads, opponent.shape.key_heads)
    except ValueError as error:
        raise ValueError(
            f"opponent {opponent.name}: {error}; or set opponent.{opponent.name}.engine to 'transformers'"
        ) from error
    where = {"path": opponent.model, "compute": options.compute, "head": "compute"}
    own = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update=where),
            "sampling": sampling,
            "engine": engine,
            "lora": LoraConfig(),
        }
    )
    context = min(engine.context or opponent.shape.context, opponent.shape.context)
    tokens = dataclasses.replace(budget, response=sampling.max_new_tokens, context=context)
    evaluation = recipe.evaluation
    evaluates = bool(evaluation.games) and opponent.name in evaluation.opponents
    evaluating = min(engine.max_rows, evaluation.in_flight, evaluation.episodes) if evaluates else 0
    playing = rows_in_flight(own, evaluates=False) if opponent.trains else 0

    def items(rows: int) -> tuple[Item, ...]:
        return tuple(opponent_items(opponent.name, own, opponent.shape, tokens, memory_gib, gpu, rows))  # type: ignore[arg-type]

    vllm = engine.kind == "vllm"
    return OpponentMemory(
        name=opponent.name,
        items=items(max(playing, evaluating)),
        others=items(playing),
        cache_tokens=vllm_cache_tokens(own, opponent.shape, memory_gib, gpu) if vllm else None,
        context=context,
    )


def reserved_shares(recipe: Recipe) -> dict[str, float]:
    """The share of a device's memory that the vLLM of each opponent takes, by the opponent's name."""
    shares = {}
    for name in planned_opponents(recipe):
        engine = engine_settings(opponent_model(name, recipe.opponent), _options(recipe, name), 0)
        if engine.kind == "vllm":
            shares[name] = engine.memory_share
    return shares


def _options(recipe: Recipe, name: str) -> PolicyOptions:
    return opponent_options(name, recipe.opponent.get(name), opponent_defaults(recipe))
