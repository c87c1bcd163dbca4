"""What the two sides of the step benchmark are given and what they give back.

Each side is a program of its own, in its own environment and process:

    python -m benchmarks.spiral_step RECIPE --steps 2 --out FILE [--set section.key=value]...

It plays and learns `--warmup` steps that do not count and `--steps` that do, and writes one `Report` to FILE. Both
read the same recipe, so the model, games, prompts, budgets and optimizer steps are the same by construction; what was
really done is counted and reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch

from benchmarks.common import peak_resident, versions
from spiral.core.records import Sample
from spiral.runs.recipe import Recipe, load_recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One whole training step: games, credit, update, new weights in the sampler."""

    seconds: float
    generate_seconds: float
    """The part spent playing the games; the rest is learning."""
    games: int
    samples: int
    """Turns that were learned from."""
    prompt_tokens: int
    response_tokens: int
    """Of those samples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a side did in its measured steps."""

    steps: list[Step]
    peak_bytes: int
    versions: dict[str, str]

    def mean(self, field: str) -> float:
        """The mean of a field of `Step` over the measured steps."""
        return float(mean(getattr(step, field) for step in self.steps))

    @property
    def tokens(self) -> float:
        """Prompt and response tokens of the samples of a step."""
        return self.mean("prompt_tokens") + self.mean("response_tokens")


def parser(description: str) -> argparse.ArgumentParser:
    """The options that both sides take."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("recipe", help="a recipe's name or TOML file")
    options.add_argument("--set", action="append", default=[], metavar="section.key=value", dest="overrides")
    options.add_argument("--warmup", type=int, default=1, help="steps that do not count (%(default)s)")
    options.add_argument("--steps", type=int, default=2, help="steps that count (%(default)s)")
    options.add_argument("--threads", type=int, default=1, help="CPU threads of torch (%(default)s)")
    options.add_argument("--out", type=Path, required=True, help="where the report goes, as JSON")
    return options


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe with its overrides, as long as the run is, with torch's number of threads set."""
    torch.set_num_threads(arguments.threads)
    length = f"run.steps={arguments.warmup + arguments.steps}"
    return load_recipe(arguments.recipe, [*arguments.overrides, length, "run.episodes_every=1"])


def step_of(seconds: float, generate_seconds: float, games: int, samples: Sequence[Sample]) -> Step:
    """A step, with its tokens counted from the samples learned from."""
    return Step(
        seconds=seconds,
        generate_seconds=generate_seconds,
        games=games,
        samples=len(samples),
        prompt_tokens=sum(len(sample.prompt_ids) for sample in samples),
        response_tokens=sum(len(sample.action_ids) for sample in samples),
    )


def write_report(file: Path, steps: Sequence[Step], warmup: int) -> None:
    """Writes the steps after the warm-up."""
    report = Report(steps=list(steps[warmup:]), peak_bytes=peak_resident(), versions=versions())
    file.write_text(json.dumps(dataclasses.asdict(report), indent=2), encoding="utf-8")


def read_report(file: Path) -> Report:
    """What `write_report` wrote."""
    values = json.loads(file.read_text(encoding="utf-8"))
    return Report(**{**values, "steps": [Step(**step) for step in values["steps"]]})
