"""`sweep.toml`: the commands behind one claim, at two scales, and the jobs that they stand for.

    summary = "Specialists, head to head"
    source = "v3, table 4"

    [models]                                  # models that nothing here trains
    base = { full = "Qwen/Qwen3-4B-Base", laptop = "nano" }

    [arms.kuhn]                               # a run: `spiral train` or `spiral sft`
    full = "train kuhn-qwen3-4b-v3"
    laptop = "train nano --steps 40"
    gpu_hours = 200
    hours_from = "v3: 25 hours on 8 H100"

    [data.expert]                             # episodes: `spiral collect`
    [evaluations.random]                      # any command with --json
    each = ["base", "kuhn", "kuhn@16"]
    full = "evaluate {each} --game tictactoe --opponent random"

A command is what a user types after `spiral`. `{kuhn}` is the run of that arm with the same seed, `{kuhn@16}` its
snapshot, `{kuhn*}` its runs with all seeds, separated by commas; `{expert}` a data directory, `{base}` a model; the
name of an evaluation stands for its directories of results; `{each}` for each entry of `each`, `{here}` for the
experiment's folder. Seeds, run directories, --resume and --json are added.
"""

from __future__ import annotations

import dataclasses
import graphlib
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from spiral.core.settings import Section, checked, shown

FILE = "sweep.toml"
Scale = Literal["full", "laptop"]
SCALES: tuple[Scale, ...] = ("full", "laptop")
SEEDS = (14, 42, 100)
"""The seeds of the paper's runs; further ones are 101, 102 and so on."""
RUNS, DATA = ("train", "sft"), ("collect",)
"""The commands of arms and of data."""
EVALUATIONS = ("benchmark", "compare", "evaluate", "exploitability", "patterns", "tournament")
_REFERENCE = re.compile(r"\{(\w+)(\*|@\d+)?\}")
_NAME = re.compile(r"[a-z]\w*", re.ASCII)
_OURS = ("each", "here")


class Model(Section):
    """A model that no arm trains."""

    full: str = Field("", description="Its name at full scale.")
    laptop: str = Field("", description="Its name at laptop scale.")


class Command(Section):
    """One command line of `spiral` at each scale; empty where it is left out."""

    full: str = Field("", description="The command at full scale.")
    laptop: str = Field("", description="The command at laptop scale.")
    each: list[str] = Field(
        [], description="Run the command once for each of these that the scale has; `{each}` stands for it."
    )
    gpu_hours: float = Field(0.0, ge=0, description="GPU hours of the full command, for each seed and each of `each`.")
    hours_from: str = Field("", description="Where the hours are from: a measurement, or what an estimate assumes.")

    @model_validator(mode="after")
    def _hours_have_a_source(self) -> Self:
        if self.full and not self.hours_from:
            raise ValueError("a full command needs gpu_hours and hours_from, which says where they are from")
        return self


class Sweep(Section):
    """The content of `sweep.toml`."""

    summary: str = Field(description="The claim in one line.")
    source: str = Field(description="Where the claim is from, such as 'v3, table 4'.")
    seeds: int = Field(1, ge=1, description="Number of seeds of every arm.")
    models: dict[str, Model] = Field({}, description="Models that no arm trains.")
    arms: dict[str, Command] = Field({}, description="Runs.")
    data: dict[str, Command] = Field({}, description="Collected episodes.")
    evaluations: dict[str, Command] = Field({}, description="What is evaluated.")

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        names = [*self.models, *self.arms, *self.data, *self.evaluations]
        for name in names:
            if not _NAME.fullmatch(name) or name in _OURS:
                raise ValueError(f"the name {shown(name)} is not possible; expected small letters, digits and _")
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} stands for two things; expected a name for each")
        return self

    def commands(self) -> dict[str, Command]:
        """Arms, data and evaluations by name."""
        return {**self.arms, **self.data, **self.evaluations}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One command of an experiment with its seed, before paths are known."""

    name: str
    """The name in `sweep.toml`."""
    item: str
    """Which of `each`, or empty."""
    seed: int
    words: tuple[str, ...]
    """The command line after `spiral`, with references."""
    gpu_hours: float
    hours_from: str

    @property
    def label(self) -> str:
        """The name for people."""
        return f"{self.name}, {self.item}" if self.item else self.name

    @property
    def is_run(self) -> bool:
        """Whether the command makes a run directory."""
        return self.words[0] in RUNS


def load_sweep(folder: Path) -> Sweep:
    """The sweep of an experiment's folder. Raises `ValueError` with one line that names the fault."""
    file = folder / FILE
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"{folder} is not an experiment: it has no {FILE}; give a folder such as experiments/paper/T4"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    try:
        sweep = checked(Sweep, values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for scale in SCALES:
        for name in sweep.commands():
            _check(sweep, scale, name, file)
    return sweep


def seeds_of(count: int) -> tuple[int, ...]:
    """The first seeds: the paper's three, then 101 and up."""
    return tuple(SEEDS[index] if index < len(SEEDS) else 98 + index for index in range(count))


def jobs_of(sweep: Sweep, scale: Scale, seeds: tuple[int, ...]) -> list[Job]:
    """Every command of a scale once for each seed and item, those that others need before them.

    Raises `ValueError` for a scale without commands and for commands that need each other.
    """
    known = {name for name, one in {**sweep.models, **sweep.commands()}.items() if getattr(one, scale)}
    commands = {
        name: command.model_copy(update={"each": [item for item in command.each if item.partition("@")[0] in known]})
        for name, command in sweep.commands().items()
        if name in known
    }
    if not commands:
        raise ValueError(f"there is nothing to run at the scale {scale!r}")
    needs = {name: sorted(_needed(command, scale) & commands.keys()) for name, command in commands.items()}
    try:
        order = [*graphlib.TopologicalSorter(needs).static_order()]
    except graphlib.CycleError as error:
        raise ValueError(f"these commands need each other: {', '.join(error.args[1])}") from error
    order.sort(key=lambda name: name in sweep.evaluations)  # evaluations last, otherwise as sorted
    return [job for name in order for seed in seeds for job in _jobs(name, commands[name], scale, seed)]


def references(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """The names in braces in a command, with what follows: "", "*" or "@STEP"."""
    return [(name, more) for word in words for name, more in _REFERENCE.findall(word)]


def fill(word: str, values: Mapping[str, str]) -> str:
    """A word with its references replaced; keys of `values` are names with what follows them."""
    return _REFERENCE.sub(lambda match: values[match[1] + (match[2] or "")], word)


def _jobs(name: str, command: Command, scale: Scale, seed: int) -> Iterator[Job]:
    text = getattr(command, scale)
    for item in command.each if "{each}" in text else [""]:
        yield Job(
            name=name,
            item=item,
            seed=seed,
            words=tuple(word.replace("{each}", f"{{{item}}}") for word in shlex.split(text)),
            gpu_hours=command.gpu_hours,
            hours_from=command.hours_from,
        )


def _needed(command: Command, scale: Scale) -> set[str]:
    """The names that a command uses."""
    words = [*shlex.split(getattr(command, scale)), *(f"{{{item}}}" for item in command.each)]
    return {name for name, _ in references(tuple(words)) if name not in _OURS}


def _check(sweep: Sweep, scale: Scale, name: str, file: Path) -> None:
    """Raises `ValueError` for a command of the wrong kind, and for names that stand for nothing at this scale."""
    command, where = sweep.commands()[name], f"{file}: {name}.{scale}"
    text = getattr(command, scale)
    if not text:
        return
    try:
        verb = shlex.split(text)[0]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{where}: cannot read the command {shown(text)}: {error}") from error
    expected = RUNS if name in sweep.arms else DATA if name in sweep.data else EVALUATIONS
    if verb not in expected:
        raise ValueError(f"{where}: got the command {shown(verb)}; expected one of {', '.join(expected)}")
    if bool(command.each) != ("{each}" in text):
        raise ValueError(f"{where}: `each` and {{each}} need each other")
    known = {**sweep.models, **sweep.commands()}
    for other in sorted(_needed(command, scale)):
        if other not in known:
            raise ValueError(f"{where}: {{{other}}} stands for nothing; known: {', '.join(known)}")
        if not getattr(known[other], scale) and other not in {item.partition("@")[0] for item in command.each}:
            raise ValueError(f"{where}: {{{other}}} is left out at this scale")
