r"""Whether a run fits its devices; when it does not, which setting would make it fit.

    plan = check_plan(recipe, config)       # raises ValueError with one line when it cannot fit
    print(*describe(plan), sep="\n")

The sum of what is always held and of the larger of the two phases of a step, playing and updating, is compared with a
device's memory less a margin. The formulas are in `memory.py` and `tokens.py`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from spiral.hardware import device_memory_gib, is_gpu
from spiral.plan.memory import (
    Item,
    ModelShape,
    Phase,
    engine_items,
    learner_items,
    model_shape,
    trainable_parameters,
    vllm_cache_tokens,
    vllm_share_gib,
)
from spiral.plan.remedies import Settings, find_remedy, with_settings
from spiral.plan.tokens import GameTokens, TokenBudget, survey_games, token_budget
from spiral.recipe import Recipe
from spiral.text import ChatCodec

MARGIN = 0.05
"""Share of a device's memory that a plan leaves free."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory of one device and tokens of one step."""

    model: str
    devices: int
    parameters: int
    memory_gib: float
    """What a device has."""
    asked: bool
    """Whether this machine was asked for it, or the recipe says it."""
    items: tuple[Item, ...]
    budget: TokenBudget
    cache_tokens: int | None
    """What vLLM has room for; None for an engine that takes what it needs."""
    together: bool = False
    """Whether a device plays and updates at the same time."""

    def phase_gib(self, phase: Phase) -> float:
        """What is held in a phase of the step, or always."""
        return sum(item.gib for item in self.items if item.phase in ("always", phase))

    @property
    def need_gib(self) -> float:
        """The most that is held at once."""
        if self.together:
            return sum(item.gib for item in self.items)
        return max(self.phase_gib("playing"), self.phase_gib("updating"))

    @property
    def usable_gib(self) -> float:
        """A device's memory less the margin."""
        return (1 - MARGIN) * self.memory_gib

    @property
    def cache_fits(self) -> bool:
        """Whether vLLM has room for one whole context, without which it does not start."""
        return self.cache_tokens is None or self.cache_tokens >= self.budget.context

    @property
    def fits(self) -> bool:
        """Whether the run can go ahead."""
        return self.need_gib <= self.usable_gib and self.cache_fits


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Facts:
    """What does not change with the settings that a remedy tries."""

    shape: ModelShape
    games: tuple[GameTokens, ...]
    trainable: int | None
    this_machine: bool

    def plan(self, recipe: Recipe) -> Plan:
        """The plan of a recipe with the same model and games."""
        asked = self.this_machine or not recipe.hardware.memory_gib
        memory = device_memory_gib(recipe.model.device) if asked else recipe.hardware.memory_gib
        budget = token_budget(recipe, self.games, self.shape.context)
        trainable = trainable_parameters(recipe, self.shape) if self.trainable is None else self.trainable
        vllm = recipe.engine.kind == "vllm"
        if vllm and math.isinf(memory):
            raise ValueError("this machine does not say how much memory it has; set hardware.memory_gib")
        gpu = is_gpu(recipe.model.device) if asked else recipe.model.device != "cpu"
        share = vllm_share_gib(recipe, self.shape, memory, gpu)
        return Plan(
            model=recipe.model.path,
            devices=recipe.hardware.devices,
            parameters=self.shape.parameters,
            memory_gib=memory,
            asked=asked,
            items=(
                *learner_items(recipe, self.shape, budget, trainable, gpu),
                *engine_items(recipe, self.shape, budget, share, gpu),
            ),
            budget=budget,
            cache_tokens=vllm_cache_tokens(recipe, self.shape, share) if vllm else None,
            together=recipe.cluster.shares_gpus and recipe.cluster.schedule != "sync",
        )


def make_plan(
    recipe: Recipe,
    config: Any,
    *,
    codec: ChatCodec | None = None,
    trainable_parameters: int | None = None,
    this_machine: bool = False,
) -> Plan:
    """The plan of a recipe whose model has the transformers configuration `config`.

    `codec` counts prompt tokens exactly; `trainable_parameters` are all unless said; `this_machine` asks the device
    that is here for its memory even if the recipe says what it was planned for.
    """
    return _facts(recipe, config, codec, trainable_parameters, this_machine).plan(recipe)


def check_plan(
    recipe: Recipe,
    config: Any,
    *,
    codec: ChatCodec | None = None,
    trainable_parameters: int | None = None,
    this_machine: bool = False,
) -> Plan:
    """The same, for a run that is to fit. Raises `ValueError` that names what is largest and what would help."""
    facts = _facts(recipe, config, codec, trainable_parameters, this_machine)
    plan = facts.plan(recipe)
    if plan.fits:
        return plan
    remedy = find_remedy(recipe, plan.budget, lambda changed: facts.plan(changed).fits)
    then = None if remedy is None else facts.plan(with_settings(recipe, remedy))
    raise ValueError(f"{_shortage(plan)}; {_advice(remedy, then)}")


def check_runnable(recipe: Recipe, processes: int = 1) -> None:
    """Raises `ValueError` unless there is one process for every device that the recipe is planned for."""
    devices = recipe.hardware.devices
    if devices != processes:
        memory = " --set hardware.memory_gib=0" if recipe.hardware.memory_gib else ""
        raise ValueError(
            f"the recipe is planned for {devices} devices (hardware.devices), and this is a run of {processes};"
            f" to run on {devices}, add --set cluster.rollout_workers=N --set cluster.learner_workers={devices};"
            f" to run on {processes}, add --set hardware.devices={processes}{memory}"
            " (with --dry-run, this says whether it fits and what would make it fit)"
        )


def describe(plan: Plan) -> list[str]:
    """The plan in lines of text."""
    where = "this machine" if plan.asked else "hardware.memory_gib"
    lines = [
        f"{plan.model}: {plan.parameters:,} parameters",
        f"Memory of {'one device' if plan.devices == 1 else f'each of {plan.devices} devices'}, in GiB:",
    ]
    for item in plan.items:
        notes = ", ".join(filter(None, (item.note, "" if item.phase == "always" else f"while {item.phase}")))
        lines.append(f"{item.gib:8.2f}  {item.name}{f' ({notes})' if notes else ''}")
    playing, updating = plan.phase_gib("playing"), plan.phase_gib("updating")
    lines += [
        f"{plan.need_gib:8.2f}  at most: {playing:.2f} while playing, {updating:.2f} while updating"
        + (", both at once on a shared GPU" if plan.together else ""),
        f"{plan.usable_gib:8.2f}  usable: {plan.memory_gib:.2f} ({where}) less {MARGIN:.0%}",
        "Tokens of a step:",
    ]
    budget = plan.budget
    lines += [
        f"  {game.game}: {game.episodes:,} games of about {game.turns:.1f} turns (at most {game.most_turns}),"
        f" prompts of about {game.prompt:,.0f} tokens (longest {game.longest_prompt:,})"
        for game in budget.games
    ]
    left = budget.context_left
    room = f"{left:,} left" if left >= 0 else f"{-left:,} too few, so that long replies are cut short"
    return [
        *lines,
        f"  replies of at most {budget.response:,} tokens; a context of {budget.context:,} tokens, {room}",
        f"  about {budget.turns:,.0f} turns (at most {budget.most_turns:,}) and {budget.tokens:,.0f} tokens"
        f" (at most {budget.most_tokens:,})",
    ]


def _facts(recipe: Recipe, config: Any, codec: ChatCodec | None, trainable: int | None, this_machine: bool) -> _Facts:
    shape = model_shape(config)
    return _Facts(
        shape=shape,
        games=survey_games(recipe, codec),
        trainable=trainable,
        this_machine=this_machine,
    )


def _shortage(plan: Plan) -> str:
    """What is too much, or too little."""
    if plan.need_gib <= plan.usable_gib:
        return (
            f"the plan for {plan.model} does not fit: engine.memory_share leaves vLLM room for the keys and values of"
            f" {plan.cache_tokens:,} tokens, and it needs {plan.budget.context:,}, one whole context"
        )
    worst: Phase = "playing" if plan.phase_gib("playing") > plan.phase_gib("updating") else "updating"
    held = [item for item in plan.items if item.phase in ("always", worst)]
    largest = sorted(held, key=lambda item: -item.gib)[:3]
    has = "this machine has" if plan.asked else "hardware.memory_gib is"
    return (
        f"the plan for {plan.model} does not fit: it needs {plan.need_gib:.1f} GiB of a device, and {has}"
        f" {plan.memory_gib:.1f}, of which {plan.usable_gib:.1f} can be used; the largest items are "
        + ", ".join(f"{item.name} ({item.gib:.1f})" for item in largest)
    )


def _advice(remedy: Settings | None, then: Plan | None) -> str:
    """How to mend it."""
    if remedy is None or then is None:
        return "no setting makes it fit; expected a smaller model.path or a device with more memory"
    said = " and ".join(f"{key} = {_toml(value)}" for key, value in remedy.items())
    return f"it fits with {said} ({then.need_gib:.1f} GiB)"


def _toml(value: bool | int | float | str) -> str:
    """A setting as a recipe writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
