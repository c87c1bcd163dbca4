r"""Worked examples before a question, for base models: questions of the same kind with solution and boxed answer.

Qwen3's report (arXiv 2505.09388) gives base models five on MMLU-Pro and GPQA, and so does version 3 of the SPIRAL
paper. The examples are the first ones of the data, in its order, so they are the same for every seed:

- mmlu_pro: the validation split, five worked problems a category; a question gets those of its category;
- gpqa_diamond: gpqa_extended with the authors' explanations, of which the Diamond set is a part;
- any task with answers or choices: a data file (`problems.py`), whose rows may hold a worked `solution` and a
  `category`.

A question of the test is never an example, even one that is not drawn: all of them are left out by their text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.evaluation.reasoning.problems import Problem, hub_rows, read_rows, shuffle_choices
from spiral.evaluation.reasoning.tasks import Task, load_task
from spiral.text import last_boxed

MAX_SHOTS = 64
_SOLUTION = ("cot_content", "solution", "explanation", "rationale")
_OPENING = re.compile(r"^\s*(?:A|Answer):\s*")
_CLOSING = re.compile(r"\s*(?:The|So,? the|Therefore,? the) (?:final )?answer is:?\s*\(?[A-Z]\)?\.?\s*$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
    """A problem with its worked solution."""

    problem: Problem
    solution: str

    def __post_init__(self) -> None:
        """Raises `ValueError` for a solution that boxes another answer."""
        boxed = last_boxed(self.solution)
        if self.problem.choices is not None and boxed is not None and boxed.strip() != self.problem.answer:
            raise ValueError(
                f"the worked example {self.problem.id} boxes {boxed!r}, but its answer is {self.problem.answer!r}"
                " (the choices may have been shuffled); expected a solution without a box, which is added"
            )

    @property
    def text(self) -> str:
        """Question, choices, and a solution that ends in the boxed answer."""
        question = "\n\n".join(filter(None, (self.problem.question, self.problem.lettered)))
        end = "" if last_boxed(self.solution) is not None else f"The answer is \\boxed{{{self.problem.answer}}}."
        return f"Question: {question}\n\nSolution: {' '.join(filter(None, (self.solution, end)))}\n\n"


def shots_of_tasks(names: Sequence[str], shots: int, files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """The number of worked examples of each task and the file that they come from, as `load_benchmark` takes them.

    Tasks that have none and no file get none: in the paper only questions with choices have them.

    Raises:
        ValueError: No task has any, or a file is for another task or would not be used.
    """
    unused = sorted(set(files) - set(names)) if shots else sorted(files)
    if unused:
        why = "which is not among the tasks" if shots else "but no number of shots; add it, such as 5"
        raise ValueError(f"got worked examples for {', '.join(unused)}, {why}")
    given = {name: shots if name in files or load_task(name).shots is not None else 0 for name in names}
    if shots and not any(given.values()):
        raise ValueError(
            f"got {shots} shots, but there are no worked examples for {', '.join(names)}; leave out the shots, or give"
            " a file of your own (--shots-data TASK=FILE.jsonl)"
        )
    return {name: {"shots": number, "shots_data": files.get(name)} for name, number in given.items()}


def with_shots(problems: Sequence[Problem], task: Task, shots: int, data: Path | None = None) -> list[Problem]:
    """The problems, which are all of the test, with `shots` worked examples each, from the hub or the file `data`.

    Raises:
        ValueError: The task has no examples, or there are too few.
    """
    if not 1 <= shots <= MAX_SHOTS:
        raise ValueError(f"got {shots} shots; expected 1 to {MAX_SHOTS}")
    pool, source = _pool(task, data), str(data or (task.shots and task.shots.name))
    asked = {_words(problem.question) for problem in problems}
    usable = [shot for shot in pool if _words(shot.problem.question) not in asked]
    found: dict[str, str] = {}
    by_category = all(shot.problem.category for shot in usable) and all(problem.category for problem in problems)
    for problem in problems:
        category = problem.category if by_category else ""
        if category not in found:
            chosen = [shot for shot in usable if not category or shot.problem.category == category][:shots]
            if len(chosen) < shots:
                where = f"of the category {category!r} " if category else ""
                left_out = f" ({len(pool) - len(usable)} others are questions of the test)" if pool != usable else ""
                raise ValueError(
                    f"{task.name}: {source} has {len(chosen)} worked examples {where}for {shots} shots{left_out};"
                    f" expected fewer shots, or more examples with --shots-data {task.name}=FILE.jsonl"
                )
            found[category] = "".join(shot.text for shot in chosen) + "Now answer this question in the same way.\n\n"
    return [dataclasses.replace(problem, shots=found[problem.category if by_category else ""]) for problem in problems]


def _pool(task: Task, data: Path | None) -> list[Shot]:
    """Every worked example that the task has, in the data's order."""
    if data is not None:
        rows: list[tuple[dict[str, Any], Problem]] = [(row, problem) for _, row, problem in read_rows(data, task)]
    elif task.shots is not None:
        rows = hub_rows(task, task.shots, f"--shots-data {task.name}=FILE, with")
    else:
        raise ValueError(
            f"{task.name} is asked without worked examples, and its data has none set apart; leave out --shots, or"
            f" give your own with --shots-data {task.name}=FILE.jsonl"
        )
    shots = [Shot(problem=problem, solution=_solution(row)) for row, problem in rows]
    if not task.permute:
        return shots
    return [dataclasses.replace(shot, problem=shuffle_choices(shot.problem, 0)) for shot in shots]


def _solution(row: dict[str, Any]) -> str:
    """The worked solution of a row without the phrases that open and close it; "" where there is none."""
    found = {str(key).strip().lower(): value for key, value in row.items()}
    text = next((found[key] for key in _SOLUTION if isinstance(found.get(key), str)), "")
    return _CLOSING.sub("", _OPENING.sub("", text)).strip()


def _words(text: str) -> str:
    """A question without case and spaces, to find it again."""
    return "".join(text.casefold().split())
