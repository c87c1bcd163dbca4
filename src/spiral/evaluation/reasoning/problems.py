"""The problems of a task: from the hub at a pinned commit, from a file, or made from a seed.

A data file has one JSON object a line: `question` and `answer`, and where there is one `id`, `alt_answers` (other
right answers), `tolerance` (the absolute difference that the question allows) and `choices`, with the letter of the
right one as the answer. Rows as the sets are published in will do as well (`rows.py`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

from spiral.core.seeds import derive_seed
from spiral.evaluation.reasoning.golds import check_golds
from spiral.evaluation.reasoning.rows import LETTERS, fields_of
from spiral.evaluation.reasoning.tasks import Task
from spiral.models.hub import offline_unless_answered

GYM_ITEMS = 100
"""Problems of a seeded task where no limit is given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One question with its right answer."""

    id: str
    question: str
    answer: str
    alt_answers: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    tolerance: float | None = None
    made: tuple[int, int, int] | None = None
    """Of a problem made from a seed: how many were made, the seed, and which of them this is."""

    def asked(self, prompt: str) -> str:
        """The text put to the model."""
        choices = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices or (), strict=False))
        return prompt.format(question=self.question, choices=choices)


def load_problems(task: Task, data: Path | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
    """The problems of a task, or those in the file `data`; `limit` draws so many of them by `seed`, in their order.

    Raises `ValueError` for a damaged file, data of an unexpected size, or where the hub cannot be reached.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"got a limit of {limit} problems; expected 1 or more")
    if task.kind == "gym":
        if data is not None:
            raise ValueError(f"{task.name} makes its problems from a seed; leave out --data")
        from spiral.evaluation.reasoning.procedural import make_problems  # an optional package

        return make_problems(task.name, limit or GYM_ITEMS, seed)
    problems = read_problems(data, task) if data is not None else _from_hub(task)
    if limit is not None and limit < len(problems):
        drawn = random.Random(derive_seed(seed, "limit", task.name)).sample(range(len(problems)), limit)
        problems = [problems[index] for index in sorted(drawn)]
    return [_permuted(problem, seed) for problem in problems] if task.permute else problems


def read_problems(path: Path, task: Task) -> list[Problem]:
    """A data file. Raises `ValueError` that names the line at fault."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # no other line ends: a question may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}; expected a JSONL file with question and answer") from error
    problems, numbers = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            numbers.append(number)
            try:
                problems.append(_problem(json.loads(line), task, f"{path.name}-{number}"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error.msg}, column {error.colno})") from error
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    _check_ids(problems, str(path))
    check_golds(problems, numbers, str(path))
    return problems


def _problem(row: Any, task: Task, default_id: str) -> Problem:
    """Checks one line's fields."""
    if not isinstance(row, dict):
        raise ValueError(f"got {type(row).__name__}; expected an object with question and answer")
    fields = fields_of(row, choice=task.kind == "choice")
    for key in ("question", "answer"):
        if not _is_text(fields.get(key)) or not fields[key].strip():
            raise ValueError(f"{key} is {fields.get(key)!r}; expected text")
    choices: Any = fields.get("choices")
    if task.kind == "choice":
        if not _is_texts(choices) or not 2 <= len(choices) <= len(LETTERS):
            raise ValueError(f"choices is {choices!r}; {task.name} expects a list of 2 to 26 texts")
        if fields["answer"] not in tuple(LETTERS[: len(choices)]):
            raise ValueError(f"answer is {fields['answer']!r}; expected a letter from A to {LETTERS[len(choices) - 1]}")
    alternatives = fields.get("alt_answers") or []
    if not _is_texts(alternatives):
        raise ValueError(f"alt_answers is {alternatives!r}; expected a list of texts")
    if task.kind == "choice" and not set(alternatives) <= set(LETTERS[: len(choices)]):
        raise ValueError(f"alt_answers is {alternatives!r}; expected letters of the choices")
    name = fields.get("id")
    return Problem(
        id=default_id if name is None else str(name),
        question=fields["question"],
        answer=fields["answer"],
        alt_answers=tuple(alternatives) if task.alternatives else (),
        choices=tuple(choices) if task.kind == "choice" else None,
        tolerance=_tolerance(fields["tolerance"] or fields["error"] or None),  # OlympiadBench says "error"
    )


def _tolerance(value: Any) -> float | None:
    """An absolute difference; one without end would make every number right."""
    try:
        tolerance = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tolerance is {value!r}; expected a number") from error
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance is {value!r}; expected a finite number of at least 0")
    return tolerance


def _is_text(value: Any) -> bool:
    """Whether it is text that can be written to a file, too: JSON can spell half a character."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _check_ids(problems: list[Problem], source: str) -> None:
    """Records and comparisons go by id."""
    if not problems:
        raise ValueError(f"{source} holds no problem; expected one JSON object a line")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ValueError(f"{source} has the id {problem.id!r} twice; expected a different one for each problem")
        seen.add(problem.id)


def _from_hub(task: Task) -> list[Problem]:
    """The pinned data set. Raises `ValueError` when it is not what it was."""
    source = task.source
    assert source is not None
    try:
        from datasets import load_dataset  # an optional package
    except ImportError as error:
        raise ValueError(
            f"the problems of {task.name} come from the Hugging Face hub, which takes the package 'datasets';"
            ' pip install "spiral-selfplay[benchmarks]", or give --data FILE.jsonl'
        ) from error
    try:
        with offline_unless_answered():
            rows = load_dataset(source.name, source.config, revision=source.revision, split=source.split)
    except Exception as error:  # the hub's client raises many kinds: no network, a gated set, a damaged cache
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"cannot load {source.name} at {source.revision[:12]} for {task.name}: {reason}. Log in to the hub if the"
            " data set is gated, or give --data FILE.jsonl"
        ) from error
    if len(rows) != source.rows:
        raise ValueError(f"{source.name} at {source.revision[:12]} has {len(rows)} rows; expected {source.rows}")
    problems = [_problem(dict(row), task, f"{task.name}-{index}") for index, row in enumerate(rows)]
    _check_ids(problems, source.name)
    return problems


def _permuted(problem: Problem, seed: int) -> Problem:
    """The choices in an order that the seed and the problem's id fix."""
    assert problem.choices is not None
    order = list(range(len(problem.choices)))
    random.Random(derive_seed(seed, "choices", problem.id)).shuffle(order)
    moved = {LETTERS[index]: LETTERS[place] for place, index in enumerate(order)}
    return dataclasses.replace(
        problem,
        choices=tuple(problem.choices[index] for index in order),
        answer=moved[problem.answer],
        alt_answers=tuple(moved[letter] for letter in problem.alt_answers),
    )
