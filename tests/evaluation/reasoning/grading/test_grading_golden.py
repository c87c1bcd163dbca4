"""Replies graded by hand for all tasks: right, wrong, and plausible but wrong."""

import collections
import json
from pathlib import Path

import pytest

from spiral.evaluation.reasoning.grading.pool import GradingItem, GradingPool

TABLES = Path(__file__).parents[3] / "golden_grades"
TASKS = (
    "math500", "aime", "amc23", "olympiadbench", "minerva_math", "gsm8k", "gpqa", "mmlu_pro", "reasoning", "writings",
)  # fmt: skip


def cases(task):
    return [json.loads(line) for line in (TABLES / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_table_covers_every_task():
    counts = {task: collections.Counter(case["expected"] for case in cases(task)) for task in TASKS}
    assert sum(sum(count.values()) for count in counts.values()) >= 1_000
    assert all(count[True] >= 12 and count[False] >= 12 for count in counts.values()), counts
    keys = [(c["answer"], c["reply"], str(c["choices"]), c.get("tolerance")) for task in TASKS for c in cases(task)]
    assert [key for key, number in collections.Counter(keys).items() if number > 1] == []


@pytest.fixture(scope="module")
def pool():
    with GradingPool(time_limit=30) as pool:
        yield pool


@pytest.mark.parametrize("task", TASKS)
def test_every_case_has_the_expected_grade(task, pool):
    wrong = []
    for case in cases(task):
        item = GradingItem(**{key: case.get(key) for key in ("reply", "answer", "alt_answers", "choices", "tolerance")})
        grade = pool.grade_one(item)
        if grade.correct != case["expected"] or grade.timed_out:
            wrong.append(f"{case['answer']!r} against {grade.extracted!r}: {grade.correct}; {case['note']}")
    assert wrong == []
