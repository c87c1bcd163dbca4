r"""The reasoning benchmarks: the source of their problems, their prompts and their sampling.

The protocol is that of the SPIRAL paper (arXiv 2506.24119): temperature 0.6, top-p 0.95, at most 8,192 tokens, the
answer inside `\boxed{}`. Version 3 of the paper takes the mean of 32 samples on AIME24, AIME25 and AMC23 and one sample
elsewhere; version 1 and the released script take four everywhere. Problems come from the Hugging Face hub, each data
set pinned to one commit and checked for its size, or from a local file. A task `reasoning_gym/NAME` generates its
problems from a seed instead (arXiv 2505.24760), so that no model has seen them in training.

Base models get worked examples (shots) before questions with choices, as in Qwen3's report (`shots.py`).
Not supported: tasks that are graded by running code.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, Literal, get_args

from spiral.core.policy import SamplingConfig
from spiral.evaluation.reasoning.procedural import GYM, check_family

SOLVE = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
CHOOSE = (
    "{question}\n\n{choices}\n\nPlease reason step by step, and put the letter of the right choice within \\boxed{{}}."
)
Protocol = Literal["v3", "v1"]
"""A version of the paper, which says how many samples a task takes."""
V1_SAMPLES = 4
"""Of every task, in version 1 and in the released script."""
PAPER_SAMPLING = SamplingConfig(temperature=0.6, top_p=0.95, max_new_tokens=8192)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set on the Hugging Face hub, pinned to one commit."""

    name: str
    revision: str
    rows: int
    config: str | None = None
    split: str = "test"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark."""

    name: str
    size: int
    """Problems in the published set; 0 where they are generated from a seed."""
    kind: Literal["answer", "choice", "gym"]
    source: HubSource | None = None
    prompt: str = SOLVE
    alternatives: bool = True
    """Whether the alternative answers in the data are trusted."""
    permute: bool = False
    """Whether the choices of each problem are shuffled, by the seed."""
    samples: int = 1
    """Replies to each problem in version 3 of the paper."""
    shots: HubSource | None = None
    """Problems with worked solutions; those of the test among them are left out. None where there are none."""
    sampling: SamplingConfig = PAPER_SAMPLING


def _task(name: str, size: int, source: HubSource, kind: Literal["answer", "choice"] = "answer", **more: Any) -> Task:
    prompt = CHOOSE if kind == "choice" else SOLVE
    return Task(name=name, size=size, source=source, kind=kind, prompt=prompt, **more)


TASKS = {
    task.name: task
    for task in (
        _task(
            "math500",
            500,
            HubSource(name="HuggingFaceH4/MATH-500", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", rows=500),
        ),
        _task(
            "aime24",
            30,
            HubSource(name="math-ai/aime24", revision="83a7f387baaa524a8bda0022eac0541582297103", rows=30),
            samples=32,
        ),
        _task(
            "aime25",
            30,
            HubSource(name="math-ai/aime25", revision="563bb8404243c5f09de6ec262f2db674fe5bce9b", rows=30),
            samples=32,
        ),
        _task(
            "amc23",
            40,
            HubSource(name="math-ai/amc23", revision="80815d37005feb82cd7f8fbc6901d5d3eff43057", rows=40),
            samples=32,
        ),
        # The hub's copy lacks one of the 675 problems behind published numbers.
        _task(
            "olympiadbench",
            675,
            HubSource(name="math-ai/olympiadbench", revision="4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84", rows=674),
        ),
        _task(
            "minerva_math",
            272,
            HubSource(name="math-ai/minervamath", revision="ee46ddc498933b1977577953250ca5c66be64f96", rows=272),
            alternatives=False,  # in 43 of 272 problems, published alternatives answer another question
        ),
        _task(
            "gsm8k",
            1319,
            HubSource(
                name="openai/gsm8k", revision="740312add88f781978c0658806c59bc2815b9866", rows=1319, config="main"
            ),
        ),
        _task(
            "gpqa_diamond",
            198,
            HubSource(
                name="Idavidrein/gpqa",
                revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
                rows=198,
                config="gpqa_diamond",
                split="train",
            ),
            "choice",
            permute=True,
            shots=HubSource(  # holds the test's questions too, which `shots.py` leaves out
                name="Idavidrein/gpqa",
                revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
                rows=546,
                config="gpqa_extended",
                split="train",
            ),
        ),
        _task(
            "mmlu_pro",
            12032,
            HubSource(name="TIGER-Lab/MMLU-Pro", revision="b189ec765aa7ed75c8acfea42df31fdae71f97be", rows=12032),
            "choice",
            shots=HubSource(
                name="TIGER-Lab/MMLU-Pro",
                revision="b189ec765aa7ed75c8acfea42df31fdae71f97be",
                rows=70,
                split="validation",
            ),
        ),
    )
}


PAPER = "paper"
"""The name of the eight tasks of the paper together."""
PAPER_TASKS = ("math500", "aime24", "aime25", "amc23", "olympiadbench", "minerva_math", "gpqa_diamond", "mmlu_pro")


def task_names(names: Sequence[str]) -> list[str]:
    """The names of tasks without repetition, with the eight of the paper in place of "paper"."""
    return list(dict.fromkeys(each for name in names for each in (PAPER_TASKS if name == PAPER else (name,))))


def samples_of(task: Task, protocol: str) -> int:
    """The number of replies to each problem in a version of the paper. Raises `ValueError` for an unknown version."""
    if protocol not in get_args(Protocol):
        raise ValueError(f"got the protocol {protocol!r}; expected {' or '.join(get_args(Protocol))}")
    return V1_SAMPLES if protocol == "v1" else task.samples


def load_task(name: str) -> Task:
    """The task called `name`. Raises `ValueError` for an unknown one."""
    if name.startswith(GYM):
        check_family(name)
        return Task(name=name, size=0, kind="gym")
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"there is no task {name!r}{hint} Known: {', '.join(TASKS)}, and {GYM}NAME")
