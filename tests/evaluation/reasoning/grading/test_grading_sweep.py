"""Every answer of the data files against itself in many writings, and against near misses.

The files come from the directory in SPIRAL_BENCHMARKS, or else `../shared/benchmarks` beside the project. What is not
graded as it should be is listed in `golden_grades/exceptions.jsonl` with its reason.
"""

import functools
import json
import os
import random
from pathlib import Path

import pytest

from grading_writings import choice_near_misses, choice_writings, near_misses, writings
from spiral.evaluation.reasoning.grading.pool import GradingItem, GradingPool

DATA = Path(os.environ.get("SPIRAL_BENCHMARKS") or Path(__file__).parents[5] / "shared" / "benchmarks")
FILES = {
    "math500": 500,
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "olympiadbench": 675,
    "minerva_math": 272,
    "gsm8k_test": 1319,
    "mmlu_pro_1000": 1000,
}
SAMPLE = 25
EXCEPTIONS = Path(__file__).parents[3] / "golden_grades" / "exceptions.jsonl"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no data in {DATA}; set SPIRAL_BENCHMARKS to the directory of the benchmark files"
)


@functools.cache
def items(name):
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@functools.cache
def exceptions():
    lines = EXCEPTIONS.read_text(encoding="utf-8").splitlines()
    return {(e["file"], e["id"], e["case"]): e["reason"] for e in map(json.loads, lines)}


def cases(item):
    """(name of the case, reply, whether it is right)."""
    answer, choices = item["answer"], item.get("choices")
    right = choice_writings(answer, choices) if choices else writings(answer)
    wrong = choice_near_misses(answer, choices) if choices else near_misses(answer)
    assert len(set(right.values())) >= 5, item["id"]
    assert len(set(wrong.values())) >= 3, item["id"]
    return [(f"right: {name}", reply, True) for name, reply in right.items()] + [
        (f"wrong: {name}", reply, False) for name, reply in wrong.items()
    ]


def failures(name, chosen, pool):
    """The cases that are not graded as they should be, or listed although they are."""
    found = []
    for item in chosen:
        for case, reply, expected in cases(item):
            given = GradingItem(reply=reply, answer=item["answer"], choices=item.get("choices"))
            as_expected = pool.grade_one(given).correct == expected
            if as_expected == ((name, item["id"], case) in exceptions()):
                found.append((item["id"], case, reply))
    return found


@pytest.fixture(scope="module")
def pool():
    with GradingPool(time_limit=30) as pool:
        yield pool


@pytest.mark.parametrize("name", FILES)
def test_a_sample_of_answers_in_all_writings_and_near_misses(name, pool):
    assert failures(name, random.Random(0).sample(items(name), SAMPLE), pool) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_all_answers_in_all_writings_and_near_misses(name, pool):
    everything = items(name)
    assert len(everything) == FILES[name]
    assert failures(name, everything, pool) == []


def test_alternative_answers_equal_the_answer_with_listed_exceptions(pool):
    found = []
    for item in items("minerva_math"):
        for index, other in enumerate(item["alt_answers"]):
            reply = rf"\boxed{{{other}}}"
            same = pool.grade_one(GradingItem(reply=reply, answer=item["answer"])).correct
            if same == (("minerva_math", item["id"], f"alt_answers[{index}]") in exceptions()):
                found.append((item["id"], item["answer"], other))
            alternative = GradingItem(reply=reply, answer=item["answer"], alt_answers=item["alt_answers"])
            assert pool.grade_one(alternative).correct, (item["id"], other)
    assert found == []


def test_every_exception_has_a_reason_and_an_item():
    known = {(name, item["id"]) for name in FILES for item in items(name)}
    assert all(reason for reason in exceptions().values())
    assert [key for key in exceptions() if key[:2] not in known] == []
