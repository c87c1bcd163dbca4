"""The rows in which the benchmarks are published, read as a question, its answer and its choices.

The hub's rows and the lines of a data file go through here alike, so that a copy of a published set means the same
from either. What a row says is found by its fields, whatever the task: an answer under `answer` or `final_answer`,
after `####` or in its last box where it is worked out first, or in the last box of a `solution`; choices under
`choices`, `options` or in GPQA's columns, the right one by its letter or its index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spiral.text import last_boxed

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
QUESTION = ("question", "problem")
NAME = ("id", "unique_id", "question_id", "record id")
RIGHT, WRONG = "correct answer", ("incorrect answer 1", "incorrect answer 2", "incorrect answer 3")
"""GPQA's columns."""
FINAL = "####"
"""What stands before the final answer in GSM8K."""
Row = Mapping[str, Any]


def fields_of(row: Row, *, choice: bool) -> dict[str, Any]:
    """A published row, or a line of a data file, in the form of the latter; fields that it lacks are None.

    Raises `ValueError` for an answer that two fields give differently. `choice`: whether the task has choices.
    """
    found = {str(key).strip().lower(): value for key, value in row.items()} | dict(row)  # such as AIME's "Problem"
    fields = {
        "id": _first(found, NAME),
        "question": _first(found, QUESTION),
        **{key: found.get(key) for key in ("alt_answers", "tolerance", "error")},
    }
    if not choice:
        return {**fields, "answer": _answer(found)}
    choices = _choices(found)
    return {**fields, "choices": choices, "answer": _letter(found, choices)}


def _first(row: Row, keys: tuple[str, ...]) -> Any:
    """The first of the fields that says anything."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _answer(row: Row) -> Any:
    """The gold answer, wherever the data set keeps it; whole numbers and lists as text."""
    final = row.get("final_answer")
    answer = _written(row.get("answer") if final is None else final)
    if answer is None or answer == "":
        solution = row.get("solution")
        texts = solution if isinstance(solution, list) else [solution]
        answer = next((box for text in reversed(texts) if (box := last_boxed(str(text))) is not None), answer)
        if answer is None and solution is not None:
            raise ValueError(f"it has no answer and no box in its solution: {solution!r}")
    if isinstance(answer, str) and FINAL in answer:
        return answer.rpartition(FINAL)[2].strip().replace(",", "")
    boxed = last_boxed(answer) if isinstance(answer, str) else None
    return answer if boxed is None else boxed


def _written(value: Any) -> Any:
    """A number as text, a list of answers with commas; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(_written(item), str) for item in value):
        return ", ".join(_written(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _choices(row: Row) -> Any:
    """The choices; of GPQA's columns the right one first."""
    choices = _first(row, ("choices", "options"))
    if choices is None and RIGHT in row:
        return [str(row.get(column)).strip() for column in (RIGHT, *WRONG)]
    return [str(_written(item)) for item in choices] if isinstance(choices, list) else choices


def _letter(row: Row, choices: Any) -> Any:
    """The letter of the right choice, which may be given as an index from 0, too."""
    if RIGHT in row and row.get("answer") is None:
        return LETTERS[0]
    answer, index = row.get("answer"), row.get("answer_index")
    by_index = _of_index(index, choices)
    if answer is None:
        return by_index
    letter = _of_index(answer, choices) if isinstance(answer, int) else answer
    if by_index is not None and letter != by_index:
        raise ValueError(f"answer is {answer!r} and answer_index {index!r}, which is {by_index}; expected the same")
    return letter


def _of_index(index: Any, choices: Any) -> Any:
    """The letter of a choice; what is no index of one as it is, for the error to show."""
    is_index = isinstance(index, int) and not isinstance(index, bool) and isinstance(choices, list)
    return LETTERS[index] if is_index and 0 <= index < min(len(choices), len(LETTERS)) else index
