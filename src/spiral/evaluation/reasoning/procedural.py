"""Problems generated from a seed by reasoning-gym (arXiv 2505.24760), graded by its own verifiers.

They cannot have been in anyone's training data: the same seed gives the same problems, another seed gives new ones.
"""

from __future__ import annotations

import difflib
import functools
import re
from typing import Any

from spiral.evaluation.reasoning.levels import settings_of
from spiral.text.latex import latex_to_lines, latex_to_text

GYM = "reasoning_gym/"
"""Prefix of these tasks' names; the rest is the family's name in reasoning-gym."""
CORRECT = 0.999
"""Smallest verifier score that counts as correct; partial credit does not."""
FIRST_SEED = 1_000_000_000
"""Seeds from here on generate the problems that are games; benchmarks use those below."""
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def check_family(task: str) -> None:
    """Raises `ValueError` unless reasoning-gym has the task's family and is installed."""
    known = families()
    family = task.removeprefix(GYM)
    if family not in known:
        near = difflib.get_close_matches(family, known, n=1)
        hint = f"; did you mean {GYM}{near[0]}?" if near else "."
        raise ValueError(f"reasoning-gym has no task family {family!r}{hint} It has {len(known)}, such as gcd")


def generate_problems(task: str, items: int, seed: int, level: int = 0) -> list[tuple[str, str]]:
    """`items` pairs of question and answer; the answer is empty where only the verifier knows it.

    `level` is one of `levels`, or 0 for the family's own settings.
    """
    return [
        (str(entry["question"]), "" if entry["answer"] is None else str(entry["answer"]))
        for entry in _dataset(task, items, seed, level)
    ]


def verifier_score(task: str, items: int, seed: int, index: int, answer: str, level: int = 0) -> float:
    """The verifier's score, from 0 to 1, of an answer to problem `index` of `generate_problems` with these arguments.

    The verifier gets the answer as written and in several plainer spellings; the best score counts. Raises what the
    verifier raises when it accepts none of them.
    """
    dataset = _dataset(task, items, seed, level)
    scores: list[float] = []
    error: Exception | None = None
    for spelling in _spellings(answer):
        try:
            scores.append(float(dataset.score_answer(spelling, dataset[index])))
        except Exception as raised:  # every verifier parses replies in its own way
            error = raised
        if scores and scores[-1] >= CORRECT:
            break
    if error is not None and not scores:
        raise error
    return max(scores)


def _spellings(answer: str) -> list[str]:
    """An answer as written, on one line, as lines, with ^ for powers, and as a number without separators."""
    typed = latex_to_lines(answer)
    number = typed.replace(",", "") if _THOUSANDS.fullmatch(typed) else typed
    return list(dict.fromkeys((answer, latex_to_text(answer), typed, typed.replace("**", "^"), number)))


@functools.lru_cache(maxsize=4)
def _dataset(task: str, items: int, seed: int, level: int) -> Any:
    import reasoning_gym

    family = task.removeprefix(GYM)
    return reasoning_gym.create_dataset(family, size=items, seed=seed, **settings_of(family, level))


@functools.cache
def families() -> list[str]:
    """The families of reasoning-gym. Raises `ValueError` unless it is installed."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ValueError(
            "tasks reasoning_gym/NAME need the package reasoning-gym; pip install reasoning-gym"
        ) from error
    return sorted(set(DATASETS) - {"composite"})
