r"""Whether a run fits its devices; when it does not, which setting would make it fit.

    plan = check_plan(recipe, config)       # raises ValueError with one line when it cannot fit
    print(*describe(plan), sep="\n")

The sum of what is always held and of the larger of the two phases of a step, playing and updating, is compared with a
device's memory less a margin, for the learner's devices and for the engines' where they have their own (`devices.py`).
The formulas are in `memory.py`, `engine_memory.py` and `tokens.py`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from spiral.plan.devices import Device, lay_out
from spiral.plan.engine_memory import engine_items, vllm_cache_tokens
from spiral.plan.memory import Item, ModelShape, Phase, learner_items, model_shape, trainable_parameters
from spiral.plan.remedies import Settings, find_remedy, with_settings
from spiral.plan.tokens import GameTokens, TokenBudget, survey_games, token_budget
from spiral.runs.hardware import device_memory_gib, is_gpu
from spiral.runs.recipe import Recipe
from spiral.text import ChatCodec

MARGIN = 0.05
"""Share of a device's memory that a plan leaves free."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory of every kind of device and tokens of one step."""

    model: str
    parameters: int
    memory_gib: float
    """What a device has."""
    asked: bool
    """Whether this machine was asked for it, or the recipe says it."""
    gpu: bool
    devices: tuple[Device, ...]
    """The kinds of device, and what each holds."""
    budget: TokenBudget
    cache_tokens: int | None
    """What vLLM has room for; None for an engine that takes what it needs."""

    @property
    def items(self) -> tuple[Item, ...]:
        """What is held on any device."""
        return tuple(item for device in self.devices for item in device.items)

    @property
    def fullest(self) -> Device:
        """The device that needs most."""
        return max(self.devices, key=lambda device: device.need_gib)

    def phase_gib(self, phase: Phase) -> float:
        """What is held in a phase of the step, or always, on the device that holds most then."""
        return max(device.phase_gib(phase) for device in self.devices)

    @property
    def need_gib(self) -> float:
        """The most that a device holds at once."""
        return self.fullest.need_gib

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
        gpu = _on_gpus(recipe, asked)
        if gpu and (asked or recipe.hardware.devices > 1):  # else a run on CPUs may be meant
            recipe.cluster.check_gpus()
        learner = learner_items(recipe, self.shape, budget, trainable, gpu)
        engine = engine_items(recipe, self.shape, budget, memory, gpu)
        others = engine_items(recipe, self.shape, budget, memory, gpu, measures=False)
        return Plan(
            model=recipe.model.path,
            parameters=self.shape.parameters,
            memory_gib=memory,
            asked=asked,
            gpu=gpu,
            devices=lay_out(recipe, learner, engine, others, gpu),
            budget=budget,
            cache_tokens=vllm_cache_tokens(recipe, self.shape, memory, gpu) if vllm else None,
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
    remedy = find_remedy(recipe, plan.budget, lambda changed: facts.plan(changed).fits, plan.gpu)
    then = None if remedy is None else facts.plan(with_settings(recipe, remedy))
    raise ValueError(f"{_shortage(plan)}; {_advice(remedy, then)}")


def check_runnable(recipe: Recipe, processes: int = 1) -> None:
    """Raises `ValueError` unless there is one process for every device that the recipe is planned for."""
    devices = recipe.hardware.devices
    if devices != processes:
        memory = " --set hardware.memory_gib=0" if recipe.hardware.memory_gib else ""
        # As the plan has it: an engine beside every rank of the learner.
        shared = " --set cluster.gpus_per_worker=0.5" if _on_gpus(recipe, not recipe.hardware.memory_gib) else ""
        raise ValueError(
            f"the recipe is planned for {devices} devices (hardware.devices), and this is a run of {processes};"
            f" to run on {devices}, add --set cluster.rollout_workers={devices} --set"
            f" cluster.learner_workers={devices}{shared};"
            f" to run on {processes}, add --set hardware.devices={processes}{memory}"
            " (with --dry-run, this says whether it fits and what would make it fit)"
        )


def describe(plan: Plan) -> list[str]:
    """The plan in lines of text."""
    where = "this machine" if plan.asked else "hardware.memory_gib"
    lines = [f"{plan.model}: {plan.parameters:,} parameters"]
    unit = GIB_UNIT if plan.need_gib >= 1 else MIB_UNIT
    for device in plan.devices:
        lines += _held(device, unit)
    lines += [
        f"{unit.column(plan.usable_gib)}  usable: {unit.number(plan.memory_gib)} ({where}) less {MARGIN:.0%}",
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unit:
    """What a plan's memory is printed in."""

    name: str
    per_gib: int

    def number(self, gib: float) -> str:
        """With two decimals; what these would show as nothing with one digit that counts."""
        value = gib * self.per_gib
        return f"{value:.1g}" if 0 < value < 0.005 else f"{value:.2f}"

    def column(self, gib: float) -> str:
        """The same, to the right."""
        return f"{self.number(gib):>8}"


GIB_UNIT, MIB_UNIT = _Unit(name="GiB", per_gib=1), _Unit(name="MiB", per_gib=1024)


def _held(device: Device, unit: _Unit) -> list[str]:
    """What a device holds, in lines of text."""
    lines = [f"Memory of {device.name}, in {unit.name}:"]
    for item in device.items:
        notes = ", ".join(filter(None, (item.note, "" if item.phase == "always" else f"while {item.phase}")))
        lines.append(f"{unit.column(item.gib)}  {item.name}{f' ({notes})' if notes else ''}")
    playing, updating = unit.number(device.phase_gib("playing")), unit.number(device.phase_gib("updating"))
    total = f"at most: {playing} while playing, {updating} while updating"
    return [*lines, f"{unit.column(device.need_gib)}  {', '.join(filter(None, (total, device.together)))}"]


def _on_gpus(recipe: Recipe, asked: bool) -> bool:
    """Whether the devices are CUDA devices: those of this machine if `asked`, else those that the recipe means."""
    device = recipe.model.device
    return is_gpu(device) if asked else device.startswith(("auto", "cuda"))


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
    device = plan.fullest
    worst: Phase = "playing" if device.phase_gib("playing") > device.phase_gib("updating") else "updating"
    held = [item for item in device.items if device.together or item.phase in ("always", worst)]
    largest = sorted(held, key=lambda item: -item.gib)[:3]
    place = "a device" if len(plan.devices) == 1 else device.name
    has = "this machine has" if plan.asked else "hardware.memory_gib is"
    return (
        f"the plan for {plan.model} does not fit: it needs {plan.need_gib:.1f} GiB of {place}, and {has}"
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
