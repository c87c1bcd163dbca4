"""Problems made from a seed by reasoning-gym (arXiv 2505.24760), graded by its own verifiers.

Nobody can have trained on them: the same seed gives the same problems, another seed new ones.
"""

from __future__ import annotations

import difflib
import functools
import re
from typing import Any

from spiral.evaluation.reasoning.problems import Problem
from spiral.evaluation.reasoning.tasks import GYM
from spiral.text.latex import latex_to_lines, latex_to_text

_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
RIGHT = 0.999
"""A verifier's score from which an answer counts as right; partial credit does not."""


def check_family(task: str) -> None:
    """Raises `ValueError` for a family that reasoning-gym does not have."""
    families = _families()
    family = task.removeprefix(GYM)
    if family not in families:
        near = difflib.get_close_matches(family, families, n=1)
        hint = f"; did you mean {GYM}{near[0]}?" if near else "."
        raise ValueError(f"reasoning-gym has no task family {family!r}{hint} It has {len(families)}, such as gcd")


def make_problems(task: str, items: int, seed: int) -> list[Problem]:
    """So many problems of a family."""
    return [
        Problem(
            id=f"{seed}-{index}",
            question=str(entry["question"]),
            answer="" if entry["answer"] is None else str(entry["answer"]),
            made=(items, seed, index),
        )
        for index, entry in enumerate(_made(task, items, seed))
    ]


def gym_score(task: str, items: int, seed: int, index: int, answer: str) -> float:
    """The verifier's score, from 0 to 1, of an answer to problem `index` of those made.

    The answer is put to it as it stands and without LaTeX dress, and the better score counts. Raises what the verifier
    raises when it reads the answer as it stands and in every other way.
    """
    made = _made(task, items, seed)
    scores: list[float] = []
    error: Exception | None = None
    for reading in _readings(answer):
        try:
            scores.append(float(made.score_answer(reading, made[index])))
        except Exception as raised:  # each verifier parses what a model wrote in its own way
            error = raised
        if scores and scores[-1] >= RIGHT:
            break
    if error is not None and not scores:
        raise error
    return max(scores)


def _readings(answer: str) -> list[str]:
    """An answer as it stands, on one line, as lines, and as a number without separators."""
    typed = latex_to_lines(answer)
    number = typed.replace(",", "") if _THOUSANDS.fullmatch(typed) else typed
    return list(dict.fromkeys((answer, latex_to_text(answer), typed, typed.replace("**", "^"), number)))


@functools.lru_cache(maxsize=4)
def _made(task: str, items: int, seed: int) -> Any:
    """The family's data set, which makes its entries and scores answers to them."""
    import reasoning_gym

    return reasoning_gym.create_dataset(task.removeprefix(GYM), size=items, seed=seed)


def _families() -> list[str]:
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ValueError(
            'tasks reasoning_gym/NAME need the package reasoning-gym; pip install "spiral-selfplay[benchmarks]"'
        ) from error
    return sorted(set(DATASETS) - {"composite"})
