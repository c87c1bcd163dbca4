"""The problems of a task: from the hub at a pinned commit, from a file, or generated from a seed.

A data file has one JSON object per line: `question` and `answer`, and optionally `id`, `alt_answers` (other right
answers), `tolerance` (the absolute error that the question allows) and `choices`, in which case the answer is a letter.
The rows of published data sets are read too, whatever the task: an answer under `answer` or `final_answer`, after
`####` or in the last box of a worked answer, or in the last box of a `solution`; choices under `choices`, `options` or
in GPQA's columns, the right one by letter or by index.

The answers of a data file are checked: a reply that boxes just the answer must be graded as right. An answer that
looks like a worked solution passes that check, yet no real reply would match it, so there is a warning.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.seeds import derive_seed
from spiral.evaluation.reasoning.grading import shared_pool
from spiral.evaluation.reasoning.grading.choices import LETTERS
from spiral.evaluation.reasoning.grading.pool import GradingItem
from spiral.evaluation.reasoning.procedural import FIRST_SEED, generate_problems
from spiral.evaluation.reasoning.tasks import HubSource, Task
from spiral.models.hub import offline_unless_answered
from spiral.text import last_boxed

logger = logging.getLogger(__name__)

GYM_ITEMS = 100
"""Problems of a generated task when no limit is given."""
MAX_ANSWER_WORDS = 12
"""An answer with more words is a sentence."""
MAX_QUOTED_LINES = 3
MAX_QUOTED_LENGTH = 80

_QUESTION = ("question", "problem")
_ID = ("id", "unique_id", "question_id", "record id")
_GPQA_CORRECT = "correct answer"
_GPQA_INCORRECT = ("incorrect answer 1", "incorrect answer 2", "incorrect answer 3")
_FINAL_MARK = "####"
"""Precedes the final answer in GSM8K."""
_Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One question with its right answer."""

    id: str
    question: str
    answer: str
    alt_answers: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    tolerance: float | None = None
    generated: tuple[int, int, int] | None = None
    """For a generated problem: how many were generated, the seed, and this problem's index."""
    category: str = ""
    """The subject, where the data has one; worked examples are of the same."""
    shots: str = ""
    """Worked examples that stand before the question."""

    def prompt(self, template: str) -> str:
        """The text put to the model: `template` with the question and the lettered choices filled in."""
        return self.shots + template.format(question=self.question, choices=self.lettered)

    @property
    def lettered(self) -> str:
        """The choices, one a line."""
        return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices or (), strict=False))


def load_problems(
    task: Task,
    data: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    prepare: Callable[[list[Problem]], list[Problem]] = list,
) -> list[Problem]:
    """The problems of a task, or those in the file `data`; `limit` draws that many by `seed`, keeping their order.

    `prepare` is called with all problems before any is drawn; its result takes their place. Raises `ValueError` for a
    damaged file, data of an unexpected size, or when the hub cannot be reached.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"got a limit of {limit} problems; expected 1 or more")
    if task.kind == "gym":
        items = limit or GYM_ITEMS
        if data is not None:
            raise ValueError(f"{task.name} generates its problems from a seed; leave out --data")
        if seed + items > FIRST_SEED:
            raise ValueError(
                f"got the seed {seed:,} for {items:,} problems of {task.name}; seeds from {FIRST_SEED:,} on are those"
                " that training draws its problems from, so expected a smaller one"
            )
        return _generate(task.name, items, seed)
    problems = prepare(read_problems(data, task) if data is not None else _from_hub(task))
    if limit is not None and limit < len(problems):
        drawn = random.Random(derive_seed(seed, "limit", task.name)).sample(range(len(problems)), limit)
        problems = [problems[index] for index in sorted(drawn)]
    return [shuffle_choices(problem, seed) for problem in problems] if task.permute else problems


def _generate(task: str, items: int, seed: int) -> list[Problem]:
    return [
        Problem(id=f"{seed}-{index}", question=question, answer=answer, generated=(items, seed, index))
        for index, (question, answer) in enumerate(generate_problems(task, items, seed))
    ]


def read_problems(path: Path, task: Task) -> list[Problem]:
    """The problems of a data file. Raises `ValueError` that names the offending line."""
    rows = read_rows(path, task)
    problems = [problem for _, _, problem in rows]
    _check_ids(problems, str(path))
    check_answers(problems, [number for number, _, _ in rows], str(path))
    return problems


def read_rows(path: Path, task: Task) -> list[tuple[int, dict[str, Any], Problem]]:
    """The number, the fields and the problem of every line of a data file. Raises `ValueError` that names a line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines(): a question may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}; expected a JSONL file with question and answer") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
                rows.append((number, row, _problem(row, task, f"{path.name}-{number}")))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: invalid JSON ({error.msg}, column {error.colno})") from error
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    return rows


def has_choices(path: Path) -> bool:
    """Whether the problems of a data file are questions with choices, by its first line; False if it is damaged."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            row = json.loads(next((line for line in file if line.strip()), "null"))
    except (OSError, ValueError):
        return False  # reading the file reports it
    found = {str(key).strip().lower() for key, value in row.items() if value} if isinstance(row, dict) else set()
    return bool(found & {"choices", "options", _GPQA_CORRECT})


def check_answers(problems: Sequence[Problem], numbers: Sequence[int], source: str) -> None:
    """Raises `ValueError` for answers that no reply can match; warns about answers that look like worked solutions.

    Args:
        problems: The problems of a data file.
        numbers: The line number of each problem.
        source: The file's name in messages.
    """
    pool = shared_pool()
    wrong = [
        (number, problem.answer)
        for number, problem in zip(numbers, problems, strict=True)
        if not pool.grade_one(_boxed_answer(problem)).correct
    ]
    if wrong:
        raise ValueError(
            f"{source}: {len(wrong)} of {len(problems)} answers are graded as wrong when a reply boxes exactly them:"
            f" {_quote(wrong)}; expected the final answer alone, such as 18 or \\frac{{1}}{{2}}"
        )
    worked = [
        (number, problem.answer)
        for number, problem in zip(numbers, problems, strict=True)
        if problem.choices is None and _looks_worked(problem.answer)
    ]
    if worked:
        logger.warning(
            "%s: %d of %d answers look like worked solutions, so a reply with only the final answer will be graded as"
            " wrong: %s; expected the final answer alone, or after ####, or in a \\boxed{} of a field solution",
            source,
            len(worked),
            len(problems),
            _quote(worked),
        )


def _boxed_answer(problem: Problem) -> GradingItem:
    """A reply that boxes the right answer and says nothing else."""
    return GradingItem(
        reply=f"\\boxed{{{problem.answer}}}",
        answer=problem.answer,
        choices=problem.choices,
        tolerance=problem.tolerance,
    )


def _looks_worked(answer: str) -> bool:
    """Whether an answer is more than a final one: several lines that are not a matrix, or a sentence."""
    lines = [line for line in answer.splitlines() if line.strip()]
    words = [word for word in answer.split() if word.strip(".,;:!?()").isalpha()]
    is_multiline = len(lines) > 1 and "\\begin" not in answer
    return "<<" in answer or is_multiline or len(words) > MAX_ANSWER_WORDS


def _quote(answers: Sequence[tuple[int, str]]) -> str:
    """The first few lines and their answers, shortened."""
    quoted = [
        f"line {number}: {answer if len(answer) <= MAX_QUOTED_LENGTH else answer[:MAX_QUOTED_LENGTH] + '...'!r}"
        for number, answer in answers[:MAX_QUOTED_LINES]
    ]
    return ", ".join([*quoted, *(["..."] if len(answers) > MAX_QUOTED_LINES else [])])


def _from_hub(task: Task) -> list[Problem]:
    """The problems of the pinned data set. Raises `ValueError` when it cannot be loaded or has another size."""
    assert task.source is not None
    problems = [problem for _, problem in hub_rows(task, task.source)]
    _check_ids(problems, task.source.name)
    return problems


def hub_rows(task: Task, source: HubSource, instead: str = "--data") -> list[tuple[dict[str, Any], Problem]]:
    """The fields and the problem of every row of a pinned data set; `instead` is the option that takes a file.

    Raises `ValueError` when it cannot be loaded or has another size.
    """
    try:
        from datasets import load_dataset  # an optional package
    except ImportError as error:
        raise ValueError(
            f"the problems of {task.name} come from the Hugging Face hub, which needs the package 'datasets';"
            f" pip install datasets, or give {instead} FILE.jsonl"
        ) from error
    try:
        with offline_unless_answered():
            rows = load_dataset(source.name, source.config, revision=source.revision, split=source.split)
    except Exception as error:  # the hub's client raises many kinds: no network, a gated set, a damaged cache
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"cannot load {source.name} at {source.revision[:12]} for {task.name}: {reason}. Log in to the hub if the"
            f" data set is gated, or give {instead} FILE.jsonl"
        ) from error
    if len(rows) != source.rows:
        raise ValueError(f"{source.name} at {source.revision[:12]} has {len(rows)} rows; expected {source.rows}")
    return [(dict(row), _problem(dict(row), task, f"{task.name}-{index}")) for index, row in enumerate(rows)]


def _check_ids(problems: list[Problem], source: str) -> None:
    """Ids must be unique: records and comparisons refer to problems by id."""
    if not problems:
        raise ValueError(f"{source} holds no problem; expected one JSON object per line")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ValueError(f"{source} has the id {problem.id!r} twice; expected a different one for each problem")
        seen.add(problem.id)


def shuffle_choices(problem: Problem, seed: int) -> Problem:
    """The choices in an order that follows from the seed and the problem's id."""
    assert problem.choices is not None
    order = list(range(len(problem.choices)))
    random.Random(derive_seed(seed, "choices", problem.id)).shuffle(order)
    new_letter = {LETTERS[old]: LETTERS[new] for new, old in enumerate(order)}
    return dataclasses.replace(
        problem,
        choices=tuple(problem.choices[index] for index in order),
        answer=new_letter[problem.answer],
        alt_answers=tuple(new_letter[letter] for letter in problem.alt_answers),
    )


def _problem(row: Any, task: Task, default_id: str) -> Problem:
    """One row as a problem, with all its fields checked."""
    if not isinstance(row, dict):
        raise ValueError(f"got {type(row).__name__}; expected an object with question and answer")
    fields = _fields(row, choice=task.kind == "choice")
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
    problem_id = fields.get("id")
    return Problem(
        id=default_id if problem_id is None else str(problem_id),
        question=fields["question"],
        answer=fields["answer"],
        alt_answers=tuple(alternatives) if task.alternatives else (),
        choices=tuple(choices) if task.kind == "choice" else None,
        tolerance=_tolerance(fields["tolerance"] or fields["error"] or None),  # OlympiadBench says "error"
        category=fields["category"] if _is_text(fields["category"]) else "",
    )


def _tolerance(value: Any) -> float | None:
    """An absolute error; an infinite one would accept every number."""
    try:
        tolerance = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tolerance is {value!r}; expected a number") from error
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance is {value!r}; expected a finite number of at least 0")
    return tolerance


def _is_text(value: Any) -> bool:
    """Whether the value is text that can be written to a file; JSON can hold lone surrogates, which cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _fields(row: _Row, *, choice: bool) -> dict[str, Any]:
    """A published row, or a line of a data file, with the field names of a data file; missing fields are None.

    Raises `ValueError` when two fields give different answers. `choice` says whether the task has choices.
    """
    found = {str(key).strip().lower(): value for key, value in row.items()} | dict(row)  # such as AIME's "Problem"
    fields = {
        "id": _first(found, _ID),
        "question": _first(found, _QUESTION),
        **{key: found.get(key) for key in ("alt_answers", "tolerance", "error")},
        "category": found.get("category"),
    }
    if not choice:
        return {**fields, "answer": _answer(found)}
    choices = _choices(found)
    return {**fields, "choices": choices, "answer": _letter(found, choices)}


def _first(row: _Row, keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _answer(row: _Row) -> Any:
    """The right answer, from whichever field holds it; whole numbers and lists as text."""
    final = row.get("final_answer")
    answer = _as_text(row.get("answer") if final is None else final)
    if answer is None or answer == "":
        solution = row.get("solution")
        texts = solution if isinstance(solution, list) else [solution]
        answer = next((box for text in reversed(texts) if (box := last_boxed(str(text))) is not None), answer)
        if answer is None and solution is not None:
            raise ValueError(f"the row has no answer, and its solution has no box: {solution!r}")
    if isinstance(answer, str) and _FINAL_MARK in answer:
        return answer.rpartition(_FINAL_MARK)[2].strip().replace(",", "")
    boxed = last_boxed(answer) if isinstance(answer, str) else None
    return answer if boxed is None else boxed


def _as_text(value: Any) -> Any:
    """A number as text, a list of answers joined by commas; anything else unchanged."""
    if isinstance(value, list) and value and all(isinstance(_as_text(item), str) for item in value):
        return ", ".join(_as_text(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _choices(row: _Row) -> Any:
    """The choices; for GPQA's columns the right one first."""
    choices = _first(row, ("choices", "options"))
    if choices is None and _GPQA_CORRECT in row:
        return [str(row.get(column)).strip() for column in (_GPQA_CORRECT, *_GPQA_INCORRECT)]
    return [str(_as_text(item)) for item in choices] if isinstance(choices, list) else choices


def _letter(row: _Row, choices: Any) -> Any:
    """The letter of the right choice, which may also be given as an index from 0."""
    if _GPQA_CORRECT in row and row.get("answer") is None:
        return LETTERS[0]
    answer, index = row.get("answer"), row.get("answer_index")
    by_index = _letter_of_index(index, choices)
    if answer is None:
        return by_index
    letter = _letter_of_index(answer, choices) if isinstance(answer, int) else answer
    if by_index is not None and letter != by_index:
        raise ValueError(f"answer is {answer!r} and answer_index {index!r}, which is {by_index}; expected the same")
    return letter


def _letter_of_index(index: Any, choices: Any) -> Any:
    """The letter of the choice at `index`; anything else unchanged, so that the error can show it."""
    is_index = isinstance(index, int) and not isinstance(index, bool) and isinstance(choices, list)
    return LETTERS[index] if is_index and 0 <= index < min(len(choices), len(LETTERS)) else index
