"""From jobs to command lines: every job has a directory, whose name follows from what the command computes.

    runs/experiments/train-nano-14-1f0c9a52/      evaluations: evaluate-0b7d11e3/
      job.json      the command, its status, and the seconds that it took in all attempts
      log.txt       standard error of all attempts
      result.json   what the command printed with --json
      run/          of arms: the run directory; data/ of collected episodes; results/ of evaluations
      .lock         held by the process that runs the command

The name ends in a hash over the command, its recipe, the weights of models on this machine, and the hashes of the jobs
that it uses. So experiments share the jobs that are the same, and a changed recipe makes a new run. Changes of the code
do not change the hash: to run a job again, remove its directory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.printable import printable
from spiral.evaluation.results import plain_name
from spiral.experiments.sweep import DATA, RUNS, Job, Scale, Sweep, fill, jobs_of, references
from spiral.models.loading import model_directory
from spiral.models.store import BUILT_IN, FETCHABLE
from spiral.models.weights_hash import weights_sha256

ROOT = Path("runs") / "experiments"
"""The directory of all jobs where none is given, so that experiments share them."""
CheckCommand = Callable[[Sequence[str]], Any]
"""Checks a command line without running it, raises `ValueError`, and returns what it computes (a recipe) as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job with its directory and its whole command line."""

    job: Job
    key: str
    """Eight hexadecimal digits that stand for what is computed."""
    directory: Path
    words: tuple[str, ...]
    """The whole command line after `spiral`."""
    needs: tuple[str, ...]
    """The keys of the jobs that must be done before."""

    @property
    def command(self) -> str:
        """The command line for people."""
        return printable("spiral " + shlex.join(self.words), max_line=100_000)

    @property
    def job_file(self) -> Path:
        """Status and seconds."""
        return self.directory / "job.json"

    @property
    def result_file(self) -> Path:
        """What the command printed."""
        return self.directory / "result.json"

    @property
    def log_file(self) -> Path:
        """Standard error of all attempts."""
        return self.directory / "log.txt"

    @property
    def output(self) -> Path:
        """The run, data or results that the command makes."""
        return self.directory / _output_name(self.job)

    def state(self) -> dict[str, Any]:
        """The content of `job.json`; empty before the first attempt and for a damaged file."""
        try:
            values = json.loads(self.job_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def done(self) -> bool:
        """Whether the command has succeeded and what it made is still there."""
        made = self.output.is_dir() or self.job.words[0] not in (*RUNS, *DATA)
        return made and self.result_file.is_file() and self.state().get("status") == "done"

    def result(self) -> dict[str, Any]:
        """What the command printed. Raises `ValueError` when the file is damaged."""
        try:
            return dict(json.loads(self.result_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{self.result_file} is damaged; remove {self.directory} to run it again") from error


def prepare(
    folder: Path, sweep: Sweep, scale: Scale, seeds: tuple[int, ...], root: Path, check: CheckCommand
) -> list[Prepared]:
    """The jobs of an experiment with their directories, in an order in which each follows what it uses.

    Args:
        folder: The experiment's folder.
        sweep: Its content.
        scale: Which commands.
        seeds: The seeds of the arms. Jobs that are the same with each seed have the same key.
        root: The directory of all jobs.
        check: Checks the command lines.

    Raises:
        ValueError: A command cannot be right; the message names it.
    """
    made: dict[tuple[str, int], list[Prepared]] = {}
    for job in jobs_of(sweep, scale, seeds):
        words, used = _resolved(job, folder, sweep, scale, seeds, made)
        try:
            more = ["--seed", str(job.seed)] if job.is_run else ["--out", "."] if job.words[0] in DATA else []
            computed = check([*words, *more])
        except ValueError as error:
            raise ValueError(f"{folder}, {job.label}: {error}; the command is: spiral {shlex.join(words)}") from error
        key = _key(words, computed, used, folder)
        made.setdefault((job.name, job.seed), []).append(_prepared(job, words, key, used, root))
    return [one for group in made.values() for one in group]


def _resolved(
    job: Job, folder: Path, sweep: Sweep, scale: Scale, seeds: tuple[int, ...],
    made: Mapping[tuple[str, int], list[Prepared]],
) -> tuple[list[str], list[Prepared]]:  # fmt: skip
    """The command line with paths and models in place of references, and the jobs that it uses."""
    values = {"here": str(folder)}
    used: dict[str, Prepared] = {}
    for name, more in references(job.words):
        if name in sweep.models:
            values[name + more] = getattr(sweep.models[name], scale) + more
        elif name != "here":
            found = [one for seed in (seeds if more == "*" else (job.seed,)) for one in made[name, seed]]
            used |= {one.key: one for one in found}
            values[name + more] = ",".join(dict.fromkeys(str(one.output) for one in found)) + more.strip("*")
    words = []
    for word in job.words:
        filled = fill(word, values)
        alone = word[1:-1] in sweep.evaluations and word == f"{{{word[1:-1]}}}"
        words += filled.split(",") if alone else [filled]
    return words, [*used.values()]


def _key(words: Sequence[str], computed: Any, used: Sequence[Prepared], folder: Path) -> str:
    """The hash over what a command computes, whatever directories are called."""
    models = [word for word in words if word in (*BUILT_IN, *FETCHABLE)]
    if isinstance(computed, dict):
        models.append(computed["model"]["path"])
    text = json.dumps([words, computed, [_weights(model) for model in models]], sort_keys=True)
    for one in used:
        text = text.replace(str(one.directory), one.key)
    return hashlib.sha256(text.replace(str(folder), ".").encode()).hexdigest()[:8]


def _prepared(job: Job, words: list[str], key: str, used: Sequence[Prepared], root: Path) -> Prepared:
    """Adds the options that every command of its kind gets."""
    about = [words[0], plain_name(Path(words[1]).stem), str(job.seed), key] if job.is_run else [words[0], key]
    directory = root / "-".join(about)
    output, more = str(directory / _output_name(job)), ["--json"]
    if job.is_run:
        more = ["--run-dir", output, "--seed", str(job.seed), "--resume", "--json"]
    elif job.words[0] in DATA:
        more = ["--out", output, "--json"]
    needs = tuple(one.key for one in used)
    return Prepared(job=job, key=key, directory=directory, words=(*words, *more), needs=needs)


def _output_name(job: Job) -> str:
    return "run" if job.is_run else "data" if job.words[0] in DATA else "results"


def _weights(model: str) -> str:
    """The hash of a model's weights on this machine, or its name."""
    try:
        directory = model_directory(model)
    except (ValueError, OSError):
        return model
    return (weights_sha256(directory) if os.path.isdir(directory) else None) or model
