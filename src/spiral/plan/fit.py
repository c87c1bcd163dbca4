r"""Whether a run fits its devices, and when it does not, which setting would make it fit.

    plan = check_plan(recipe, config)       # raises ValueError with one line when it does not fit
    print(*describe(plan), sep="\n")

A device needs what is always held and the larger of the two phases of a step, playing and updating; that is compared
with its memory less a margin. The formulas are in `memory.py` and `tokens.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from spiral.inference.settings import check_heads
from spiral.plan.disk import DiskUse, disk_use
from spiral.plan.memory import (
    Device,
    Item,
    ModelShape,
    Phase,
    engine_items,
    lay_out,
    learner_items,
    model_shape,
    past_self_items,
    publishes_from_gpu,
    trainable_parameters,
    vllm_cache_tokens,
)
from spiral.plan.opponents import (
    OpponentMemory,
    SurveyedOpponent,
    plan_opponent,
    reserved_shares,
    survey_opponents,
)
from spiral.plan.tokens import GameTokens, TokenBudget, survey_games, token_budget
from spiral.policies.opponents import OpponentConfig
from spiral.runs.hardware import device_memory_gib, is_gpu
from spiral.runs.recipe import Recipe
from spiral.text import ChatCodec

MARGIN = 0.05
"""Share of a device's memory that a plan leaves free."""
MAX_DEVICES = 64
"""Most devices that a remedy proposes."""
MIN_NEW_TOKENS = 64
"""Smallest `sampling.max_new_tokens` that a remedy proposes."""
SHARES = tuple(percent / 100 for percent in range(5, 100, 5))
"""Values of `engine.memory_share` that a remedy may propose."""

Settings = dict[str, bool | int | float | str]
"""`section.key` to a value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory of every kind of device, and tokens of one step."""

    model: str
    parameters: int
    memory_gib: float
    """Memory of a device."""
    from_machine: bool
    """Whether `memory_gib` is that of this machine, rather than the recipe's `hardware.memory_gib`."""
    gpu: bool
    devices: tuple[Device, ...]
    budget: TokenBudget
    disk: DiskUse
    cache_tokens: int | None
    """Tokens whose keys and values vLLM has room for; None for an engine that takes what it needs."""
    opponents: tuple[OpponentMemory, ...] = ()
    past_self_gib: float = 0.0
    """Main memory that each engine needs besides to play past selves and opponents that share it; counted among the
    items where there is no GPU."""

    @property
    def items(self) -> tuple[Item, ...]:
        """The items of all devices."""
        return tuple(item for device in self.devices for item in device.items)

    @property
    def fullest(self) -> Device:
        """The device that needs the most memory."""
        return max(self.devices, key=lambda device: device.need_gib)

    def phase_gib(self, phase: Phase) -> float:
        """The most memory that any device uses in a phase of the step."""
        return max(device.phase_gib(phase) for device in self.devices)

    @property
    def need_gib(self) -> float:
        """The most memory that any device uses at once."""
        return self.fullest.need_gib

    @property
    def usable_gib(self) -> float:
        """A device's memory less the margin."""
        return (1 - MARGIN) * self.memory_gib

    @property
    def cache_fits(self) -> bool:
        """Whether every vLLM has room for one context, without which it does not start."""
        own = self.cache_tokens is None or self.cache_tokens >= self.budget.context
        return own and all(opponent.fits for opponent in self.opponents)

    @property
    def fits(self) -> bool:
        """Whether the run fits."""
        return self.need_gib <= self.usable_gib and self.cache_fits


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Planner:
    """Inputs that stay the same when a remedy changes settings."""

    shape: ModelShape
    games: tuple[GameTokens, ...]
    trainable: int | None
    this_machine: bool
    opponents: tuple[SurveyedOpponent, ...]

    def plan(self, recipe: Recipe) -> Plan:
        """The plan of a recipe with the same model and games.

        Raises `ValueError` for an engine over several devices that do not share out the model's heads.
        """
        check_heads(recipe.engine.tensor_parallel, self.shape.heads, self.shape.key_heads)
        from_machine = self.this_machine or not recipe.hardware.memory_gib
        memory = device_memory_gib(recipe.model.device) if from_machine else recipe.hardware.memory_gib
        budget = token_budget(recipe, self.games, self.shape.context)
        trainable = trainable_parameters(recipe, self.shape) if self.trainable is None else self.trainable
        vllm = recipe.engine.kind == "vllm"
        if (vllm or reserved_shares(recipe)) and math.isinf(memory):
            raise ValueError("the memory of this machine is not known; set hardware.memory_gib")
        gpu = _on_gpus(recipe, from_machine)
        if gpu and (from_machine or recipe.hardware.devices > 1):  # otherwise the recipe may be meant for CPUs
            recipe.cluster.check_gpus()
        learner = learner_items(recipe, self.shape, budget, trainable, gpu)
        opponents = tuple(plan_opponent(opponent, recipe, budget, memory, gpu) for opponent in self.opponents)
        engine = engine_items(recipe, self.shape, budget, memory, gpu)
        others = engine_items(recipe, self.shape, budget, memory, gpu, evaluates=False)
        for opponent in opponents:
            engine, others = [*engine, *opponent.items], [*others, *opponent.others]
        return Plan(
            model=recipe.model.path,
            parameters=self.shape.parameters,
            memory_gib=memory,
            from_machine=from_machine,
            gpu=gpu,
            devices=lay_out(recipe, learner, engine, others, gpu),
            budget=budget,
            disk=disk_use(recipe, self.shape.parameters, trainable),
            cache_tokens=vllm_cache_tokens(recipe, self.shape, memory, gpu) if vllm else None,
            opponents=opponents,
            past_self_gib=sum(item.gib for item in past_self_items(recipe, self.shape)),
        )


def make_plan(
    recipe: Recipe,
    config: Any,
    *,
    codec: ChatCodec | None = None,
    trainable_parameters: int | None = None,
    this_machine: bool = False,
) -> Plan:
    """The plan of a recipe.

    Args:
        recipe: The recipe.
        config: The transformers configuration of its model.
        codec: Counts prompt tokens exactly; without it they are estimated.
        trainable_parameters: Their number; computed from the recipe if None.
        this_machine: Plan for the memory of this machine, even if the recipe has `hardware.memory_gib`.
    """
    return _planner(recipe, config, codec, trainable_parameters, this_machine).plan(recipe)


def check_plan(
    recipe: Recipe,
    config: Any,
    *,
    codec: ChatCodec | None = None,
    trainable_parameters: int | None = None,
    this_machine: bool = False,
) -> Plan:
    """The same. Raises `ValueError` for a run that does not fit, with the largest items and a setting that helps."""
    planner = _planner(recipe, config, codec, trainable_parameters, this_machine)
    plan = planner.plan(recipe)
    if plan.fits:
        return plan
    remedy = find_remedy(recipe, plan.budget, lambda changed: planner.plan(changed).fits, plan.gpu)
    changed = None if remedy is None else planner.plan(with_settings(recipe, remedy))
    raise ValueError(f"{_shortage(plan)}; {_advice(remedy, changed)}")


def check_runnable(recipe: Recipe, processes: int = 1) -> None:
    """Raises `ValueError` unless there is one process for every device that the recipe is planned for."""
    devices = recipe.hardware.devices
    if devices != processes:
        memory = " --set hardware.memory_gib=0" if recipe.hardware.memory_gib else ""
        # as the plan assumes: an engine beside every rank of the learner, or one over several GPUs of its own
        share = 0.5 if recipe.engine.tensor_parallel == 1 else recipe.engine.tensor_parallel
        shared = f" --set cluster.gpus_per_worker={share:g}" if _on_gpus(recipe, not recipe.hardware.memory_gib) else ""
        raise ValueError(
            f"the recipe is planned for {devices} devices (hardware.devices), but this run has {processes} process"
            f"{'' if processes == 1 else 'es'};"
            f" to run on {devices}, add --set cluster.rollout_workers={devices} --set"
            f" cluster.learner_workers={devices}{shared};"
            f" to run on {processes}, add --set hardware.devices={processes}{memory}"
            " (with --dry-run to see whether it fits)"
        )


def describe(plan: Plan) -> list[str]:
    """The plan in lines of text."""
    where = "this machine" if plan.from_machine else "hardware.memory_gib"
    lines = [f"{plan.model}: {plan.parameters:,} parameters"]
    unit = GIB_UNIT if plan.need_gib >= 1 else MIB_UNIT
    for device in plan.devices:
        lines += _device_lines(device, unit)
    lines += [
        f"{unit.column(plan.usable_gib)}  usable: {unit.number(plan.memory_gib)} ({where}) less {MARGIN:.0%}",
        *(
            f"Not counted: opponent {opponent.name}: {opponent.not_counted}"
            for opponent in plan.opponents
            if opponent.not_counted
        ),
        *(
            [
                "Past selves, and opponents that share it, play with the policy's engine, whose own weights are in main"
                " memory meanwhile:"
                f" {unit.number(plan.past_self_gib)} {unit.name} an engine"
            ]
            if plan.past_self_gib
            else []
        ),
        "Tokens of a step:",
    ]
    budget = plan.budget
    lines += [
        f"  {game.game}: {game.episodes:,} games of about {game.turns:.1f} turns (at most {game.max_turns}),"
        f" prompts of about {game.prompt:,.0f} tokens (longest {game.max_prompt:,})"
        for game in budget.games
    ]
    left = budget.context_left
    room = f"{left:,} left" if left >= 0 else f"{-left:,} too few, so that long replies are cut short"
    return [
        *lines,
        f"  replies of at most {budget.response:,} tokens; a context of {budget.context:,} tokens, {room}",
        f"  about {budget.turns:,.0f} turns (at most {budget.max_turns:,}) and {budget.tokens:,.0f} tokens"
        f" (at most {budget.max_tokens:,})",
        _disk_line(plan.disk),
    ]


def _disk_line(disk: DiskUse) -> str:
    """The disk that the run's models need."""
    unit = GIB_UNIT if disk.gib >= 1 else MIB_UNIT
    parts = [
        f"{count} {what if count == 1 else plural} of {unit.number(size)}"
        for count, what, plural, size in (
            (disk.checkpoints, "checkpoint", "checkpoints", disk.checkpoint_gib),
            (disk.snapshots, "snapshot", "snapshots", disk.snapshot_gib),
            (disk.past_selves, "past self", "past selves", disk.snapshot_gib),
        )
        if count
    ]
    return f"Disk, in {unit.name}: {unit.number(disk.gib)} ({', '.join(parts)})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unit:
    """The unit in which memory is printed."""

    name: str
    per_gib: int

    def number(self, gib: float) -> str:
        """With two decimals, or one significant digit where these would be 0.00."""
        value = gib * self.per_gib
        return f"{value:.1g}" if 0 < value < 0.005 else f"{value:.2f}"

    def column(self, gib: float) -> str:
        """The same, aligned to the right."""
        return f"{self.number(gib):>8}"


GIB_UNIT, MIB_UNIT = _Unit(name="GiB", per_gib=1), _Unit(name="MiB", per_gib=1024)


def _device_lines(device: Device, unit: _Unit) -> list[str]:
    """The items of a device in lines of text."""
    lines = [f"Memory of {device.name}, in {unit.name}:"]
    for item in device.items:
        notes = ", ".join(filter(None, (item.note, "" if item.phase == "always" else f"while {item.phase}")))
        lines.append(f"{unit.column(item.gib)}  {item.name}{f' ({notes})' if notes else ''}")
    playing, updating = unit.number(device.phase_gib("playing")), unit.number(device.phase_gib("updating"))
    total = f"at most: {playing} while playing, {updating} while updating"
    return [*lines, f"{unit.column(device.need_gib)}  {', '.join(filter(None, (total, device.together)))}"]


def _on_gpus(recipe: Recipe, from_machine: bool) -> bool:
    """Whether the devices are CUDA devices: on this machine, or by the recipe's `model.device`."""
    device = recipe.model.device
    return is_gpu(device) if from_machine else device.startswith(("auto", "cuda"))


def _planner(
    recipe: Recipe, config: Any, codec: ChatCodec | None, trainable: int | None, this_machine: bool
) -> _Planner:
    shape = model_shape(config)
    return _Planner(
        shape=shape,
        games=survey_games(recipe, codec, shape.context),
        trainable=trainable,
        this_machine=this_machine,
        opponents=survey_opponents(recipe, this_machine),
    )


def _shortage(plan: Plan) -> str:
    """Says what does not fit."""
    short = [opponent for opponent in plan.opponents if not opponent.fits]
    own = plan.cache_tokens is None or plan.cache_tokens >= plan.budget.context
    if plan.need_gib <= plan.usable_gib and own and short:
        return (
            f"the plan for {plan.model} does not fit: opponent.{short[0].name}.memory_share leaves the opponent's vLLM"
            f" room for the keys and values of {short[0].cache_tokens:,} tokens, but it needs room for one context of"
            f" {short[0].context:,} (opponent.{short[0].name}.context)"
        )
    if plan.need_gib <= plan.usable_gib:
        return (
            f"the plan for {plan.model} does not fit: engine.memory_share leaves vLLM room for the keys and values of"
            f" {plan.cache_tokens:,} tokens, but it needs room for one context of {plan.budget.context:,}"
        )
    device = plan.fullest
    worst: Phase = "playing" if device.phase_gib("playing") > device.phase_gib("updating") else "updating"
    held = [item for item in device.items if device.together or item.phase in ("always", worst)]
    largest = sorted(held, key=lambda item: -item.gib)[:3]
    where = "a device" if len(plan.devices) == 1 else device.name
    has = "this machine has" if plan.from_machine else "hardware.memory_gib is"
    return (
        f"the plan for {plan.model} does not fit: it needs {plan.need_gib:.1f} GiB of {where}, and {has}"
        f" {plan.memory_gib:.1f}, of which {plan.usable_gib:.1f} can be used; the largest items are "
        + ", ".join(f"{item.name} ({item.gib:.1f})" for item in largest)
    )


def _advice(remedy: Settings | None, changed: Plan | None) -> str:
    """Says which settings would make it fit."""
    if remedy is None or changed is None:
        return "no setting makes it fit; use a smaller model, or a device with more memory"
    settings = " and ".join(f"{key} = {_toml(value)}" for key, value in remedy.items())
    return f"it fits with {settings} ({changed.need_gib:.1f} GiB)"


def _toml(value: bool | int | float | str) -> str:
    """A setting as a recipe writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with some settings changed."""
    for name, value in settings.items():
        section, _, key = name.partition(".")
        if section == "opponent":
            own, _, key = key.rpartition(".")
            table = recipe.opponent.get(own, OpponentConfig()).model_copy(update={key: value})
            recipe = recipe.model_copy(update={section: {**recipe.opponent, own: table}})
            continue
        changed = getattr(recipe, section).model_copy(update={key: value})
        recipe = recipe.model_copy(update={section: changed})
    return recipe


def find_remedy(recipe: Recipe, budget: TokenBudget, fits: Callable[[Recipe], bool], gpu: bool) -> Settings | None:
    """Settings with which `fits` holds: a single setting if there is one, otherwise several, or None.

    The cheapest settings are tried first, those that change the experiment last. A single setting gets the smallest
    change that helps; of several together all but the last go as far as they can.
    """
    families = [list(family) for family in _families(recipe, budget, gpu)]
    for family in families:
        for settings in family:
            if fits(with_settings(recipe, settings)):
                return settings
    together: Settings = {}
    for family in families:
        for settings in family:
            if fits(with_settings(recipe, together | settings)):
                return together | settings
        together |= family[-1] if family else {}
    return None


def _families(recipe: Recipe, budget: TokenBudget, gpu: bool) -> Iterator[Iterator[Settings]]:
    """For each adjustable setting, candidate changes, smallest first."""
    yield _checkpointing(recipe)
    yield _halved("learner.tokens_per_microbatch", recipe.learner.tokens_per_microbatch, budget.max_sample)
    if gpu:
        yield _publish(recipe)
    for name, share in reserved_shares(recipe).items():
        yield _opponent_shares(f"opponent.{name}.memory_share", share)
    if recipe.engine.kind == "vllm":
        yield _shares(recipe.engine.memory_share)
        yield _halved("engine.context", budget.context, budget.max_sample)
    else:
        yield _halved("engine.max_rows", recipe.engine.max_rows, 1)
    yield _compute(recipe)
    if gpu:  # more processes on a CPU would share the same memory
        yield _devices(recipe)
    yield _halved("sampling.max_new_tokens", recipe.sampling.max_new_tokens, MIN_NEW_TOKENS)


def _checkpointing(recipe: Recipe) -> Iterator[Settings]:
    if not recipe.learner.gradient_checkpointing:
        yield {"learner.gradient_checkpointing": True}


def _halved(name: str, value: int, minimum: int) -> Iterator[Settings]:
    """Half, a quarter, and so on, down to `minimum`."""
    while value > minimum:
        value = max(minimum, value // 2)
        yield {name: value}


def _shares(share: float) -> Iterator[Settings]:
    """Other shares, the nearest first."""
    others = [other for other in SHARES if abs(other - share) > 1e-9]
    for other in sorted(others, key=lambda other: (round(abs(other - share), 9), other)):
        yield {"engine.memory_share": other}


def _opponent_shares(name: str, share: float) -> Iterator[Settings]:
    """Larger shares, in which a context fits, and then smaller ones, which leave memory to others; nearest first."""
    for other in [other for other in SHARES if other > share + 1e-9]:
        yield {name: other}
    for other in [other for other in reversed(SHARES) if other < share - 1e-9]:
        yield {name: other}


def _compute(recipe: Recipe) -> Iterator[Settings]:
    if recipe.model.compute == "float32":
        yield {"model.compute": "bfloat16"}


def _publish(recipe: Recipe) -> Iterator[Settings]:
    """Publish through main memory, so that no copy of the weights stays on the learner's GPUs."""
    if publishes_from_gpu(recipe):
        yield {"cluster.publish": "object_store"}


def _devices(recipe: Recipe) -> Iterator[Settings]:
    """Twice as many devices, and so on, with as many learner workers in a cluster.

    Only a learner that computes in bfloat16 is sharded.
    """
    devices = recipe.hardware.devices
    precision: Settings = {} if recipe.model.compute == "bfloat16" else {"model.compute": "bfloat16"}
    spread = recipe.cluster.rollout_workers > 0
    while 2 * devices <= MAX_DEVICES:
        devices *= 2
        yield precision | {"hardware.devices": devices} | ({"cluster.learner_workers": devices} if spread else {})
